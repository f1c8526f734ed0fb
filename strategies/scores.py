"""From scores to kept tokens: one rule for ties, everywhere."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def descending_order(scores_V: Tensor) -> Tensor:
    """Sort token indices by falling score; of equal scores the lower index comes first.

    ``torch.topk`` leaves the order of equal values open, and it differs between CPU, GPU and releases.

    Args:
        scores_V: (V,) floating; half precision should be lifted before scores are computed, ties abound there.

    Returns:
        (V,) int64.

    Raises:
        ValueError: a score is NaN.
    """
    if scores_V.isnan().any():
        raise ValueError("a token score is NaN")
    return scores_V.sort(descending=True, stable=True).indices


def top_k(scores_V: Tensor, keep: int) -> Tensor:
    """Keep the ``keep`` highest scores, in the tokens' original order.

    Args:
        scores_V: (V,) floating.
        keep: 0 <= keep <= V.

    Returns:
        (keep,) int64, ascending, unique.

    Raises:
        ValueError: a score is NaN, or ``keep`` is outside 0..V.
    """
    if not 0 <= keep <= scores_V.shape[0]:
        raise ValueError(f"cannot keep {keep} of {scores_V.shape[0]} tokens")
    return descending_order(scores_V)[:keep].sort().values


def uniform_scores(count: int, device: torch.device) -> Tensor:
    """(count,) scores that prefer no token: the tie rule keeps the first ones."""
    return torch.zeros(count, device=device)


def lifted(tensor: Tensor) -> Tensor:
    """At least float32: half precision ties many tokens; what comes in float64 stays there."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def cosine(left_MD: Tensor, right_ND: Tensor) -> Tensor:
    """(M, N) cosines of all rows of one matrix with all of another, in float32 or better; 0 for a zero row."""
    return normalize(lifted(left_MD), dim=-1) @ normalize(lifted(right_ND), dim=-1).T
