"""HoloV: a budget for each stretch of the image by attention and variety, in a stretch the most attended patches.

Source: Zou et al., Don't Just Chase "Highlighted Tokens" in MLLMs: Revisiting Visual Holistic Context Retention,
NeurIPS 2025, arXiv:2510.02912; obananas/HoloV, llava/model/llava_arch.py.
Kept as published in the code: stretches are runs of consecutive patches (of 24 x 24 patches a row and a half), variety
only moves budget between them, and they are fed one after another, each by falling attention; ``fed: raster`` sorts.
We differ: what a stretch cannot take goes to the heaviest that can. ``form: literal`` drops it as the authors' code
does, which feeds the decoder zero vectors at the end instead; in a picture the places of others stand for these.
``form: paper`` chooses within a stretch by attention and variety together, as the paper says.
"""

from __future__ import annotations

from itertools import accumulate, cycle
from typing import Annotated, Literal

import torch
from torch import Tensor

from strategies.evidence import CLASS_ATTENTION, EvidenceView
from strategies.limits import Range
from strategies.scores import cosine, descending_order
from strategies.view import Evidence

NEEDS = frozenset({CLASS_ATTENTION, Evidence.HIDDEN})
SCALE, VARIETY = 1e3, 0.09
Form = Literal["redistributed", "literal", "paper"]
Fed = Literal["stretches", "raster"]
Stretches = Annotated[int, Range(1)]


def holov(
    view: EvidenceView, keep: int, *, stretches: Stretches = 16, form: Form = "redistributed", fed: Fed = "stretches"
) -> Tensor:
    """The places of the chosen patches.

    Args:
        view: the tower's attention and the projector's output are read.
        keep: tokens to keep, 0 <= keep <= V.
        stretches: runs that the image is cut into; where they are uneven the first ones have one patch more.
        form: what becomes of a budget that a stretch cannot take, and by what it chooses.
        fed: the order of the rows that the decoder sees.

    Returns:
        (keep,) int64, ascending, unique.
    """
    chosen_K = _chosen(view, keep, stretches, form)
    free_V = torch.ones(view.visual, device=view.device).index_fill(0, chosen_K, 0)
    zeros_N = descending_order(free_V)[: keep - len(chosen_K)]
    return torch.cat((chosen_K, zeros_N)).sort().values


def holov_rows(
    view: EvidenceView, kept_K: Tensor, *, stretches: int = 16, form: str = "redistributed", fed: str = "stretches"
) -> Tensor:
    """(K, D) what the decoder sees: the chosen patches, and in the literal form zeros in place of missing ones."""
    chosen_K = _chosen(view, len(kept_K), stretches, form)
    rows_KD = view.hidden_VD[chosen_K if fed == "stretches" else chosen_K.sort().values]
    return torch.cat((rows_KD, rows_KD.new_zeros(len(kept_K) - len(chosen_K), rows_KD.shape[1])))


def _chosen(view: EvidenceView, keep: int, stretches: int, form: str) -> Tensor:
    """Stretch by stretch, each by falling score, or as it lies where it is kept whole."""
    attention_V = SCALE * view.read(CLASS_ATTENTION).mean(dim=1)
    count = min(stretches, view.visual)
    sizes = [view.visual // count + (i < view.visual % count) for i in range(count)]
    features = view.hidden_VD.split(sizes)
    variety_V = torch.cat([_variety(part_ND) for part_ND in features])
    score_V = attention_V + VARIETY * variety_V * attention_V.mean() / (variety_V.mean() + 1e-6)
    heaviness = torch.stack([part_N.mean() for part_N in score_V.split(sizes)]).tolist()
    budgets = _budgets(heaviness, sizes, keep, pass_on=form != "literal")
    by_V = score_V if form == "paper" else attention_V
    starts = [0, *accumulate(sizes)]
    return torch.cat(
        [
            start + _best(part_N, budget)
            for start, part_N, budget in zip(starts, by_V.split(sizes), budgets, strict=False)
        ]
    )


def _variety(features_ND: Tensor) -> Tensor:
    """(N,) variance of a patch's likeness to the others of its stretch; its own counts as 0, by N - 1 is divided."""
    likeness_NN = cosine(features_ND, features_ND).fill_diagonal_(0)
    others = max(len(features_ND) - 1, 1)
    mean_N1 = likeness_NN.sum(dim=1, keepdim=True) / others
    return (likeness_NN - mean_N1).square().sum(dim=1) / others


def _budgets(heaviness: list[float], sizes: list[int], keep: int, pass_on: bool) -> list[int]:
    """How many patches each stretch keeps: in proportion to its weight, what is left over to the heaviest ones."""
    total = sum(heaviness)
    budgets = [int(weight / total * keep) for weight in heaviness] if total > 0 else [0] * len(sizes)
    heaviest = sorted(range(len(sizes)), key=lambda i: -heaviness[i])
    for i in heaviest[: keep - sum(budgets)]:
        budgets[i] += 1
    budgets = [min(budget, size) for budget, size in zip(budgets, sizes, strict=True)]
    if pass_on:
        for i in cycle(heaviest):
            if sum(budgets) == keep:
                break
            budgets[i] += budgets[i] < sizes[i]
    return budgets


def _best(values_N: Tensor, count: int) -> Tensor:
    return torch.arange(count, device=values_N.device) if count == len(values_N) else descending_order(values_N)[:count]
