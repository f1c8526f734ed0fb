"""The mistakes of a sweep file: each with its place, all told together.

Who checks a part of the file is a generator: it yields the mistakes and returns what the part stands for, as far as
that can be said. ``part = yield from check(...)`` takes the one and passes the others on.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import NamedTuple, TypeVar

from strategies.errors import SaccadeError

T = TypeVar("T")


class SpecError(SaccadeError):
    """A sweep file is wrong. One line per mistake, each with file, place and remedy; exit code 2."""


class Mistake(NamedTuple):
    """What is wrong, and where."""

    place: str  # inside the file, such as grid[2].rank
    what: str


Check = Generator[Mistake, None, T]


def checked(check: Check[T]) -> tuple[T, list[Mistake]]:
    """What a part stands for, and all its mistakes."""
    mistakes = []
    while True:
        try:
            mistakes.append(next(check))
        except StopIteration as end:
            return end.value, mistakes


def in_file_order(mistakes: Iterable[Mistake]) -> list[Mistake]:
    """Each mistake once; those of the grid by entry, so that the list can be worked through from top to bottom."""

    def entry(mistake: Mistake) -> int:
        place = mistake.place
        return int(place[5 : place.index("]")]) if place.startswith("grid[") else -1

    return sorted(dict.fromkeys(mistakes), key=entry)
