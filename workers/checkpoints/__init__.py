"""Checkpoints as their authors publish them: where the files lie, what they hold, and how their tensors are named."""
