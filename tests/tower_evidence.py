"""Made-up evidence of a vision tower and of CLIP, by the names that strategies declare, for views without a model."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from strategies.evidence import (
    CLASS_ATTENTION,
    CLASS_FEATURES,
    IMAGE_EMBEDDINGS,
    JOINED_CLASS_ATTENTION,
    LOADINGS,
    PLACES,
    PROMPT_EMBEDDING,
    QUESTION_EMBEDDINGS,
    RECEIVED_ATTENTION,
    TOWER_FEATURES,
    TOWER_KEYS,
)
from strategies.pyramiddrop import ROW_AHEAD
from strategies.view import Evidence

HEADS, WIDTH, SPACE = 3, 8, 6


def tower_evidence(
    needs: Iterable[str], visual: int, distinct: int | None = None, seed: int = 0, width: int = WIDTH
) -> dict[str, Tensor]:
    """For each name that is no field of a view: drawn, and equal for tokens that repeat where they are not distinct."""
    found = {}
    for name in sorted(set(needs) - set(Evidence)):
        base, _, layer = name.partition("@")
        generator = torch.Generator().manual_seed(seed + sum(map(ord, layer)))
        origin = torch.arange(visual) % (distinct or visual)
        found[name] = _drawn(base, distinct or visual, generator, origin, width)
    return found


def _drawn(base: str, distinct: int, generator: torch.Generator, origin: Tensor, width: int) -> Tensor:
    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    if base in (CLASS_ATTENTION, RECEIVED_ATTENTION):
        return torch.rand(distinct, HEADS, generator=generator)[origin] / distinct
    if base == ROW_AHEAD:
        return torch.rand(HEADS, distinct, generator=generator)[:, origin] / distinct
    if base == JOINED_CLASS_ATTENTION:
        return torch.rand(distinct, generator=generator)[origin] / distinct
    if base == TOWER_KEYS:
        return normal(distinct, HEADS, width // 2)[origin]
    if base == TOWER_FEATURES:
        return normal(distinct, width)[origin]
    if base == CLASS_FEATURES:
        return normal(1, width).expand(len(origin), -1)
    if base == LOADINGS:
        return normal(distinct, len(origin)).abs()[origin]
    if base == PLACES:
        return places(len(origin))
    if base == IMAGE_EMBEDDINGS:
        return normal(distinct, SPACE)[origin]
    if base in (QUESTION_EMBEDDINGS, PROMPT_EMBEDDING):
        return normal(3 if base == QUESTION_EMBEDDINGS else 1, SPACE)
    raise AssertionError(f"nobody has made up {base}")


def places(visual: int, width: int | None = None) -> Tensor:
    """(V, 3) of one square, as square as the number lets it be, or so wide; row by row."""
    width = width or next(side for side in range(int(visual**0.5) or 1, 0, -1) if visual % side == 0)
    place = torch.arange(visual)
    return torch.stack((torch.ones_like(place), place // width + 1, place % width + 1), dim=1).float()


def projector(width: int) -> Tensor:
    """(C, D) a fixed matrix in a projector's place."""
    return torch.randn(WIDTH, width, generator=torch.Generator().manual_seed(9))
