"""What was kept, judged while it is chosen: concentration of the scores, diversity of the features.

What the masks alone tell is counted after the run, by `results.analysis.kept_quality`.

A ratio whose denominator is 0 is NaN, never 0. All functions are for one sample and return plain numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from strategies.rank import effective_rank, singular_values


@dataclass(frozen=True, slots=True, kw_only=True)
class Concentration:
    """How far a row of scores gathers on few tokens."""

    normalised_entropy: float  # 1: uniform, 0: a single token
    gini: float  # 0: uniform
    top_mass: float  # share of the highest scores
    effective_support: float  # exp(entropy): that many tokens of equal score would be as spread out


@dataclass(frozen=True, slots=True, kw_only=True)
class Diversity:
    """How far the features of kept tokens differ."""

    mean_distance: float  # cosine distance, mean over pairs
    min_distance: float  # of the closest pair
    effective_rank: float  # power 1, of the rows scaled to length 1


def concentration(scores_V: Tensor, top: int) -> Concentration:
    """Concentration of a row of scores, as shares of its sum.

    Args:
        scores_V: (V,) not negative. All values are NaN where the sum is 0.
        top: how many of the highest count for ``top_mass``: the rank.

    Raises:
        ValueError: a score is negative, NaN or infinite.
    """
    scores_V = scores_V.double()
    if not (scores_V.isfinite() & (scores_V >= 0)).all():
        raise ValueError("concentration needs finite scores of at least 0")
    count, total = scores_V.shape[0], scores_V.sum()
    if total == 0:
        return Concentration(normalised_entropy=math.nan, gini=math.nan, top_mass=math.nan, effective_support=math.nan)
    rising_V = scores_V.sort().values / total
    entropy = float(torch.special.entr(rising_V).sum())
    place_V = torch.arange(1, count + 1, dtype=torch.float64, device=scores_V.device)
    return Concentration(
        normalised_entropy=_ratio(entropy, math.log(count)),
        gini=float(((2 * place_V - count - 1) * rising_V).sum()) / count,
        top_mass=float(rising_V[max(count - top, 0) :].sum()),
        effective_support=math.exp(entropy),
    )


def diversity(features_KD: Tensor) -> Diversity:
    """Diversity of kept features by direction.

    Args:
        features_KD: (K, D) features of the kept tokens. Pairs need K >= 2; a token of length 0 has no direction, and
            all values are NaN.
    """
    features_KD = features_KD.double()
    unit_KD = features_KD / features_KD.norm(dim=1, keepdim=True)
    if unit_KD.isnan().any():
        return Diversity(mean_distance=math.nan, min_distance=math.nan, effective_rank=math.nan)
    count = unit_KD.shape[0]
    first_P, second_P = torch.triu_indices(count, count, offset=1, device=unit_KD.device)
    distance_P = 1 - (unit_KD @ unit_KD.T)[first_P, second_P]
    pairs = distance_P.numel() > 0
    return Diversity(
        mean_distance=float(distance_P.mean()) if pairs else math.nan,
        min_distance=float(distance_P.min()) if pairs else math.nan,
        effective_rank=float(effective_rank(singular_values(unit_KD), power=1)),
    )


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan
