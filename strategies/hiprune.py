"""HiPrune: anchors of a middle tower layer with their neighbours, and the most attended patches of a deep one.

Source: Liu et al., HiPrune: Training-Free Visual Token Pruning via Hierarchical Attention in Vision-Language Models,
arXiv:2508.00553; Danielement321/HiPrune.
Kept as published in the code: the neighbours to the left and right of a patch at the end of a row are those of the next
row, and a neighbour beyond the image is its first or last patch (``edges: clip``); the paper drops it (``drop``).
The object layer is the authors' index 8 of CLIP's 24, at a third of the depth in other towers.
We differ: where anchors and their neighbours would be more than are kept there are fewer anchors; the authors' code
stops with an error there. Of equal scores the lower index wins. In any-resolution neighbours are those of one tile, and
all tiles share one budget.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from strategies.evidence import PLACES, RECEIVED_ATTENTION, EvidenceView
from strategies.limits import Range
from strategies.scores import descending_order

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
    anchors = min(round(keep * alpha / GROUP), keep // GROUP)
    anchor_A = view.by_falling(MIDDLE)[:anchors]
    square_V, row_V, column_V = view.read(PLACES).long().unbind(dim=1)
    width, last = column_V.amax(), row_V.amax() * column_V.amax() - 1
    place_V = ((row_V - 1) * width + column_V - 1).where(square_V > 0, -1)
    one = torch.ones_like(width)
    around_A4 = place_V[anchor_A][:, None] + torch.stack((-one, one, -width, width))
    if edges == "clip":
        around_A4 = around_A4.clamp(min=0).minimum(last)
    near_VA = (place_V[:, None, None] == around_A4).any(dim=2) & (square_V[:, None] == square_V[anchor_A])
    first_V = (near_VA.any(dim=1) & (place_V >= 0)).index_fill(0, anchor_A, True)
    deep_V = view.read(DEEP).mean(dim=1).masked_fill(first_V, torch.inf)
    return descending_order(deep_V)[:keep].sort().values
