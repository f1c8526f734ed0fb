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

from strategies.evidence import CLASS_ATTENTION, TOWER_FEATURES, EvidenceView
from strategies.limits import Range
from strategies.scores import cosine, descending_order

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
    order_V = descending_order(view.read(CLASS_ATTENTION).mean(dim=1))
    features_VC = view.read(TOWER_FEATURES)
    chosen = int(keep * important)
    diverse = keep - chosen
    patches = int((features_VC != 0).any(dim=1).sum())  # nobody attends to what is none, so that these come first
    list_N = order_V[chosen : max(patches, keep)] if diverse else order_V[:0]
    likeness_VV = cosine(features_VC, features_VC)
    while len(list_N) > diverse:
        even_N, odd_N = list_N[::2], list_N[1::2]
        removed = min(REMOVED, len(list_N) - diverse, len(even_N))
        nearest_N = likeness_VV[even_N][:, odd_N].amax(dim=1)
        by_likeness_N = nearest_N.sort(descending=True, stable=True).indices  # what was read holds no NaN
        list_N = torch.cat((even_N[by_likeness_N[removed:]], odd_N))
    return torch.cat((order_V[:chosen], list_N)).sort().values
