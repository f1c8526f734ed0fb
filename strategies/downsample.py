"""The control that reviewers ask for: the image itself at a lower resolution, which has fewer tokens to begin with.

Source: Liao et al., Are We Using the Right Benchmark: An Evaluation Framework for Visual Token Compression Methods, ACL
2026, arXiv:2510.07143; Chenfei-Liao/VTC-Bench. It beats many methods there, and tells which questions need more.
Nothing is chosen here: whoever asks the model shows it a smaller image (``Strategy.smaller``), and the decoder is given
what the tower makes of that. A model that looks at each image in its own size (Qwen2-VL), the authors' case, makes as
many tokens of it as with a lower ``max_pixels``: ``rank`` at most. CLIP's tower knows one size: an image of m x m
patches is given its position embeddings stretched bicubically, by transformers' ``interpolate_pos_encoding``.
In a picture of the kept places each token stands at the patch in the middle of what it covers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from strategies.view import TokenView


def squares(side: int) -> list[int]:
    """The numbers of tokens that smaller squares have, ascending."""
    return [cells**2 for cells in range(1, side + 1)]


def middles(whole: tuple[int, int], smaller: tuple[int, int]) -> Tensor:
    """Where the tokens of a smaller image stand in the grid of the whole one.

    Args:
        whole: its rows and columns.
        smaller: rows and columns, of each at most as many.

    Returns:
        (K,) int64 on the host, ascending, unique.
    """
    row_K, column_K = (
        (2 * torch.arange(few) + 1) * many // max(2 * few, 1) for many, few in zip(whole, smaller, strict=True)
    )
    return (row_K[:, None] * whole[1] + column_K).flatten()


def downsample(view: TokenView, keep: int) -> Tensor:
    """Where a square's tokens would stand; the tokens themselves are none of the view's.

    Args:
        view: of a square of tokens.
        keep: a square number, 0 <= keep <= V.

    Returns:
        (keep,) int64, ascending, unique.
    """
    side, cells = math.isqrt(view.visual), math.isqrt(keep)
    assert (side**2, cells**2) == (view.visual, keep), f"{keep} of {view.visual} tokens is no square of a square"
    return middles((side, side), (cells, cells)).to(view.device)
