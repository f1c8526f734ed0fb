"""HiPrune: anchors of a middle tower layer with their neighbours, and the most attended patches of a deep one.

Source: Liu et al., HiPrune: Training-Free Visual Token Pruning via Hierarchical Attention in Vision-Language Models,
arXiv:2508.00553; Danielement321/HiPrune.
Kept as published in the code: the neighbours to the left and right of a patch at the end of a row are those of the next
row, and a neighbour beyond the image is its first or last patch (``edges: clip``); the paper drops it (``drop``).
The object layer is the authors' index 8 of CLIP's 24, at a third of the depth in other towers.
We differ: where anchors and their neighbours would be more than are kept there are fewer anchors; the authors' code
stops with an error there. Of equal scores the lower index wins. In any-resolution neighbours are those of one tile, and
all tiles share one budget; of several images each has rows as wide as its own.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from strategies import several
from strategies.evidence import PLACES, RECEIVED_ATTENTION, EvidenceView
from strategies.images import image_of
from strategies.limits import Range
from strategies.several import Views

MIDDLE, DEEP = f"{RECEIVED_ATTENTION}@8/24", f"{RECEIVED_ATTENTION}@-2"
NEEDS = frozenset({MIDDLE, DEEP, PLACES})
GROUP = 5  # an anchor and its four neighbours


def hiprune(
    view: EvidenceView,
    keep: int,
    *,
    alpha: Annotated[float, Range(0, 1)] = 0.1,
    edges: Literal["clip", "drop"] = "clip",
) -> Tensor:
    """Keep anchors, their neighbours, and fill up with the patches that the deep layer attends to most.

    Args:
        view: what patches receive of the attention in both layers, mean over heads and over all rows, is read.
        keep: tokens to keep, 0 <= keep <= V.
        alpha: the share of them that anchors and neighbours have.
        edges: what becomes of a neighbour above the first or below the last row.

    Returns:
        (keep,) int64, ascending, unique.
    """
    return together([view], keep, alpha=alpha, edges=edges)[0]


def together(views: Views, keep: int, *, alpha: float = 0.1, edges: str = "clip") -> Tensor:
    """(B, keep) the same of several images with as many tokens."""
    anchors = min(round(keep * alpha / GROUP), keep // GROUP)
    anchor_BA = several.by_falling(views, MIDDLE)[:, :anchors]
    square_BV, row_BV, column_BV = several.read(views, PLACES).long().unbind(dim=2)
    own_BVA = image_of(square_BV)[:, :, None] == image_of(square_BV.gather(1, anchor_BA))[:, None]
    width_BA = (column_BV[:, :, None] * own_BVA).amax(dim=1)  # of the image that an anchor is in, as all below
    last_BA = (row_BV[:, :, None] * own_BVA).amax(dim=1) * width_BA - 1
    place_BVA = (row_BV[:, :, None] - 1) * width_BA[:, None] + column_BV[:, :, None] - 1
    one_BA = torch.ones_like(width_BA)
    aside_BA4 = torch.stack((-one_BA, one_BA, -width_BA, width_BA), dim=2)
    around_BA4 = place_BVA.gather(1, anchor_BA[:, None])[:, 0, :, None] + aside_BA4
    if edges == "clip":
        around_BA4 = around_BA4.clamp(min=0).minimum(last_BA[:, :, None])
    same_BVA = square_BV[:, :, None] == square_BV.gather(1, anchor_BA)[:, None]
    near_BVA = (place_BVA[:, :, :, None] == around_BA4[:, None]).any(dim=3) & same_BVA
    first_BV = (near_BVA.any(dim=2) & (square_BV > 0)).scatter(1, anchor_BA, True)
    deep_BV = several.means(views, DEEP).masked_fill(first_BV, torch.inf)
    return several.falling(deep_BV)[:, :keep].sort(dim=1).values
