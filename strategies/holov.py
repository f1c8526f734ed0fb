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

from dataclasses import dataclass
from itertools import cycle
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from strategies.evidence import CLASS_ATTENTION, EvidenceView, without_nan
from strategies.limits import Range
from strategies.scores import lifted
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
    zeros_N = free_V.sort(descending=True, stable=True).indices[: keep - len(chosen_K)]
    return torch.cat((chosen_K, zeros_N)).sort().values


def holov_rows(
    view: EvidenceView, kept_K: Tensor, *, stretches: int = 16, form: str = "redistributed", fed: str = "stretches"
) -> Tensor:
    """(K, D) what the decoder sees: the chosen patches, and in the literal form zeros in place of missing ones."""
    chosen_K = _chosen(view, len(kept_K), stretches, form)
    rows_KD = view.hidden_VD[chosen_K if fed == "stretches" else chosen_K.sort().values]
    return torch.cat((rows_KD, rows_KD.new_zeros(len(kept_K) - len(chosen_K), rows_KD.shape[1])))


@dataclass(frozen=True, slots=True)
class _Stretches:
    """Consecutive runs of tokens, as even as can be; the first ones may have one more."""

    visual: int
    count: int
    device: torch.device

    @property
    def sizes(self) -> list[int]:
        return [self.visual // self.count + (i < self.visual % self.count) for i in range(self.count)]

    @property
    def starts_G(self) -> Tensor:
        number_G = torch.arange(self.count, device=self.device)
        return number_G * (self.visual // self.count) + number_G.clamp(max=self.visual % self.count)

    @property
    def own_V(self) -> Tensor:
        """Which one a token is in."""
        place_V = torch.arange(self.visual, device=self.device)
        return torch.searchsorted(self.starts_G, place_V, right=True) - 1

    @property
    def flat_V(self) -> Tensor:
        """Where a token stands when all are as long as the longest."""
        own_V = self.own_V
        return own_V * self.sizes[0] + torch.arange(self.visual, device=self.device) - self.starts_G[own_V]

    def side_by_side(self, rows_VX: Tensor) -> Tensor:
        """(G, N, ...) the rows of each, 0 behind those of the shorter ones."""
        padded = rows_VX.new_zeros(self.count * self.sizes[0], *rows_VX.shape[1:])
        return padded.index_copy(0, self.flat_V, rows_VX).unflatten(0, (self.count, self.sizes[0]))


def _chosen(view: EvidenceView, keep: int, stretches: int, form: str) -> Tensor:
    """Stretch by stretch, each by falling score, or as it lies where it is kept whole."""
    runs = _Stretches(view.visual, min(stretches, view.visual), view.device)
    own_V, attention_V = runs.own_V, SCALE * view.read(CLASS_ATTENTION).mean(dim=1)
    score_V = view.once(("holov", stretches), lambda: _scores(view, attention_V, runs))
    sizes_G = torch.bincount(own_V, minlength=runs.count)
    weights = (runs.side_by_side(score_V).sum(dim=1) / sizes_G).tolist()
    budgets_G = torch.tensor(_budgets(weights, runs.sizes, keep, pass_on=form != "literal"), device=view.device)
    by_V = (score_V if form == "paper" else attention_V).masked_fill((budgets_G >= sizes_G)[own_V], torch.inf)
    order_V = by_V.sort(descending=True, stable=True).indices
    order_V = order_V[own_V[order_V].sort(stable=True).indices]
    place_V = torch.arange(view.visual, device=view.device) - runs.starts_G[own_V]
    return order_V[place_V < budgets_G[own_V]]


def _scores(view: EvidenceView, attention_V: Tensor, runs: _Stretches) -> Tensor:
    """(V,) attention, and variety scaled to its mean: the variance of a patch's likeness to the others of its stretch.

    Its likeness to itself counts as 0, and by the number of others is divided.
    """
    unit_GND = runs.side_by_side(normalize(lifted(view.hidden_VD), dim=-1))
    there_GN = runs.side_by_side(torch.ones_like(unit_GND[0, 0, :1]).expand(view.visual))
    likeness_GNN = unit_GND @ unit_GND.transpose(1, 2)
    likeness_GNN = likeness_GNN * (1 - torch.eye(runs.sizes[0], dtype=unit_GND.dtype, device=view.device))
    others_G1 = (there_GN.sum(dim=1, keepdim=True) - 1).clamp(min=1)
    mean_GN = likeness_GNN.sum(dim=2) / others_G1
    apart_GNN = (likeness_GNN - mean_GN[:, :, None]) * there_GN[:, None]
    variety_V = (apart_GNN.square().sum(dim=2) / others_G1).flatten()[runs.flat_V]
    return without_nan(attention_V + VARIETY * variety_V * attention_V.mean() / (variety_V.mean() + 1e-6), "a score")


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
