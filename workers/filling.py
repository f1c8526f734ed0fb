"""A micro-batch while it is being filled: which samples still go with it."""

from __future__ import annotations

from dataclasses import dataclass

from workers.families.model import Encoded
from workers.memory import NOTHING, Budget, Footprint
from workers.tasks.base import Sample


@dataclass(frozen=True, slots=True, eq=False)
class PreparedSample:
    """A sample ready for the model."""

    sample: Sample
    prompt: Encoded
    image: str  # by what its image is recognised; '' where it has none, or shares it with nobody
    need: Footprint  # of the first question about an image
    further: Footprint  # of each later one


class Filling:
    """Takes one sample after the other, until there is one that has to go with the next micro-batch."""

    def __init__(self, budget: Budget, most: int | None) -> None:
        """Begin with no sample.

        Args:
            budget: of a wave.
            most: samples; None: as many as the budget takes.
        """
        self._budget = budget
        self._most = most
        self._total: Footprint | None = None
        self._ids: set[str] = set()
        self._images: set[str] = set()

    def takes(self, item: PreparedSample) -> bool:
        """Take a sample, or leave it to the next micro-batch. The first is taken whatever it asks for."""
        need = item.further if item.image in self._images else item.need
        if self._total is not None and not self._has_room(item, need):
            return False
        self._total = (self._total or NOTHING) + need
        self._ids.add(item.sample.id)
        self._images |= {item.image} - {""}
        return True

    def _has_room(self, item: PreparedSample, need: Footprint) -> bool:
        if item.sample.id in self._ids:
            return False  # asked by two units: each has its own answer
        if self._most is not None:
            return len(self._ids) < self._most
        assert self._total is not None
        return self._budget.takes(self._total, need)
