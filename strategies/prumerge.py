"""PruMerge and PruMerge+: the patches that stand out by the class token's attention, each with its likest ones merged.

Source: Shang et al., LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal Models, ICCV 2025,
arXiv:2403.15388; 42Shawn/LLaVA-PruMerge, llava/model/multimodal_encoder/clip_encoder.py.
Kept as published: attention and keys are those of the tower's last layer, all heads as one, the features those of the
layer before; merging adds the neighbours, weighted by their attention, without dividing by the weights; one row more is
the weighted sum of all that were not kept. Fed are the patches by falling attention, then those sampled, then the sum.
We differ. The rank says how many rows the decoder sees, the sum among them; of PruMerge+ a quarter is by attention and
the rest evenly spaced among the others. ``count: adaptive`` is the authors' own number, of which the rank is then the
most: as many as stand out in the attention, and for PruMerge+ every third of their mean distance, total where their
code stops with an error (none, or more than a third of the patches).
In a picture of the kept places the best patch that was not kept stands for the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from strategies import several
from strategies.evidence import JOINED_CLASS_ATTENTION, TOWER_FEATURES, TOWER_KEYS, EvidenceView
from strategies.scores import lifted
from strategies.several import Views
from strategies.trim import outliers

ATTENTION, KEYS = f"{JOINED_CLASS_ATTENTION}@-1", f"{TOWER_KEYS}@-1"
NEEDS = frozenset({ATTENTION, KEYS, TOWER_FEATURES})
NEIGHBOURS = 32
Count = Literal["exact", "adaptive"]


def prumerge(view: EvidenceView, keep: int, *, count: Count = "exact") -> Tensor:
    """The places of the most attended patches, and one for the sum of the others.

    Args:
        view: the last tower layer's attention and keys, and the tower's features are read.
        keep: rows in all, 0 or 2 <= keep <= V.
        count: as many as asked for, or as many as stand out, and at most as many as asked for.

    Returns:
        (keep,) int64, ascending, unique; fewer where the count is adaptive.
    """
    return together([view], keep, count=count)[0]


def prumerge_plus(view: EvidenceView, keep: int, *, count: Count = "exact") -> Tensor:
    """As ``prumerge``, with patches sampled at equal distances."""
    return plus_together([view], keep, count=count)[0]


def together(views: Views, keep: int, *, count: Count = "exact") -> Sequence[Tensor] | Tensor:
    """``prumerge`` of several images with as many tokens."""
    return _with_spare(views, keep, count, _attended)


def plus_together(views: Views, keep: int, *, count: Count = "exact") -> Sequence[Tensor] | Tensor:
    """``prumerge_plus`` of several images with as many tokens."""
    return _with_spare(views, keep, count, _sampled)


def prumerge_rows(views: Views, kept_BK: Tensor, *, count: Count = "exact") -> Tensor:
    """(B, K, D) what the decoder sees: each patch with its neighbours, and the weighted sum of what was not kept."""
    return _merged(views, _attended(views, kept_BK.shape[1] - 1, "exact"))


def prumerge_plus_rows(views: Views, kept_BK: Tensor, *, count: Count = "exact") -> Tensor:
    """As ``prumerge_rows``."""
    most = kept_BK.shape[1] - 1
    each = [_sampled([view], most, count) for view in views] if count == "adaptive" else [_sampled(views, most, count)]
    return _merged(views, torch.cat(each))


def _attended(views: Views, most: int, count: str) -> Tensor:
    """(B, K) patches by falling attention; of one image where the count is adaptive."""
    if count == "adaptive":
        (view,) = views
        most = min(most, max(1, int(outliers(view.read(ATTENTION)))))
    order_BV = several.once(views, "by attention", lambda: several.falling(several.read(views, ATTENTION)))
    return order_BV[:, : max(most, 0)]


def _sampled(views: Views, most: int, count: str) -> Tensor:
    """As ``_attended``, then those at equal distances that are not among them."""
    if most < 1:
        return _attended(views, 0, "exact")
    visual = views[0].visual
    first_BK = _attended(views, max(1, most // 4) if count == "exact" else visual, count)
    free_BV = torch.ones(len(views), visual, dtype=torch.bool, device=first_BK.device).scatter(1, first_BK, False)
    if count == "exact":
        wanted, rest = most - first_BK.shape[1], visual - first_BK.shape[1]
        rest_BM = free_BV.sort(dim=1, descending=True, stable=True).indices[:, :rest]
        evenly_N = torch.arange(wanted, device=first_BK.device) * rest // max(wanted, 1)
        return torch.cat((first_BK, rest_BM[:, evenly_N]), dim=1)
    step = max(1, visual // first_BK.shape[1] // 3)
    places_N = torch.arange(0, visual - 1, step, device=first_BK.device)
    return torch.cat((first_BK, places_N[None, free_BV[0, places_N]]), dim=1)[:, :most]


def _with_spare(
    views: Views, keep: int, count: str, choose: Callable[[Views, int, str], Tensor]
) -> Sequence[Tensor] | Tensor:
    """With the place that stands for the sum: the most attended patch that is not chosen."""
    if count == "adaptive" and len(views) > 1:  # each has a number of its own
        return [_with_spare([view], keep, count, choose)[0] for view in views]
    chosen_BK = choose(views, keep - 1, count)
    if keep == 0:
        return chosen_BK[:, :0]
    spare_BV = lifted(several.read(views, ATTENTION)).scatter(1, chosen_BK, -torch.inf)
    return torch.cat((chosen_BK, spare_BV.argmax(dim=1, keepdim=True)), dim=1).sort(dim=1).values


def _merged(views: Views, chosen_BK: Tensor) -> Tensor:
    """(B, K + 1, D) of the chosen patches, and of all others."""
    grown_BKC = several.taken(
        (view.once("with neighbours", partial(_with_neighbours, view)) for view in views), chosen_BK
    )
    features = several.exact(views, TOWER_FEATURES)
    left_BV = several.read(views, ATTENTION).to(features[0].dtype).scatter(1, chosen_BK, 0)
    rows_BKC = torch.cat((grown_BKC, several.products(left_BV, features)[:, None]), dim=1)
    return several.projected(views, rows_BKC.to(views[0].read(TOWER_FEATURES).dtype))


def _with_neighbours(view: EvidenceView) -> Tensor:
    """(V, C) each patch, and the weighted sum of those that are likest to it."""
    near_VN = _nearest(view)  # before there is anything else: it takes most
    (exact_VC,) = several.exact([view], TOWER_FEATURES)
    weight_V = view.read(ATTENTION).to(exact_VC.dtype)
    weight_VV = exact_VC.new_zeros(view.visual, view.visual).scatter_(1, near_VN, weight_V[near_VN])
    return (weight_VV @ exact_VC).add_(exact_VC)


def _nearest(view: EvidenceView) -> Tensor:
    """(V, N) int64 for each patch the likest others by their keys."""
    unit_VC = normalize(lifted(view.read(KEYS)).flatten(1), dim=-1)
    likeness_VV = (unit_VC @ unit_VC.T).fill_diagonal_(-torch.inf)  # not itself
    del unit_VC
    order_VV = likeness_VV.sort(dim=1, descending=True, stable=True).indices
    return order_VV[:, : min(NEIGHBOURS, view.visual - 1)].clone()
