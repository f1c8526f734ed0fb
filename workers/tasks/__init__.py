"""Benchmarks: samples, prompts and the rules that score an answer."""
