"""SCOPE: cover the image's features, each gain in coverage weighted by the class token's attention.

Source: Deng et al., SCOPE: Saliency-Coverage Oriented Token Pruning for Efficient Multimodal LLMs, NeurIPS 2025,
arXiv:2510.24214; the authors' code takes its options from environment variables, here they are parameters.
We differ on one point: of equal gains the lower index wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from strategies.evidence import CLASS_ATTENTION, TOWER_FEATURES, EvidenceView
from strategies.greedy import greedy_coverage
from strategies.limits import Range

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
    return together([view], keep, alpha=alpha)[0]


def together(views: Sequence[EvidenceView], keep: int, *, alpha: float = 1.0) -> Tensor:
    """(B, keep) the same of several images with as many tokens."""
    weight_BV = torch.stack([view.read(CLASS_ATTENTION).sum(dim=1) for view in views]) ** alpha
    likeness_BVV = torch.stack([view.likeness(TOWER_FEATURES) for view in views])
    return greedy_coverage(likeness_BVV, weight_BV, keep)
