"""HoloV: a budget for each stretch of the image by attention and variety, in a stretch the most attended patches.

Source: Zou et al., Don't Just Chase "Highlighted Tokens" in MLLMs: Revisiting Visual Holistic Context Retention,
NeurIPS 2025, arXiv:2510.02912; obananas/HoloV, llava/model/llava_arch.py.
Kept as published in the code: stretches are runs of consecutive patches (of 24 x 24 patches a row and a half), variety
only moves budget between them, and they are fed one after another, each by falling attention; ``fed: raster`` sorts.
Several images of a prompt have stretches of their own each, and share one budget.
We differ: what a stretch cannot take goes to the heaviest that can. ``form: literal`` drops it as the authors' code
does, which feeds the decoder zero vectors at the end instead; in a picture the places of others stand for these.
``form: paper`` chooses within a stretch by attention and variety together, as the paper says.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, cycle
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from strategies import several
from strategies.evidence import CLASS_ATTENTION, PLACES, EvidenceView, without_nan
from strategies.images import image_of, image_sizes
from strategies.limits import Range
from strategies.scores import lifted
from strategies.several import Views
from strategies.view import Evidence

NEEDS = frozenset({CLASS_ATTENTION, PLACES, Evidence.HIDDEN})
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
        stretches: runs that an image is cut into; where they are uneven the first ones have one patch more.
        form: what becomes of a budget that a stretch cannot take, and by what it chooses.
        fed: the order of the rows that the decoder sees.

    Returns:
        (keep,) int64, ascending, unique.
    """
    return together([view], keep, stretches=stretches, form=form)[0]


def together(
    views: Views, keep: int, *, stretches: int = 16, form: str = "redistributed", fed: str = "stretches"
) -> Tensor:
    """(B, keep) the same of several images with as many tokens."""
    fed_BK = _fed(views, keep, stretches, form)
    free_BV = fed_BK.new_ones(len(views), views[0].visual + 1).scatter(1, fed_BK, 0)[:, :-1]
    return free_BV.sort(dim=1, stable=True).indices[:, :keep].sort(dim=1).values


def holov_rows(
    views: Views, kept_BK: Tensor, *, stretches: int = 16, form: str = "redistributed", fed: str = "stretches"
) -> Tensor:
    """(B, K, D) what the decoder sees: the chosen patches, and in the literal form zeros in place of missing ones."""
    fed_BK, visual = _fed(views, kept_BK.shape[1], stretches, form), views[0].visual
    if fed == "raster":
        fed_BK = fed_BK.sort(dim=1).values
    rows_BKD = several.taken((view.hidden_VD for view in views), fed_BK.clamp(max=visual - 1))
    return rows_BKD.masked_fill((fed_BK == visual)[:, :, None], 0)


@dataclass(frozen=True, slots=True)
class _Stretches:
    """Consecutive runs of an image's tokens, as even as can be; the first ones of an image may have one more."""

    images: tuple[int, ...]  # tokens of each
    most: int  # runs of an image
    device: torch.device

    @property
    def visual(self) -> int:
        return sum(self.images)

    @property
    def sizes(self) -> list[int]:
        cut = [(visual, min(self.most, visual)) for visual in self.images]
        return [visual // count + (i < visual % count) for visual, count in cut for i in range(count)]

    @property
    def longest(self) -> int:
        return max(self.sizes)

    @property
    def starts_G(self) -> Tensor:
        return torch.tensor([0, *accumulate(self.sizes)][:-1], device=self.device)

    @property
    def own_V(self) -> Tensor:
        """Which one a token is in."""
        place_V = torch.arange(self.visual, device=self.device)
        return torch.searchsorted(self.starts_G, place_V, right=True) - 1

    @property
    def flat_V(self) -> Tensor:
        """Where a token stands when all are as long as the longest."""
        own_V = self.own_V
        return own_V * self.longest + torch.arange(self.visual, device=self.device) - self.starts_G[own_V]

    def side_by_side(self, rows_BVX: Tensor) -> Tensor:
        """(B, G, N, ...) the rows of each, 0 behind those of the shorter ones."""
        count = len(self.sizes)
        padded = rows_BVX.new_zeros(len(rows_BVX), count * self.longest, *rows_BVX.shape[2:])
        return padded.index_copy(1, self.flat_V, rows_BVX).unflatten(1, (count, self.longest))

    def means(self, rows_BV: Tensor) -> Tensor:
        """(B, V) of each token the mean over its image."""
        return torch.stack(
            [torch.cat([own.mean().expand(len(own)) for own in row_V.split(self.images)]) for row_V in rows_BV]
        )


def _fed(views: Views, keep: int, stretches: int, form: str) -> Tensor:
    """(B, keep) stretch by stretch, each by falling score, or as it lies where it is kept whole; V for each missing."""

    def make() -> Tensor:
        images = several.read(views, PLACES)[:, :, 0].long()
        if len(views) > 1 and not bool((image_of(images) == image_of(images[0])).all()):
            return torch.cat([_fed([view], keep, stretches, form) for view in views])
        return _chosen(views, keep, _Stretches(image_sizes(images[0]), stretches, views[0].device), form)

    return several.once(views, ("holov", keep, stretches, form), make)


def _chosen(views: Views, keep: int, runs: _Stretches, form: str) -> Tensor:
    attention_BV, own_V = SCALE * several.means(views, CLASS_ATTENTION), runs.own_V
    score_BV = several.once(views, ("holov", runs.most), lambda: _scores(views, attention_BV, runs))
    sizes_G = torch.tensor(runs.sizes, device=runs.device)
    weights = (runs.side_by_side(score_BV).sum(dim=2) / sizes_G).tolist()
    budgets = [_budgets(heaviness, runs.sizes, keep, pass_on=form != "literal") for heaviness in weights]
    budgets_BG = torch.tensor(budgets, device=runs.device)
    by_BV = score_BV if form == "paper" else attention_BV
    by_BV = by_BV.masked_fill((budgets_BG >= sizes_G)[:, own_V], torch.inf)
    order_BV = by_BV.sort(dim=1, descending=True, stable=True).indices
    order_BV = order_BV.gather(1, own_V[order_BV].sort(dim=1, stable=True).indices)
    place_V = torch.arange(runs.visual, device=runs.device) - runs.starts_G[own_V]
    beyond_BV = place_V >= budgets_BG[:, own_V]
    order_BV = order_BV.masked_fill(beyond_BV, runs.visual)
    return order_BV.gather(1, beyond_BV.sort(dim=1, stable=True).indices)[:, :keep]


def _scores(views: Views, attention_BV: Tensor, runs: _Stretches) -> Tensor:
    """(B, V) attention, and variety scaled to its mean: the variance of a patch's likeness to others of its stretch.

    Its likeness to itself counts as 0, and by the number of others is divided.
    """
    there_1GN = runs.side_by_side(torch.ones_like(attention_BV[:1]))
    likeness_BGNN = torch.stack([_likeness(view, runs) for view in views])
    likeness_BGNN = likeness_BGNN * (1 - torch.eye(runs.longest, dtype=likeness_BGNN.dtype, device=runs.device))
    others_1G1 = (there_1GN.sum(dim=2, keepdim=True) - 1).clamp(min=1)
    mean_BGN = likeness_BGNN.sum(dim=3) / others_1G1
    apart_BGNN = (likeness_BGNN - mean_BGN[:, :, :, None]) * there_1GN[:, :, None]
    variety_BV = (apart_BGNN.square().sum(dim=3) / others_1G1).flatten(1)[:, runs.flat_V]
    attentive_BV, various_BV = runs.means(attention_BV), runs.means(variety_BV)
    return without_nan(attention_BV + VARIETY * variety_BV * attentive_BV / (various_BV + 1e-6), "a score")


def _likeness(view: EvidenceView, runs: _Stretches) -> Tensor:
    """(G, N, N) cosines of the patches of a stretch."""
    unit_GND = runs.side_by_side(normalize(lifted(view.hidden_VD), dim=-1)[None])[0]
    return unit_GND @ unit_GND.transpose(1, 2)


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
