"""Head rules: which heads' rows are averaged into the score of a visual token.

Source: EasonAI-5589/LLaVA-FinePruner-Head, llava/model/language_model/modeling_llama_fastv_ablation_a.py.
We differ on four points. Statistics are taken in float64 (in half precision all heads of ``entropy`` tie). Of equal
scores the lower head wins. An unknown rule is an error, not ``sum``. And where the original applies softmax a second
time, to probabilities, which leaves every row almost uniform, the default here divides the row by its sum;
``softmax_again`` gives the original's definition. The original's absolute threshold of ``weighted_quality``, 0.01, can
never be reached by a second softmax over 271 tokens or more; with rows that are divided by their sum the threshold is
that of a uniform row, 1/V.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from strategies.scores import cosine, top_k

HeadRule = Literal[
    "sum",
    "variance",
    "entropy",
    "max_attention",
    "attention_range",
    "sparsity",
    "top_k_sum",
    "weighted_quality",
    "gini_coefficient",
    "multi_objective",
    "graph_based",
    "hierarchical",
]
HeadProbability = Literal["renormalise", "softmax_again"]
TINY = 1e-8  # the original's, in logarithms and denominators


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadRows:
    """What a head rule looks at, in float64."""

    rows_HV: Tensor  # attention to the image, as it is
    share_HV: Tensor  # the same as a distribution over the image
    kept: int  # heads that will be kept; the hierarchical rule depends on it
    threshold: float  # share above which a token counts as covered


def select_heads(rows_HV: Tensor, rule: HeadRule, kept: int, probability: HeadProbability) -> Tensor:
    """Choose heads by a rule.

    Args:
        rows_HV: (H, V) attention to the image, one row per head.
        rule: a head rule.
        kept: heads to choose, 1 <= kept <= H.
        probability: how a row becomes a distribution.

    Returns:
        (kept,) int64, ascending.

    Raises:
        ValueError: the model has fewer heads, or a row holds NaN.
    """
    heads = rows_HV.shape[0]
    if not 1 <= kept <= heads:
        raise ValueError(f"heads_kept: {kept} is outside 1..{heads}, the model's heads")
    if rows_HV.isnan().any():
        raise ValueError("a head's attention to the image is NaN")
    return top_k(head_scores(rows_HV, rule, kept, probability), kept)


def head_scores(rows_HV: Tensor, rule: HeadRule, kept: int, probability: HeadProbability) -> Tensor:
    """(H,) float64, the higher the better; ``entropy`` is negated."""
    rows_HV = rows_HV.double()
    again = probability == "softmax_again"
    share_HV = rows_HV.softmax(dim=1) if again else renormalised(rows_HV)
    threshold = 0.01 if again else 1 / rows_HV.shape[1]
    return RULES[rule](HeadRows(rows_HV=rows_HV, share_HV=share_HV, kept=kept, threshold=threshold))


def renormalised(rows_HV: Tensor) -> Tensor:
    """Each row divided by its sum; a row of zeros becomes uniform."""
    sum_H1 = rows_HV.sum(dim=1, keepdim=True)
    return torch.where(sum_H1 == 0, 1 / rows_HV.shape[1], rows_HV / sum_H1)


def _sum(heads: HeadRows) -> Tensor:
    return heads.rows_HV.sum(dim=1)


def _variance(heads: HeadRows) -> Tensor:
    return _unbiased_variance(heads.rows_HV)


def _entropy(heads: HeadRows) -> Tensor:
    return -entropy(heads.share_HV)


def _max_attention(heads: HeadRows) -> Tensor:
    return heads.rows_HV.amax(dim=1)


def _attention_range(heads: HeadRows) -> Tensor:
    return heads.rows_HV.amax(dim=1) - heads.rows_HV.amin(dim=1)


def _sparsity(heads: HeadRows) -> Tensor:
    return heads.share_HV.square().sum(dim=1)


def _top_k_sum(heads: HeadRows) -> Tensor:
    return heads.rows_HV.topk(min(10, heads.rows_HV.shape[1]), dim=1).values.sum(dim=1)


def _weighted_quality(heads: HeadRows) -> Tensor:
    covered_H = (heads.share_HV > heads.threshold).sum(dim=1, dtype=torch.float64)
    return 0.4 * heads.share_HV.amax(dim=1) + 0.4 * _sparsity(heads) + 0.2 / (covered_H + TINY)


def _gini_coefficient(heads: HeadRows) -> Tensor:
    return gini(heads.share_HV)


def _multi_objective(heads: HeadRows) -> Tensor:
    """Information (entropy, kurtosis), difference from the other heads, and sparsity, each scaled to 0..1."""
    share_HV, count = heads.share_HV, heads.share_HV.shape[0]
    centred_HV = share_HV - share_HV.mean(dim=1, keepdim=True)
    kurtosis_H = centred_HV.pow(4).mean(dim=1) / (centred_HV.square().mean(dim=1).square() + TINY)
    information_H = 0.7 * _scaled(entropy(share_HV), TINY) + 0.3 * _scaled(kurtosis_H, TINY)
    likeness_H = (cosine(share_HV, share_HV).sum(dim=1) - 1) / max(count - 1, 1)
    difference_H = _scaled(1 / (likeness_H + TINY), TINY)
    return 0.4 * information_H + 0.3 * difference_H + 0.3 * _scaled(_sparsity(heads), TINY)


def _graph_based(heads: HeadRows) -> Tensor:
    """Five features per head, spread twice over the graph of heads with similar rows, then averaged."""
    share_HV = heads.share_HV
    above_mean_H = (share_HV > share_HV.mean(dim=1, keepdim=True)).double().mean(dim=1)
    features = (_sparsity(heads), entropy(share_HV), share_HV.amax(dim=1), _unbiased_variance(share_HV), above_mean_H)
    feature_HF = torch.stack(features, dim=1)
    near_HH = (cosine(share_HV, share_HV) > 0.1).double().fill_diagonal_(0)
    near_HH = near_HH / (near_HH.sum(dim=1, keepdim=True) + TINY)
    for _ in range(2):
        feature_HF = (feature_HF + near_HH @ feature_HF).relu()
    return feature_HF.mean(dim=1)


def _hierarchical(heads: HeadRows) -> Tensor:
    """A coarse choice by sparsity and entropy, then a fine one within it; heads outside it get -inf."""
    share_HV, count = heads.share_HV, heads.share_HV.shape[0]
    if count <= max(heads.kept, 8):
        return 0.5 * _sparsity(heads) + 0.3 * share_HV.amax(dim=1) + 0.2 * _unbiased_variance(share_HV)
    coarse_H = 0.6 * _sparsity(heads) + 0.4 * (1 - _scaled(entropy(share_HV)))
    coarse_C = top_k(coarse_H, min(count, max(2 * heads.kept, heads.kept + 4)))
    share_CV = share_HV.index_select(0, coarse_C)
    direction_CV = normalize(share_CV, dim=1)
    relative_CV = share_CV / (1 / share_CV.shape[1] + TINY)
    divergence_C = (share_CV * (relative_CV + TINY).log()).sum(dim=1)
    distance_C = (direction_CV - direction_CV.mean(dim=0)).norm(dim=1)
    steadiness_C = 1 / (_unbiased_variance(share_CV).sqrt() + TINY)
    fine_C = 0.3 * _scaled(entropy(share_CV)) + 0.25 * _scaled(divergence_C)
    fine_C = fine_C + 0.25 * _scaled(distance_C) + 0.2 * _scaled(steadiness_C)
    return torch.full_like(coarse_H, -torch.inf).index_copy(0, coarse_C, fine_C)


def entropy(share_HV: Tensor) -> Tensor:
    """(H,) natural logarithm, with the original's 1e-8 inside it."""
    return -(share_HV * (share_HV + TINY).log()).sum(dim=1)


def gini(share_HV: Tensor) -> Tensor:
    """(H,) Gini coefficient of each row: 0 for a uniform one, (V - 1)/V for a single token."""
    count = share_HV.shape[1]
    place_V = torch.arange(1, count + 1, dtype=share_HV.dtype, device=share_HV.device)
    rising_HV = share_HV.sort(dim=1).values
    return ((2 * place_V - count - 1) * rising_HV).sum(dim=1) / (count * rising_HV.sum(dim=1))


def _unbiased_variance(rows_HV: Tensor) -> Tensor:
    return rows_HV.var(dim=1, correction=min(1, rows_HV.shape[1] - 1))


def _scaled(values_H: Tensor, tiny: float = 0.0) -> Tensor:
    """Min-max scaling over heads; zeros where all are equal."""
    low, high = values_H.aminmax()
    return torch.where(high > low, (values_H - low) / (high - low + tiny), 0.0)


RULES: dict[HeadRule, Callable[[HeadRows], Tensor]] = {
    "sum": _sum,
    "variance": _variance,
    "entropy": _entropy,
    "max_attention": _max_attention,
    "attention_range": _attention_range,
    "sparsity": _sparsity,
    "top_k_sum": _top_k_sum,
    "weighted_quality": _weighted_quality,
    "gini_coefficient": _gini_coefficient,
    "multi_objective": _multi_objective,
    "graph_based": _graph_based,
    "hierarchical": _hierarchical,
}
