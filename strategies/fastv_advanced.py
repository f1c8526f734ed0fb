"""FastV Advanced: trust the head that looks at the image most, alone or beside the others.

Source: YangXu-03/Himap-based, fastv_advanced.py (``avg_all_heads`` there is ``fastv`` here).
We differ on three points: probabilities stay in float32, of equal scores the lower index wins (heads too), and every
sample has its own head (the original takes that of the batch's first sample for all).
``alpha = 0`` is the mean of the *other* heads, not of all; ``alpha = 1/H`` is the mean of all.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from strategies.limits import Range
from strategies.view import TokenView


def max_head(view: TokenView) -> Tensor:
    """Score a visual token by the last query's attention in the one head that gives the image the largest sum.

    Returns:
        (V,) in [0, 1].
    """
    return view.last_HV.index_select(0, strongest_head(view.last_HV))[0]


def weighted_combination(view: TokenView, *, alpha: Annotated[float, Range(0, 1)] = 0.5) -> Tensor:
    """``alpha`` times the strongest head's attention plus ``1 - alpha`` times the mean of the other heads'.

    Args:
        view: its last query row is read.
        alpha: weight of the strongest head. With a single head the second term is 0.

    Returns:
        (V,) in [0, 1].
    """
    heads = view.last_HV.shape[0]
    weight_H = view.last_HV.new_full((heads,), (1 - alpha) / max(heads - 1, 1))
    weight_H = weight_H.index_fill(0, strongest_head(view.last_HV), alpha)
    return (weight_H[:, None] * view.last_HV).sum(dim=0)


def strongest_head(rows_HV: Tensor) -> Tensor:
    """(1,) int64, the head with the largest sum over the image; of equal ones the lowest."""
    return rows_HV.sum(dim=1, dtype=torch.float64).argmax(dim=0, keepdim=True)
