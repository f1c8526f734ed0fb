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
from typing import Annotated

import torch
from torch import Tensor

from strategies import several
from strategies.evidence import CLASS_ATTENTION, CLASS_FEATURES, TOWER_FEATURES, TOWER_KEYS, EvidenceView
from strategies.limits import Range
from strategies.scores import cosine, lifted
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


def visionzip_rows(view: EvidenceView, kept_K: Tensor, *, contextual: float = SHARE) -> Tensor:
    """What the decoder sees.

    Returns:
        (K, D): class token, dominant patches, and of each target the sum of its own features and the mean of those
        patches whose keys are nearest to its own.
    """
    dominant_K, target_K, rest_M = _roles(view.by_falling(CLASS_ATTENTION), len(kept_K), contextual)
    features_VC = view.read(TOWER_FEATURES)
    parts = [view.read(CLASS_FEATURES)[:1], features_VC[dominant_K]]
    if len(target_K):
        member_M = rest_M[(rest_M[:, None] != target_K).all(dim=1).nonzero()[:, 0]]
        key_VE = view.once("mean keys", lambda: lifted(view.read(TOWER_KEYS)).mean(dim=1))
        nearest_M = cosine(key_VE[member_M], key_VE[target_K]).argmax(dim=1)
        member_KM = lifted(
            (nearest_M == torch.arange(len(target_K), device=view.device)[:, None]).to(features_VC.dtype)
        )
        mean_KC = member_KM @ lifted(features_VC[member_M]) / member_KM.sum(dim=1, keepdim=True).clamp(min=1)
        parts.append((features_VC[target_K] + mean_KC).to(features_VC.dtype))
    return view.projected(torch.cat(parts))


def _roles(order_V: Tensor, keep: int, contextual: float) -> tuple[Tensor, Tensor, Tensor]:
    """Dominant patches, targets, and all that are not dominant (targets too), each in raster order."""
    merged = min(math.floor(contextual * keep + 0.5), keep - 1)
    dominant = keep - 1 - merged
    rest_M = order_V[..., dominant:].sort().values
    step = max(1, rest_M.shape[-1] // max(merged, 1))
    return order_V[..., :dominant].sort().values, rest_M[..., ::step][..., :merged], rest_M
