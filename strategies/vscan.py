"""VScan: half of the tokens by a global, half by a local scan of the tower, the others merged; a further cut inside.

Source: Zhang et al., VScan: Rethinking Visual Token Reduction for Efficient Large Vision-Language Models, TMLR 2026,
arXiv:2505.22654; Tencent/SelfEvolvingAgent, VScan.
The global scan goes by the class token's attention in the tower's layer before the last, the local one by that of the
authors' index 5 of CLIP's 24 (in other towers at the same depth), best in each of 4 x 4 windows first. What neither
keeps is averaged into the kept token that is nearest after the projector. At layer 16 of the decoder a third is left,
by the last token's attention: 96 and 32 tokens are 64 on average over 32 layers, as the authors count.
We differ: the local scan leaves out what the global one has chosen, so that the number is exact; the decoder's cut
reads layer K-1 as FastV does and keeps the position ids. In any-resolution each tile has windows of its own, and all
share one budget.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import normalize

from strategies import several
from strategies.evidence import CLASS_ATTENTION, PLACES, EvidenceView
from strategies.limits import Range
from strategies.scores import lifted
from strategies.several import Views
from strategies.stages import Stage
from strategies.view import Evidence

SHALLOW = f"{CLASS_ATTENTION}@5/24"
NEEDS = frozenset({CLASS_ATTENTION, SHALLOW, PLACES, Evidence.HIDDEN})
WINDOWS = 4  # along each side of a square


def vscan_tower(view: EvidenceView, keep: int) -> Tensor:
    """The half of the method before the decoder.

    Args:
        view: the class token's attention in two layers, and where patches lie, are read.
        keep: tokens to keep, 0 <= keep <= V.

    Returns:
        (keep,) int64, ascending, unique.
    """
    return together([view], keep)[0]


def together(views: Views, keep: int) -> Tensor:
    """(B, keep) the same of several images with as many tokens."""
    global_BK = several.by_falling(views, CLASS_ATTENTION)[:, : keep // 2]
    local_BV = several.means(views, SHALLOW).scatter(1, global_BK, -1.0)
    order_BV = several.falling(local_BV)
    square_BV, row_BV, column_BV = several.read(views, PLACES).long().unbind(dim=2)
    side_B1 = row_BV.amax(dim=1, keepdim=True)
    down_BV, along_BV = (row_BV - 1) * WINDOWS // side_B1, (column_BV - 1) * WINDOWS // side_B1
    window_BV = ((square_BV * WINDOWS + down_BV) * WINDOWS + along_BV).gather(1, order_BV)
    same_BVV = window_BV[:, :, None] == window_BV[:, None]
    better_BV = same_BVV.tril(diagonal=-1).sum(dim=2)  # of its window, in the order of scores
    better_BV = better_BV + (local_BV.gather(1, order_BV) < 0) * order_BV.shape[1]  # what is chosen already comes last
    local_BK = order_BV.gather(1, better_BV.sort(dim=1, stable=True).indices)[:, : keep - keep // 2]
    return torch.cat((global_BK, local_BK), dim=1).sort(dim=1).values


def vscan_rows(views: Views, kept_BK: Tensor) -> Tensor:
    """(B, K, D) each kept token's mean with those that were dropped and are nearest to it, after the projector."""
    likeness_BVK = torch.stack([_likeness(view, kept_K) for view, kept_K in zip(views, kept_BK, strict=True)])
    slot_BK = torch.arange(kept_BK.shape[1], device=kept_BK.device).expand_as(kept_BK)
    slot_BV = likeness_BVK.argmax(dim=2).scatter(1, kept_BK, slot_BK)  # a kept token stays its own
    return several.hidden_means(views, slot_BV, kept_BK.shape[1])


def _likeness(view: EvidenceView, kept_K: Tensor) -> Tensor:
    """(V, K) cosines of all tokens with the kept ones."""
    unit_VD = normalize(lifted(view.hidden_VD), dim=-1)
    return unit_VD @ unit_VD[kept_K].T


def vscan(
    layer: int,
    rank: int,
    *,
    second_layer: Annotated[int, Range(1)] = 16,
    second_share: Annotated[float, Range(0, 1)] = 1 / 3,
) -> tuple[Stage, ...]:
    """The stages of the method.

    Args:
        layer: 0, where the tower has chosen.
        rank: tokens that enter the decoder.
        second_layer: where it is cut once more; half of the decoder's layers in the original.
        second_share: of these tokens that are left then, to the nearest whole number.
    """
    return (Stage("vscan_tower", layer, rank), Stage("fastv", second_layer, math.floor(second_share * rank + 0.5)))
