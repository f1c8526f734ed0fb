"""How one kind of evidence is had: a row of the table in ``workers/evidence.py``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from workers.families.config import ModelConfig
from workers.sites import Site, Tower

Flop = Callable[
    [ModelConfig, Any, float], Any
]  # of the model, from tokens and visual tokens of the sequence, per reading
Scratch = Callable[[ModelConfig, int, int], int]  # from the same


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """How one kind of evidence is had."""

    name: str
    site: Site
    # Tower -> (N, P, ...); InputRows -> (V, ...); DecoderLayer -> any shape. Of the first two each row is of a token.
    # Questions -> for each of them a tensor of any shape.
    give: Callable[[Any], Any]
    words: str  # "chosen by ...", for people
    flop: Flop  # of the tower: of each square; NaN where an experiment does not record it; tokens may be an array
    text_flop: Callable[[ModelConfig, Any, int, Any], Any] | None = None  # what depends on the tokens after the image
    scratch: Scratch | None = None  # bytes at most while it is had and read of a decoder layer; None: next to nothing
    field: str | None = None  # of TokenView; None: it is read by its name
    layer_before: bool = False  # of a decoder layer: what layer K-1 computed, so that there is none at K = 0
    entered: bool = False  # of a decoder layer: what entered layer K-1, which has to be kept for it
    layer_ahead: bool = False  # of a decoder layer: what layer K itself would compute
    of_text: bool = False  # of the input: its rows are not of the visual tokens, so that none goes with them
    image_only: bool = False  # outside of the tower: no token after the image is read, so all questions have it alike
    of_layer: Callable[[Tower, int], Tensor] | None = None  # the same of any tower layer
    class_token: bool = False  # whether it is of the tower's class token, which not every tower has
    text_tower: bool = False  # whether it is had by CLIP's text tower


def nothing(config: ModelConfig, tokens: Any, visual: float) -> int:
    return 0


def feature_scratch(config: ModelConfig, tokens: int, visual: int) -> int:
    """Two float32 copies, one of them normalised, and twice the similarity of all to all."""
    return 4 * (2 * visual * config.hidden + 2 * visual**2)
