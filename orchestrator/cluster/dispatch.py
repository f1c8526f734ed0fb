"""Which worker answers which unit next, and what becomes of the units of a lost one. Pure: no Ray, no clock of its own.

A free worker takes the next unit. When none is left, it takes one that another worker is late with, so that neither a
slow nor a silent worker holds up a sweep; the first answer counts. If a worker is lost, its units are tried again, each
alone on a worker, to see which one is to blame, and that one sample by sample. A unit without an answer within its
limit is cut into samples at once; a sample that takes as long alone is given up.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Generic, TypeVar

from orchestrator.cluster.limits import SAID_AFTER, SAMPLE_S, TIMES_USUAL
from workers.work import WorkUnit

MAX_LOSSES = 3  # workers lost over a unit before it is given up; after all but one of them it is cut into samples
MAX_MOVES = 10  # machines lost under a unit before it is suspected to have brought them down
AT_WORK = 2  # units of one worker that are computed at a time: the lanes of a GPU
SLOW = 3.0  # times as long as usual
SLOW_S = 2.0  # at least; what is faster is not worth a second worker
RECENT = 200  # answers that say what is usual

Worker = TypeVar("Worker", bound=Hashable)


@dataclass(slots=True, eq=False)
class Job:
    """A unit on its way."""

    unit: WorkUnit
    losses: int = 0  # workers lost over it
    moves: int = 0  # machines lost under it
    done: bool = False


@dataclass(slots=True, eq=False)
class Turn:
    """A job in a worker's hand."""

    job: Job
    begun: float  # when it was handed out, or there was nothing left before it
    said: bool = False  # that it is waited for


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
        limit_s: For an answer, where units usually take less.
        tried: Samples that have been given that time before: they come last, each alone, and once.
    """

    units: Iterable[WorkUnit]
    in_hand: int
    limit_s: float = SAMPLE_S
    tried: Collection[str] = ()
    _hands: dict[Worker, list[Turn]] = field(default_factory=dict)
    _again: deque[Job] = field(default_factory=deque)
    _suspects: deque[Job] = field(default_factory=deque)
    _pace: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))  # seconds a cell
    _flying: Counter[Job] = field(default_factory=Counter)  # in how many hands each is
    _none_late_at: float | None = None  # when nothing was worth a second worker, if nothing has changed since
    _exhausted: bool = False
    _jobs: Iterator[Job] = field(init=False)

    def __post_init__(self) -> None:
        self._jobs = self._in_order()
        self._take_next()

    @property
    def finished(self) -> bool:
        """Whether every unit is answered or given up; workers may still be busy with what another one answered."""
        if not self._exhausted or self._again or self._suspects:
            return False
        return all(job.done for job in self._flying)

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
        if len(hand) >= self.in_hand or any(turn.job.losses for turn in hand):
            return None
        if not hand and self._suspects:
            job: Job | None = self._suspects.popleft()
        else:
            if not self._again and not self._exhausted:
                self._take_next()
            job = self._again.popleft() if self._again else None
            if job is None and not hand:
                job = self._suspects.popleft() if self._suspects else self._overdue(now)
        if job is not None:
            hand.append(Turn(job, begun=now))
            self._flying[job] += 1
        return job

    def answer(self, worker: Worker, job: Job, now: float) -> bool:
        """Note an answer.

        Returns:
            Whether it is the first one of its unit; others are to be ignored.
        """
        hand = self._hands[worker]
        place = next(place for place, turn in enumerate(hand) if turn.job is job)
        turn = hand.pop(place)
        self._landed(job)
        if place < AT_WORK <= len(hand):
            hand[AT_WORK - 1].begun = now
        first, job.done = not job.done, True
        if first:
            self._pace.append((now - turn.begun) / job.unit.cells)
        return first

    def limit(self, job: Job) -> float:
        """Seconds that a worker has for a unit: far more than it can need, as far as that is known."""
        return max(self.limit_s, TIMES_USUAL * self._usual(job) if self._pace else 0.0)

    def slow(self, now: float) -> list[tuple[Worker, Job, float]]:
        """Who is waited for, over what, and since how many seconds: what has not been said yet."""
        found = []
        for worker, turn in self._late(now, SAID_AFTER):
            if not turn.said:
                turn.said = True
                found.append((worker, turn.job, now - turn.begun))
        return found

    def stuck(self, now: float) -> dict[Worker, list[Job]]:
        """Workers that have not answered within the limit, and what they were to answer."""
        found: dict[Worker, list[Job]] = {}
        for worker, turn in self._late(now, 1.0):
            found.setdefault(worker, []).append(turn.job)
        return found

    def lose(self, worker: Worker, machine: bool, stuck: Collection[Job] = ()) -> Loss:
        """A worker is no more.

        Args:
            worker: Who.
            machine: Its machine went with it, which is no unit's fault.
            stuck: What it was ended over, because it gave no answer; its other units are not to blame.
        """
        again, singly, given_up = 0, False, []
        held = [turn.job for turn in self._hands.pop(worker, ())]
        for job in held:
            self._landed(job)
        for job in held:
            timed_out = job in stuck
            if job.done or job in self._flying:  # answered, or with somebody else too
                job.losses = max(job.losses, int(timed_out))  # and with nobody more, if that one hangs over it as well
                continue
            if (machine or (stuck and not timed_out)) and job.moves < MAX_MOVES:
                job.moves += 1
                (self._suspects if job.losses else self._again).append(job)
            elif job.losses + 1 >= MAX_LOSSES:
                given_up.append(job.unit)
                continue
            else:
                job.losses = MAX_LOSSES - 1 if timed_out else job.losses + 1
                parts = [job]
                if job.losses == MAX_LOSSES - 1 and len(job.unit.samples) > 1:
                    singly = True  # one bad sample must not take its neighbours along
                    parts = [
                        Job(job.unit.of([sample]), losses=job.losses, moves=job.moves) for sample in job.unit.samples
                    ]
                self._suspects.extend(parts)
            again += len(job.unit.samples)
        return Loss(again, singly, tuple(given_up))

    def _in_order(self) -> Iterator[Job]:
        """Of the units, one by one; what has hung before is left for the end."""
        last: list[Job] = []
        for unit in self.units:
            fresh = tuple(sample for sample in unit.samples if sample not in self.tried)
            alone = [sample for sample in unit.samples if sample in self.tried]
            last += [Job(unit.of([one]), losses=MAX_LOSSES - 1) for one in alone]
            if fresh:
                yield Job(unit.of(fresh))
        yield from last

    def _take_next(self) -> None:
        job = next(self._jobs, None)
        if job is None:
            self._exhausted = True
        else:
            (self._suspects if job.losses else self._again).append(job)

    def _landed(self, job: Job) -> None:
        """One hand less holds it."""
        self._none_late_at = None
        self._flying[job] -= 1
        if not self._flying[job]:
            del self._flying[job]

    def _late(self, now: float, part: float) -> Iterator[tuple[Worker, Turn]]:
        """What takes longer than a part of its limit."""
        for worker, hand in self._hands.items():
            for turn in hand[:AT_WORK]:
                age = now - turn.begun
                if age > part * self.limit_s and age > part * self.limit(turn.job):  # the first is cheap, and the rule
                    yield worker, turn

    def _overdue(self, now: float) -> Job | None:
        """The unit waited for longest that is worth a second worker: it is slow, or lies behind another one.

        A suspect is not: it may bring down that one too.
        """
        if now == self._none_late_at:
            return None  # hundreds of workers ask at the same time, when nothing is left
        candidates = [
            turn
            for hand in self._hands.values()
            for place, turn in enumerate(hand)
            if not turn.job.done and not turn.job.losses and self._flying[turn.job] == 1
            if place >= AT_WORK or now - turn.begun > self._patience(turn.job)
        ]
        longest = min(candidates, key=lambda turn: turn.begun, default=None)
        self._none_late_at = now if longest is None else None
        return None if longest is None else longest.job

    def _patience(self, job: Job) -> float:
        return max(SLOW_S, SLOW * self._usual(job) if self._pace else float("inf"))

    def _usual(self, job: Job) -> float:
        return median(self._pace) * job.unit.cells
