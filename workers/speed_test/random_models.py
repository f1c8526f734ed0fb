"""The models with random weights that the speed test knows, by the names of their shapes."""

from __future__ import annotations

import torch

from strategies.errors import UsageError
from workers.families.model import Model
from workers.speed_test import random_llava, random_qwen

SHAPES = (*random_llava.SHAPES, *random_qwen.SHAPES)


def random_model(shape: str, dtype: torch.dtype, device: str, seed: int, offload: int | str = "auto") -> Model:
    """Make a model of a known shape.

    Args:
        shape: a name of ``SHAPES``.
        dtype: of weights and computation.
        device: as torch names it; the weights are drawn there.
        seed: of the weights.
        offload: decoder layers in host memory, as ``model.offload`` says.

    Raises:
        UsageError: unknown shape.
        ModelError: the device is too small, or has fewer layers than are to stay in host memory.
    """
    if shape in random_qwen.SHAPES:
        return random_qwen.random_qwen(shape, dtype, device, seed, offload)
    if shape in random_llava.SHAPES:
        return random_llava.random_llava(shape, dtype, device, seed, offload)
    raise UsageError(f"unknown shape '{shape}' (known: {', '.join(SHAPES)})")
