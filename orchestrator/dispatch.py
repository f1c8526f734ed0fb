"""Which worker answers which unit next, and what becomes of the units of a lost one. Pure: no Ray, no clock of its own.

Units are taken when somebody is free. At the end, when there is nothing left to take, who is free answers once more
what has been waited for too long, so that neither a slow nor a silent worker holds up a sweep; the first answer counts.
A unit whose worker was lost is tried again alone, so that it is known who is to blame, then sample by sample. One that
a worker gives no answer to for far longer than usual is cut into samples at once; no sample is given that time twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Generic, TypeVar

from orchestrator.limits import SAID_AFTER, SAMPLE_S, TIMES_USUAL
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
    begun: float  # when it was handed out
    at_work: float | None = None  # since when no other one of the hand has to be answered before it
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
    _last: deque[Job] = field(default_factory=deque)
    _pace: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))  # seconds a cell
    _exhausted: bool = False

    def __post_init__(self) -> None:
        self.units = iter(self.units)
        self._take_next()

    @property
    def finished(self) -> bool:
        """Whether every unit is answered or given up; workers may still be busy with what another one answered."""
        waiting = self._again or self._suspects or self._last or any(not job.done for job in self._in_flight())
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
        if len(hand) >= self.in_hand or any(turn.job.losses for turn in hand):
            return None
        if not hand and self._suspects:
            job: Job | None = self._suspects.popleft()
        else:
            if not self._again and not self._exhausted:
                self._take_next()
            job = self._again.popleft() if self._again else None
            if job is None and not hand:
                job = self._last.popleft() if self._last else self._overdue(now)
        if job is not None:
            hand.append(Turn(job, begun=now))
            self._see_to_it(hand, now)
        return job

    def answer(self, worker: Worker, job: Job, now: float) -> bool:
        """Note an answer.

        Returns:
            Whether it is the first one of its unit; others are to be ignored.
        """
        hand = self._hands[worker]
        turn = next(turn for turn in hand if turn.job is job)
        hand.remove(turn)
        self._see_to_it(hand, now)
        first, job.done = not job.done, True
        if first:
            self._pace.append((now - turn.begun) / job.unit.cells)
        return first

    def limit(self, job: Job) -> float:
        """Seconds that a worker has to answer a unit: far more than it can need, as far as that is known."""
        return max(self.limit_s, TIMES_USUAL * median(self._pace) * job.unit.cells if self._pace else 0.0)

    def slow(self, now: float) -> list[tuple[Worker, Job, float]]:
        """Who is being waited for, over what, and since how many seconds: what has not been said yet."""
        found = []
        for worker, turn, age in self._at_work(now):
            if not turn.said and age > SAID_AFTER * self.limit(turn.job):
                turn.said = True
                found.append((worker, turn.job, age))
        return found

    def stuck(self, now: float) -> dict[Worker, list[Job]]:
        """Workers that have not answered within the limit, and what they were to answer."""
        found: dict[Worker, list[Job]] = {}
        for worker, turn, age in self._at_work(now):
            if age > self.limit(turn.job):
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
        for job in [turn.job for turn in self._hands.pop(worker, ())]:
            if job.done or any(job is other for other in self._in_flight()):
                continue  # answered, or with somebody else too
            timed_out = any(job is other for other in stuck)
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
                        Job(WorkUnit(samples=(sample,), points=job.unit.points), losses=job.losses, moves=job.moves)
                        for sample in job.unit.samples
                    ]
                self._suspects.extend(parts)
            again += len(job.unit.samples)
        return Loss(again, singly, tuple(given_up))

    def _take_next(self) -> None:
        for unit in self.units:
            fresh = tuple(sample for sample in unit.samples if sample not in self.tried)
            if len(fresh) < len(unit.samples):
                alone = [WorkUnit(samples=(name,), points=unit.points) for name in unit.samples if name in self.tried]
                self._last.extend(Job(one, losses=MAX_LOSSES - 1) for one in alone)
                unit = WorkUnit(samples=fresh, points=unit.points)
            if fresh:
                self._again.append(Job(unit))
                return
        self._exhausted = True

    def _in_flight(self) -> list[Job]:
        return [turn.job for hand in self._hands.values() for turn in hand]

    def _at_work(self, now: float) -> Iterator[tuple[Worker, Turn, float]]:
        for worker, hand in self._hands.items():
            for turn in hand:
                if turn.at_work is not None:
                    yield worker, turn, now - turn.at_work

    def _see_to_it(self, hand: list[Turn], now: float) -> None:
        for turn in hand[:AT_WORK]:
            if turn.at_work is None:
                turn.at_work = now

    def _overdue(self, now: float) -> Job | None:
        """The unit waited for longest that is worth a second worker: it is slow, or lies behind another one."""
        flying = self._in_flight()
        candidates = [
            turn
            for hand in self._hands.values()
            for place, turn in enumerate(hand)
            if not turn.job.done and sum(turn.job is other for other in flying) == 1
            if place >= AT_WORK or now - turn.begun > self._patience(turn.job)
        ]
        longest = min(candidates, key=lambda turn: turn.begun, default=None)
        return None if longest is None else longest.job

    def _patience(self, job: Job) -> float:
        usual = median(self._pace) * job.unit.cells if self._pace else float("inf")
        return max(SLOW_S, SLOW * usual)
