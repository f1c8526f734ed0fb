"""SCOPE: cover the image's features, each gain in coverage weighted by the class token's attention.

Source: Deng et al., SCOPE: Saliency-Coverage Oriented Token Pruning for Efficient Multimodal LLMs, NeurIPS 2025,
arXiv:2510.24214; the authors' code takes its options from environment variables, here they are parameters.
We differ on one point: of equal gains the lower index wins.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from strategies.evidence import CLASS_ATTENTION, TOWER_FEATURES, EvidenceView
from strategies.limits import Range
from strategies.scores import cosine

NEEDS = frozenset({CLASS_ATTENTION, TOWER_FEATURES})


def scope(view: EvidenceView, keep: int, *, alpha: Annotated[float, Range(0)] = 1.0) -> Tensor:
    """Greedy largest ``a_j ^ alpha * sum over i of max(0, cos(i, j) - m_i)``, where ``m`` is what is covered already.

    Args:
        view: the tower's attention (sum over heads) and features are read.
        keep: tokens to keep, 0 <= keep <= V.
        alpha: how much attention counts; 0 is coverage alone.

    Returns:
        (keep,) int64, unique, in the order of choice.
    """
    weight_V = view.read(CLASS_ATTENTION).sum(dim=1) ** alpha
    features_VC = view.read(TOWER_FEATURES)
    likeness_VV = cosine(features_VC, features_VC)
    covered_V = torch.zeros_like(likeness_VV[0])
    order_K = torch.empty(keep, dtype=torch.int64, device=view.device)
    for i in range(keep):
        gain_V = weight_V * (likeness_VV - covered_V).clamp(min=0).sum(dim=1)  # symmetric: row j is of candidate j
        next_1 = gain_V.index_fill(0, order_K[:i], -torch.inf).argmax(dim=0, keepdim=True)
        order_K[i : i + 1] = next_1
        covered_V = covered_V.maximum(likeness_VV.index_select(0, next_1)[0])
    return order_K
