"""Made-up evidence of the model and of CLIP, by the names that strategies declare, for views without a model."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from strategies.decoder_evidence import LAYER_KEYS, NORMED_STATES, POSITION_PULL, STATES_BEFORE, TEXT_MASS
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

HEADS, WIDTH, SPACE, TEXT = 3, 8, 6, 7


def tower_evidence(
    needs: Iterable[str], visual: int, distinct: int | None = None, seed: int = 0, width: int = WIDTH, text: int = TEXT
) -> dict[str, Tensor]:
    """For each name that is no field of a view: drawn, and equal for tokens that repeat where they are not distinct."""
    found = {}
    for name in sorted(set(needs) - set(Evidence)):
        base, _, layer = name.partition("@")
        generator = torch.Generator().manual_seed(seed + sum(map(ord, layer)))
        origin = torch.arange(visual) % (distinct or visual)
        if base in (LAYER_KEYS, NORMED_STATES):  # of the text too, whose tokens never repeat
            origin = torch.cat((origin, torch.arange(text) + (distinct or visual)))
            found[name] = _drawn(base, (distinct or visual) + text, generator, origin, width)
            continue
        if base in (TEXT_MASS, POSITION_PULL):
            drawn = torch.rand(text, distinct or visual, generator=generator)[:, origin] + 0.5
            found[name] = drawn if base == POSITION_PULL else drawn[:, 0].softmax(dim=0)
            continue
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
    if base in (TOWER_KEYS, LAYER_KEYS):
        return normal(distinct, HEADS, width // 2)[origin]
    if base in (TOWER_FEATURES, NORMED_STATES):
        return normal(distinct, width)[origin]
    if base == STATES_BEFORE:
        return normal(distinct, 12)[origin]  # as wide as the hidden states of a view
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
