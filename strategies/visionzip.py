"""VisionZip: the class token, the patches that it attends to, and the rest merged into a few by their keys.

Source: Yang et al., VisionZip: Longer is Better but Not Necessary in Vision Language Models, CVPR 2025,
arXiv:2412.04467; dvlab-research/VisionZip, visionzip/clip_encoder.py.
The rank counts every row that the decoder sees. The authors give 54 dominant and 10 contextual rows for 64, 108 and 20
for 128, 162 and 30 for 192, the class token among the dominant ones, as the launchers count: a share of 10 in 64 at any
rank. Fed are the class token, the dominant patches in raster order, then the merged ones, before the projector.
In a picture of the kept places the most attended patch that has no row of its own stands for the class token.
We differ: of equal scores the lower index wins; one row is always left for the class token.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import normalize

from strategies import several
from strategies.evidence import CLASS_ATTENTION, CLASS_FEATURES, TOWER_FEATURES, TOWER_KEYS, EvidenceView
from strategies.limits import Range
from strategies.scores import lifted
from strategies.several import Views

SHARE = 10 / 64
NEEDS = frozenset({CLASS_ATTENTION, CLASS_FEATURES, TOWER_FEATURES, TOWER_KEYS})


def visionzip(view: EvidenceView, keep: int, *, contextual: Annotated[float, Range(0, 1)] = SHARE) -> Tensor:
    """The places of the dominant patches, of those that others are merged into, and one for the class token.

    Args:
        view: the tower's attention, keys and features are read.
        keep: rows in all, 0 <= keep <= V.
        contextual: the share of them that are merged, to the nearest whole number.

    Returns:
        (keep,) int64, ascending, unique.
    """
    return together([view], keep, contextual=contextual)[0]


def together(views: Views, keep: int, *, contextual: float = SHARE) -> Tensor:
    """(B, keep) the same of several images with as many tokens."""
    order_BV = several.by_falling(views, CLASS_ATTENTION)
    if keep == 0:
        return order_BV[:, :0]
    dominant_BK, target_BK, _ = _roles(order_BV, keep, contextual)
    chosen_BK = torch.cat((dominant_BK, target_BK), dim=1)
    free_BV = torch.ones_like(order_BV).scatter(1, chosen_BK, 0).gather(1, order_BV)  # by falling attention
    spare_B1 = order_BV.gather(1, free_BV.argmax(dim=1, keepdim=True))
    return torch.cat((chosen_BK, spare_B1), dim=1).sort(dim=1).values


def visionzip_rows(views: Views, kept_BK: Tensor, *, contextual: float = SHARE) -> Tensor:
    """What the decoder sees.

    Returns:
        (B, K, D): class token, dominant patches, and of each target the sum of its own features and the mean of those
        patches whose keys are nearest to its own.
    """
    order_BV = several.by_falling(views, CLASS_ATTENTION)
    dominant_BK, target_BK, rest_BM = _roles(order_BV, kept_BK.shape[1], contextual)
    parts = [several.class_features(views), several.features(views, dominant_BK)]
    if merged := target_BK.shape[1]:
        step = rest_BM.shape[1] // merged  # every first of so many is a target
        between_BM = rest_BM[:, : merged * step].unflatten(1, (merged, step))[:, :, 1:].flatten(1)
        member_BM = torch.cat((between_BM, rest_BM[:, merged * step :]), dim=1)
        keys = [view.once("unit keys", partial(_unit_keys, view)) for view in views]
        target_BEK = several.taken(keys, target_BK).mT
        nearest_BM = several.products(several.taken(keys, member_BM), target_BEK).argmax(dim=2)
        member_BKM = several.members(nearest_BM, merged, parts[0])
        sum_BKC = several.products(member_BKM, lifted(several.features(views, member_BM)))
        mean_BKC = sum_BKC / member_BKM.sum(dim=2, keepdim=True).clamp(min=1)
        parts.append((several.features(views, target_BK) + mean_BKC).to(parts[0].dtype))
    return several.projected(views, torch.cat(parts, dim=1))


def _unit_keys(view: EvidenceView) -> Tensor:
    """(V, E) each patch's key, mean over heads, of length 1."""
    return normalize(lifted(view.read(TOWER_KEYS)).mean(dim=1), dim=-1)


def _roles(order_V: Tensor, keep: int, contextual: float) -> tuple[Tensor, Tensor, Tensor]:
    """Dominant patches, targets, and all that are not dominant (targets too), each in raster order."""
    merged = min(math.floor(contextual * keep + 0.5), keep - 1)
    dominant = keep - 1 - merged
    rest_M = order_V[..., dominant:].sort().values
    step = max(1, rest_M.shape[-1] // max(merged, 1))
    return order_V[..., :dominant].sort().values, rest_M[..., ::step][..., :merged], rest_M
