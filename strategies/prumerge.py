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

from typing import Literal

import torch
from torch import Tensor

from strategies.evidence import JOINED_CLASS_ATTENTION, TOWER_FEATURES, TOWER_KEYS, EvidenceView
from strategies.scores import cosine, descending_order, lifted
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
    return _with_spare(view, _attended(view, keep - 1, count), keep)


def prumerge_plus(view: EvidenceView, keep: int, *, count: Count = "exact") -> Tensor:
    """As ``prumerge``, with patches sampled at equal distances."""
    return _with_spare(view, _sampled(view, keep - 1, count), keep)


def prumerge_rows(view: EvidenceView, kept_K: Tensor, *, count: Count = "exact") -> Tensor:
    """(K, D) what the decoder sees: each patch with its neighbours, and the weighted sum of what was not kept."""
    return _merged(view, _attended(view, len(kept_K) - 1, "exact"))


def prumerge_plus_rows(view: EvidenceView, kept_K: Tensor, *, count: Count = "exact") -> Tensor:
    """As ``prumerge_rows``."""
    return _merged(view, _sampled(view, len(kept_K) - 1, count))


def _attended(view: EvidenceView, most: int, count: str) -> Tensor:
    """Patches by falling attention."""
    if count == "adaptive":
        most = min(most, max(1, int(outliers(view.read(ATTENTION)))))
    return view.once("by attention", lambda: descending_order(view.read(ATTENTION)))[: max(most, 0)]


def _sampled(view: EvidenceView, most: int, count: str) -> Tensor:
    """Patches by falling attention, then those at equal distances that are not among them."""
    if most < 1:
        return torch.arange(0, device=view.device)
    if count == "exact":
        first_K = _attended(view, max(1, most // 4), "exact")
    else:
        first_K = _attended(view, view.visual, "adaptive")
    free_V = torch.ones(view.visual, dtype=torch.bool, device=view.device).index_fill(0, first_K, False)
    if count == "exact":
        wanted, rest_M = most - len(first_K), free_V.nonzero()[:, 0]
        return torch.cat((first_K, rest_M[torch.arange(wanted, device=view.device) * len(rest_M) // max(wanted, 1)]))
    step = max(1, view.visual // len(first_K) // 3)
    places_N = torch.arange(0, view.visual - 1, step, device=view.device)
    return torch.cat((first_K, places_N[free_V[places_N]]))[:most]


def _with_spare(view: EvidenceView, chosen_K: Tensor, keep: int) -> Tensor:
    """With the place that stands for the sum: the most attended patch that is not chosen."""
    if keep == 0:
        return chosen_K[:0]
    spare_V = lifted(view.read(ATTENTION)).index_fill(0, chosen_K, -torch.inf)
    return torch.cat((chosen_K, spare_V.argmax(dim=0, keepdim=True))).sort().values


def _merged(view: EvidenceView, chosen_K: Tensor) -> Tensor:
    attention_V, features_VC = view.read(ATTENTION), view.read(TOWER_FEATURES)
    key_VC = view.read(KEYS).flatten(1)
    exact_VC = lifted(features_VC)
    likeness_KV = cosine(key_VC[chosen_K], key_VC).scatter(1, chosen_K[:, None], -torch.inf)  # not itself
    near_KN = likeness_KV.sort(dim=1, descending=True, stable=True).indices[:, : min(NEIGHBOURS, view.visual - 1)]
    weight_V = attention_V.to(exact_VC.dtype)
    weight_KV = torch.zeros_like(likeness_KV, dtype=exact_VC.dtype).scatter(1, near_KN, weight_V[near_KN])
    patches_KC = exact_VC[chosen_K] + weight_KV @ exact_VC
    sum_C = weight_V.index_fill(0, chosen_K, 0) @ exact_VC
    return view.projected(torch.cat((patches_KC, sum_C[None])).to(features_VC.dtype))
