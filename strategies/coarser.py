"""Two controls that choose nothing: the square of visual tokens made coarser, whatever it shows.

``pool`` averages k x k neighbours, as LLaVA-OneVision does with the frames of a video (Li et al., arXiv:2408.03326;
LLaVA-VL/LLaVA-NeXT, llava/model/llava_arch.py, ``get_2dPool``, average). ``downsample_features`` resamples the square
to m x m bilinearly, each new token a weighted mean of all that it covers, as Pillow resizes images. Both act on what
the decoder is given, after the projector, and feed rows in raster order; a rank counts them.
We differ from ``get_2dPool``: its ``bilinear`` reads the four nearest tokens alone, and drops the rest.
In a picture of the kept places each row stands at the patch in the middle of what it covers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from strategies.evidence import without_nan
from strategies.scores import lifted
from strategies.view import Evidence, TokenView


def pooled_ranks(side: int) -> list[int]:
    """Numbers of tokens that whole blocks make of side x side, ascending."""
    return [cells**2 for cells in range(1, side + 1) if side % cells == 0]


def resampled_ranks(side: int) -> list[int]:
    """All squares up to side x side, ascending."""
    return [cells**2 for cells in range(1, side + 1)]


def middles(view: TokenView, keep: int) -> Tensor:
    """The patch in the middle of each cell; of an even number of patches the one after the middle.

    Args:
        view: of a square of tokens.
        keep: a square number of cells, 0 <= keep <= V.

    Returns:
        (keep,) int64, ascending, unique.
    """
    side, cells = math.isqrt(view.visual), math.isqrt(keep)
    assert (side**2, cells**2) == (view.visual, keep), f"{keep} of {view.visual} tokens is no square of a square"
    middle_M = (2 * torch.arange(cells, device=view.device) + 1) * side // max(2 * cells, 1)
    return (middle_M[:, None] * side + middle_M).flatten()


def pool_rows(views: Sequence[TokenView], kept_BK: Tensor) -> Tensor:
    """(B, K, D) the mean of each block."""
    cells = math.isqrt(kept_BK.shape[1])
    return _rows(views, lambda square_DSS: avg_pool2d(square_DSS, square_DSS.shape[-1] // cells))


def downsample_rows(views: Sequence[TokenView], kept_BK: Tensor) -> Tensor:
    """(B, K, D) the square resampled."""
    size = (math.isqrt(kept_BK.shape[1]),) * 2
    return _rows(
        views, lambda square_DSS: interpolate(square_DSS[None], size, mode="bilinear", antialias=True).squeeze(0)
    )


def _rows(views: Sequence[TokenView], coarser: Callable[[Tensor], Tensor]) -> Tensor:
    """Of one square after the other: in float32 at least, hidden states are large."""
    side = math.isqrt(views[0].visual)
    squares = (lifted(view.hidden_VD).T.unflatten(1, (side, side)) for view in views)
    made_BKD = torch.stack([coarser(square_DSS).flatten(1).T for square_DSS in squares])
    return without_nan(made_BKD, Evidence.HIDDEN).to(views[0].hidden_VD.dtype)  # all tokens are in some row
