"""Qwen2-VL and Qwen2.5-VL, in the form of Hugging Face."""
