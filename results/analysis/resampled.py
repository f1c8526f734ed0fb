"""Intervals and marks of means over benchmarks, of which each has been resampled by its own images.

Of few images an interval's ends lie further out (`significance.expanded_tails`). A benchmark whose resamples are all
alike says only that nothing else was seen: it moves the ends by what the rule of three says may have been missed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from results.analysis.significance import NO_WIDTH, expanded_tails, missed

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampled:
    """A figure of one benchmark."""

    value_B: Floats
    images: int
    scale: float  # the figure per unit of the mean score

    def __sub__(self, other: Resampled) -> Resampled:
        """The difference, of the same resamples."""
        return Resampled(value_B=self.value_B - other.value_B, images=self.images, scale=self.scale)

    @property
    def unseen(self) -> float:
        """By how much questions that were not asked may move the figure beyond its resamples."""
        low, high = np.quantile(self.value_B, expanded_tails(self.images)).tolist()
        alike = high - low <= NO_WIDTH * self.scale  # NaN is not
        return self.scale * float(missed(np.array(self.images))) if alike else 0.0


def interval(parts: Sequence[Resampled]) -> tuple[float, float]:
    """Of the mean over benchmarks, at 95 %."""
    tails = expanded_tails(min(part.images for part in parts))  # of few images resamples vary too little
    low, high = np.quantile(np.mean([part.value_B for part in parts], axis=0), tails).tolist()
    unseen = float(np.mean([part.unseen for part in parts]))
    return low - unseen, high + unseen


def first_two(drawn: Mapping[int, Sequence[Resampled]]) -> list[tuple[int, str]]:
    """Which of some means over benchmarks is best, and which second; of two that cannot be told apart neither."""
    order = sorted(drawn, key=lambda place: -float(np.mean([part.value_B for part in drawn[place]])))
    marks = []
    for mark, place, following in zip(("best", "second"), order, order[1:], strict=False):
        if not interval([one - other for one, other in zip(drawn[place], drawn[following], strict=True)])[0] > 0:
            break
        marks.append((place, mark))
    return marks
