"""Micro-batches while they are being filled: which samples still go with one, and which of them run together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil

from workers import evidence
from workers.families.config import ModelConfig
from workers.families.model import Encoded
from workers.memory import NOTHING, RIDING_WAVES, Budget, Footprint, RowBytes, footprint
from workers.shown import Shown
from workers.tasks.base import Sample
from workers.work import GridPoint


@dataclass(frozen=True, slots=True, eq=False)
class PreparedSample:
    """A sample ready for the model."""

    sample: Sample
    prompt: Encoded
    image: str  # by what its image is recognised; '' where it has none, or shares it with nobody
    need: Footprint  # of the first question about an image
    further: Footprint  # of each later one
    shown: Shown
    digest: str = ""  # of the image's pixels, where somebody draws by it


Footprints = Callable[[Encoded, bool], Footprint]  # of a prompt; whether another asks about its image


def footprints_of(points: Sequence[GridPoint], row: RowBytes, config: ModelConfig) -> Footprints:
    """What prompts ask of a device for a grid: worked out once for all that are as long.

    Args:
        points: the grid.
        row: bytes of rows in the model.
        config: its sizes.
    """
    needs = evidence.needed(points)

    @cache
    def of(prompt: int, visual: int, system: int, further: bool) -> Footprint:
        scratch = evidence.scratch(needs, config, prompt, visual)
        return footprint(row, points, prompt=prompt, visual=visual, system=system, scratch=scratch, further=further)

    return lambda prompt, further: of(prompt.length, prompt.visual, prompt.system, further)


class Round:
    """Samples whose trunks go through the decoder together."""

    def __init__(self, first: PreparedSample) -> None:
        self.samples = 0
        self.total = NOTHING
        self._images: set[str] = set()
        self.add(first)

    def need(self, item: PreparedSample) -> Footprint:
        """What a sample adds: without the rows of its image, where they are there."""
        return item.further if item.image in self._images else item.need

    def add(self, item: PreparedSample) -> None:
        self.total += self.need(item)
        self.samples += 1
        if item.image:
            self._images.add(item.image)


class Filling:
    """Takes one sample after the other, until there is one that has to go with the next micro-batch."""

    def __init__(self, budget: Budget, most: int | None = None, rides: bool = False) -> None:
        """Begin with no sample.

        Args:
            budget: of a wave.
            most: samples; None: as many as the budget takes.
            rides: a wave decodes beside the next, so that there may be several rounds. Then only the last wave has none
                to decode beside, and a micro-batch is filled until it has `RIDING_WAVES`.
        """
        self._budget = budget
        self._most = most
        self._rides = rides
        self._ids: set[str] = set()
        self._round: Round | None = None  # the last
        self._waves = 0  # of those before it

    def takes(self, item: PreparedSample) -> bool:
        """Take a sample, or leave it to the next micro-batch. The first is taken whatever it asks for."""
        last = self._round
        joins = last is not None and (self._most is not None or self._budget.takes(last.total, last.need(item)))
        if last is not None and not self._has_room(last, item, joins):
            return False
        self._ids.add(item.sample.id)
        if last is not None and joins:
            last.add(item)
        else:
            self._waves += self._filled(last.total) if last else 0
            self._round = Round(item)
        return True

    def _has_room(self, last: Round, item: PreparedSample, joins: bool) -> bool:
        if item.sample.id in self._ids:
            return False  # asked by two units: each has its own answer
        if self._most is not None:
            return len(self._ids) < self._most
        if not self._rides:
            return joins
        both = (last.total + last.need(item),) if joins else (last.total, item.need)
        return self._waves + sum(map(self._filled, both)) <= RIDING_WAVES

    def _filled(self, total: Footprint) -> int:
        return max(1, ceil(self._budget.waves(total)))


def rounds(budget: Budget, items: Iterable[PreparedSample]) -> list[int]:
    """How many samples go through the decoder together, round after round, where waves ride."""
    made: list[Round] = []
    for item in items:
        if made and budget.takes(made[-1].total, made[-1].need(item)):
            made[-1].add(item)
        else:
            made.append(Round(item))
    return [one.samples for one in made]
