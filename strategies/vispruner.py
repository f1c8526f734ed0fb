"""VisPruner: some patches by the class token's attention, the rest by removing duplicates of the others in rounds.

Source: Zhang et al., Beyond Text-Visual Attention: Exploiting Visual Cues for Effective Token Pruning in VLMs, ICCV
2025, arXiv:2412.01818v2; Theia-4869/VisPruner, llava/model/llava_arch.py.
The authors' scripts set a share of 0.5 for 128 tokens and 0.75 for 64.
We differ: an odd list is split with the odd one among the even places, and no more are removed than there are; the
authors' code stops with an error there (odd numbers of diverse tokens, and very few of them). Of equal scores the lower
index wins. Tokens that mark the end of a row of patches are kept only where there are no patches left.
The order within the list decides which patches are compared in the next round, so that a last digit can change the
diverse ones: compare them between devices with care.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from strategies import several
from strategies.evidence import CLASS_ATTENTION, TOWER_FEATURES, EvidenceView
from strategies.limits import Range
from strategies.several import Views
from strategies.thinning import thinned

NEEDS = frozenset({CLASS_ATTENTION, TOWER_FEATURES})
REMOVED = 8  # at most, in a round


def vispruner(view: EvidenceView, keep: int, *, important: Annotated[float, Range(0, 1)] = 0.5) -> Tensor:
    """Keep the most attended patches, and of all others those that are left when the likest pairs lost one each.

    A round takes ``REMOVED`` of the list's even places: those whose features are nearest to any odd place's. What is
    left of the even places then stands in front, by falling likeness.

    Args:
        view: the tower's attention and features are read.
        keep: tokens to keep, 0 <= keep <= V.
        important: the share of them that is chosen by attention, rounded down; 1 is FasterVLM.

    Returns:
        (keep,) int64, ascending, unique.
    """
    return together([view], keep, important=important)[0]


def together(views: Views, keep: int, *, important: float = 0.5) -> Tensor:
    """(B, keep) the same of several images with as many tokens."""
    order_BV = several.by_falling(views, CLASS_ATTENTION)
    likeness_BVV = torch.stack([view.likeness(TOWER_FEATURES) for view in views])
    chosen = int(keep * important)
    # Nobody attends to what is no patch, so that these come last.
    length_B = several.each(views, "number of patches", _patches).clamp(min=keep) - chosen
    rest_BK = thinned(likeness_BVV, order_BV[:, chosen:], length_B, keep - chosen, REMOVED)
    return torch.cat((order_BV[:, :chosen], rest_BK), dim=1).sort(dim=1).values


def _patches(view: EvidenceView) -> Tensor:
    """() how many tokens a patch stands behind."""
    return (view.read(TOWER_FEATURES) != 0).any(dim=1).sum()
