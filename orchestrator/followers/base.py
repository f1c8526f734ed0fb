"""Whoever hears of a sweep while it runs is one class, and one list tells them all.

The cells are the sweep, and followers show or copy them. So none may hold it up: what takes its time is handed to a
thread or process of the follower's own. And none can end it: who fails hears no more, and leaves a line for the user.

A bucket is not among them. It follows a folder, from before there is an experiment until its pages are drawn, and of
commands without a sweep too (`results.location.followed`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from orchestrator.tune.rungs import Metrics, News
from strategies.errors import SaccadeError, one_line
from workers.work import UnitOutcome, WorkUnit

log = logging.getLogger(f"saccade.{__name__}")

Said = TypeVar("Said")
Reports = Mapping[str, Sequence[Metrics]]  # of each grid point, by its key, all that its cells say


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A sweep that begins to compute."""

    points: int  # of the grid
    there: int  # cells of earlier runs
    missing: int  # cells to be computed
    reports: Reports


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A unit whose answers are on disk, and what follows from them."""

    unit: WorkUnit
    outcome: UnitOutcome
    left_out: int = 0  # cells that racing has left out since the last unit
    stopped: Sequence[str] = ()  # labels of the grid points that racing stops by these answers
    news: News = field(default_factory=list)  # what grid points report since the last unit


class Follower:
    """Hears of a sweep. Each method does nothing here, and all but `finish` return at once."""

    what = "a follower"  # as people call it

    def lags(self, reports: Reports) -> bool:
        """Whether it has to hear of a sweep of which no cell is missing."""
        return False

    def start(self, begun: Begun) -> None:
        """Units are about to be given out. The cluster is there."""

    def ready(self) -> None:
        """The first engine has loaded its model."""

    def event(self, line: str) -> None:
        """Something happened that is worth a line of its own."""

    def outcome(self, answered: Answered) -> None:
        """A unit was answered."""

    def finish(self) -> str | None:
        """All is computed: catch up, within a time. Without `start`, where no cell was missing.

        Returns:
            One line for the user where something went wrong.
        """
        return None

    def abandon(self) -> None:
        """The sweep is broken off, or this follower has failed: end soon, and leave whole what is there."""


class Followers:
    """The list; it has the methods of each."""

    def __init__(self, followers: Sequence[Follower]) -> None:
        """Begin with all of them; none has failed.

        Args:
            followers: In the order in which they are told.
        """
        self._left = list(followers)
        self.notes: list[str] = []  # for the user, a line each

    def lag(self, reports: Reports) -> bool:
        return any(self._each(lambda follower: follower.lags(reports)))

    def start(self, begun: Begun) -> None:
        self._each(lambda follower: follower.start(begun))

    def ready(self) -> None:
        self._each(lambda follower: follower.ready())

    def event(self, line: str) -> None:
        self._each(lambda follower: follower.event(line))

    def outcome(self, answered: Answered) -> None:
        self._each(lambda follower: follower.outcome(answered))

    def finish(self) -> None:
        self.notes += [note for note in self._each(lambda follower: follower.finish()) if note]

    def abandon(self) -> None:
        self._each(lambda follower: follower.abandon())

    def _each(self, tell: Callable[[Follower], Said]) -> list[Said]:
        """Tell all that are left; who fails is given up."""
        said = []
        for follower in tuple(self._left):
            try:
                said.append(tell(follower))
            except Exception as error:  # also a bug of ours: the cells are worth more than who looks at them
                self._left.remove(follower)
                self.notes.append(f"{follower.what}: {_reason(error)}; the results are complete without it")
                try:
                    follower.abandon()
                except Exception:
                    log.exception("%s could not be given up", follower.what)
        return said


def _reason(error: Exception) -> str:
    """What to tell the user of an exception; one that nobody foresaw is shown whole, now."""
    if isinstance(error, SaccadeError | OSError):
        return one_line(str(error))
    log.exception("a follower of the sweep failed")
    return one_line(f"{type(error).__name__}: {error}")
