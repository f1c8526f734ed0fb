"""Admissible values of a strategy's parameters, written beside the type: ``alpha: Annotated[float, Range(0, 1)]``.

A limit says in one line what is wrong with a value. Types themselves (whole number, number, yes or no, one of these
words) are checked by the catalog.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Range:
    """Admissible values of a numeric parameter, both ends included; ``high`` may be open."""

    low: float
    high: float | None = None

    def complaint(self, value: Any, heads: int | None = None) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return f"{value!r} is not a number"
        if value < self.low or (self.high is not None and value > self.high):
            return f"{value} is outside {self.low}..{'' if self.high is None else self.high}"
        return None


@dataclass(frozen=True, slots=True)
class AtMostHeads:
    """A number of query heads: at most as many as the model has, where the model is known."""

    def complaint(self, value: Any, heads: int | None = None) -> str | None:
        if heads is not None and value > heads:
            return f"{value} is above the model's {heads} heads"
        return None
