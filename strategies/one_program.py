"""Choices of many small steps as one program an image, where there is a GPU and Triton.

A step is too small for a GPU: by PyTorch's operators it is some fifteen launches of a few microseconds each, and the
host that launches them is what everybody waits for (``docs/performance.md``). Elsewhere, and as the reference in the
tests, a plain form stays beside each program.
"""

from __future__ import annotations

import torch
from torch import Tensor

try:
    import triton as triton  # for whoever has a program
    import triton.language as tl
except ImportError:  # no GPU build
    triton = tl = None

MOST_TOKENS = 8192  # of an image that a program holds
TILE_VALUES = 8192  # that it takes at a time


def in_one_program(likeness_BVV: Tensor) -> bool:
    """Whether a program can take all steps of an image, by the likenesses of its tokens to one another."""
    on_device = triton is not None and likeness_BVV.is_cuda and likeness_BVV.dtype == torch.float32
    return bool(on_device and likeness_BVV.shape[-1] <= MOST_TOKENS)
