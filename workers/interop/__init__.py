"""Pruned models inside other evaluation harnesses."""
