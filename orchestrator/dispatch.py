"""Which worker answers which unit next, and what becomes of the units of a lost one. Pure: no Ray, no clock of its own.

Units are taken when somebody is free. At the end, when there is nothing left to take, who is free answers once more
what has been waited for too long, so that neither a slow nor a silent worker holds up a sweep; the first answer counts.
A unit whose worker was lost is tried again alone, so that it is known who is to blame, then sample by sample.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Generic, TypeVar

from workers.work import WorkUnit

MAX_LOSSES = 3  # workers lost over a unit before it is given up; after all but one of them it is cut into samples
MAX_MOVES = 10  # machines lost under a unit before it is suspected to have brought them down
AT_WORK = 2  # units of one worker that are computed at a time: the lanes of a GPU
SLOW = 3.0  # times as long as usual
SLOW_S = 2.0  # at least; what is faster is not worth a second worker

Worker = TypeVar("Worker", bound=Hashable)


@dataclass(slots=True, eq=False)
class Job:
    """A unit on its way."""

    unit: WorkUnit
    losses: int = 0  # workers lost over it
    moves: int = 0  # machines lost under it
    done: bool = False
    begun: float = 0.0  # when it was last handed out


@dataclass(frozen=True, slots=True)
class Loss:
    """What a lost worker means for its units."""

    again: int = 0  # samples that are tried again
    singly: bool = False  # one by one
    given_up: tuple[WorkUnit, ...] = ()


@dataclass(slots=True)
class Dispatch(Generic[Worker]):
    """Hands out units, each until it is answered or given up.

    Args:
        units: Taken one by one; only the first before anybody is free.
        in_hand: Units a worker may hold.
    """

    units: Iterable[WorkUnit]
    in_hand: int
    _hands: dict[Worker, list[Job]] = field(default_factory=dict)
    _again: deque[Job] = field(default_factory=deque)
    _suspects: deque[Job] = field(default_factory=deque)
    _pace: list[float] = field(default_factory=list)  # seconds a cell, of each answer
    _exhausted: bool = False

    def __post_init__(self) -> None:
        self.units = iter(self.units)
        self._take_next()

    @property
    def finished(self) -> bool:
        """Whether every unit is answered or given up; workers may still be busy with what another one answered."""
        waiting = self._again or self._suspects or any(not job.done for job in self._in_flight())
        return self._exhausted and not waiting

    def load(self, worker: Worker) -> int:
        """Units that a worker has in hand."""
        return len(self._hands.get(worker, ()))

    def take(self, worker: Worker, now: float) -> Job | None:
        """What a worker should do next; None while there is nothing for it.

        Args:
            worker: Who asks.
            now: Seconds on any clock that goes on.
        """
        hand = self._hands.setdefault(worker, [])
        if len(hand) >= self.in_hand or any(job.losses for job in hand):
            return None
        if not hand and self._suspects:
            job: Job | None = self._suspects.popleft()
        else:
            if not self._again and not self._exhausted:
                self._take_next()
            job = self._again.popleft() if self._again else None
            if job is None and not hand:
                job = self._overdue(now)
        if job is not None:
            job.begun = now
            hand.append(job)
        return job

    def answer(self, worker: Worker, job: Job, now: float) -> bool:
        """Note an answer.

        Returns:
            Whether it is the first one of its unit; others are to be ignored.
        """
        self._hands[worker].remove(job)
        first, job.done = not job.done, True
        if first:
            self._pace.append((now - job.begun) / job.unit.cells)
        return first

    def lose(self, worker: Worker, machine: bool) -> Loss:
        """A worker is no more.

        Args:
            worker: Who.
            machine: Its machine went with it, which is no unit's fault.
        """
        again, singly, given_up = 0, False, []
        for job in self._hands.pop(worker, ()):
            if job.done or any(job is other for other in self._in_flight()):
                continue  # answered, or with somebody else too
            if machine and job.moves < MAX_MOVES:
                job.moves += 1
                (self._suspects if job.losses else self._again).append(job)
            elif job.losses + 1 >= MAX_LOSSES:
                given_up.append(job.unit)
                continue
            else:
                job.losses += 1
                parts = [job]
                if job.losses == MAX_LOSSES - 1 and len(job.unit.samples) > 1:
                    singly = True  # one bad sample must not take its neighbours along
                    parts = [
                        Job(WorkUnit(samples=(sample,), points=job.unit.points), losses=job.losses, moves=job.moves)
                        for sample in job.unit.samples
                    ]
                self._suspects.extend(parts)
            again += len(job.unit.samples)
        return Loss(again, singly, tuple(given_up))

    def _take_next(self) -> None:
        unit = next(iter(self.units), None)
        if unit is None:
            self._exhausted = True
        else:
            self._again.append(Job(unit))

    def _in_flight(self) -> list[Job]:
        return [job for hand in self._hands.values() for job in hand]

    def _overdue(self, now: float) -> Job | None:
        """The unit waited for longest that is worth a second worker: it is slow, or lies behind another one."""
        flying = self._in_flight()
        candidates = [
            job
            for hand in self._hands.values()
            for place, job in enumerate(hand)
            if not job.done and sum(job is other for other in flying) == 1
            if place >= AT_WORK or now - job.begun > self._patience(job)
        ]
        return min(candidates, key=lambda job: job.begun, default=None)

    def _patience(self, job: Job) -> float:
        usual = median(self._pace) * job.unit.cells if self._pace else float("inf")
        return max(SLOW_S, SLOW * usual)
