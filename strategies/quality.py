"""What was kept, judged: agreement with a reference, concentration of the scores, diversity, likeness of two methods.

A ratio whose denominator is 0 is NaN, never 0. All functions are for one sample and return plain numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from strategies.rank import effective_rank, singular_values

CELLS = 4  # the image is divided into 4 x 4 cells for coverage: of 6 x 6 patches each on a 24 x 24 grid


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """How far kept tokens are those of a reference set."""

    precision: float  # of the kept tokens, the share in the reference
    recall: float  # of the reference, the share kept
    iou: float  # common over united
    lift: float  # precision over that of a random choice; random has 1


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How far kept tokens spread over the image."""

    coverage: float  # share of the image's cells that hold a kept token
    neighbour_distance: float  # in patches, to the nearest other kept token, mean over kept tokens


def overlap(kept_K: Tensor, reference_G: Tensor, visual: int) -> Overlap:
    """Compare kept tokens with a reference set: patches of the boxes, or an oracle's choice.

    Args:
        kept_K, reference_G: int64 indices into the ``visual`` tokens, each unique.
        visual: tokens before pruning.
    """
    kept, reference = kept_K.numel(), reference_G.numel()
    common = int(torch.isin(kept_K, reference_G).sum())
    precision = _ratio(common, kept)
    return Overlap(
        precision=precision,
        recall=_ratio(common, reference),
        iou=_ratio(common, kept + reference - common),
        lift=_ratio(precision * visual, reference),
    )


def mass_recall(scores_V: Tensor, kept_K: Tensor) -> float:
    """Share of an oracle's total score that the kept tokens hold; NaN where the total is 0."""
    scores_V = scores_V.double()
    return _ratio(float(scores_V[kept_K].sum()), float(scores_V.sum()))


def visual_share(rows_HV: Tensor) -> float:
    """Attention mass that goes to the image, mean over heads."""
    return float(rows_HV.double().sum(dim=1).mean())


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


def spread(kept_K: Tensor, visual: int) -> Spread:
    """Spread of kept tokens over the square grid of patches.

    The image is cut into 4 x 4 cells, fewer on a grid smaller than that; on a grid that 4 does not divide, cells differ
    by one patch.

    Args:
        kept_K: (K,) int64 raster indices, unique.
        visual: patches, a square number.

    Raises:
        ValueError: ``visual`` is not a square number.
    """
    side = math.isqrt(visual)
    if side * side != visual or visual == 0:
        raise ValueError(f"{visual} visual tokens are not a square grid")
    cells = min(CELLS, side)
    row_K, column_K = kept_K // side, kept_K % side
    touched = (row_K * cells // side * cells + column_K * cells // side).unique().numel()
    place_K2 = torch.stack((row_K, column_K), dim=1).double()
    gap_KK = torch.cdist(place_K2, place_K2).fill_diagonal_(torch.inf)
    return Spread(
        coverage=touched / cells**2,
        neighbour_distance=float(gap_KK.amin(dim=1).mean()) if kept_K.numel() > 1 else math.nan,
    )


def jaccard(left_K: Tensor, right_K: Tensor) -> float:
    """Common over united tokens of two kept sets; NaN where both are empty."""
    common = int(torch.isin(left_K, right_K).sum())
    return _ratio(common, left_K.numel() + right_K.numel() - common)


def kendall_tau(left_V: Tensor, right_V: Tensor) -> float:
    """Kendall's tau-b of two rows of scores, which allows for ties; NaN where a row is constant.

    Raises:
        ValueError: the rows differ in length, or a score is NaN.
    """
    if left_V.shape != right_V.shape:
        raise ValueError(f"scores of {left_V.shape[0]} and {right_V.shape[0]} tokens cannot be compared")
    if left_V.isnan().any() or right_V.isnan().any():
        raise ValueError("a score is NaN")
    left_VV = (left_V[:, None] > left_V).double() - (left_V[:, None] < left_V).double()
    right_VV = (right_V[:, None] > right_V).double() - (right_V[:, None] < right_V).double()
    untied = math.sqrt(float(left_VV.abs().sum()) * float(right_VV.abs().sum()))
    return _ratio(float((left_VV * right_VV).sum()), untied)


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan
