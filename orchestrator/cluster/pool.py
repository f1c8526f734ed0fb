"""Where units of work are answered: in this process, or by actors of a Ray cluster (`ray_pool`), by one interface.

Only a lost machine or process is a reason to try again; an engine reports a sample it cannot answer in its outcome.
"""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType

from orchestrator.cluster.dispatch import Dispatch
from orchestrator.cluster.limits import Limits, TimeLimit, alarm
from orchestrator.cluster.losses import NoAnswer, given_up, told_of
from orchestrator.cluster.seat import ENGINE, EngineFactory, EngineLike, engine_of
from workers.prefetch import ahead
from workers.work import EngineSpec, UnitOutcome, WorkUnit

log = logging.getLogger(f"saccade.{__name__}")

UNITS_OF_A_GPU = 3  # in flight: one for each lane (workers/lanes.py), and the next is there before it is needed


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOptions:
    """Who answers, and for how long they are waited for. In this process only `engine` and `limits` count."""

    engine: EngineFactory = ENGINE
    workers: int | None = None  # actors; None: as there is room for, now and whenever a machine joins
    address: str | None = None  # of a Ray cluster; None: RAY_ADDRESS, else a private one on this machine
    gpus_per_worker: float | None = None  # above 0, at most 1; None: one where there are GPUs
    limits: Limits = field(default_factory=Limits)  # what takes longer hangs


class Pool(AbstractContextManager["Pool"]):
    """Answers units. Use it as a context manager."""

    workers: int

    def __init__(
        self,
        spec: EngineSpec,
        options: PoolOptions,
        *,
        on_event: Callable[[str], None] = log.warning,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        """Say who answers; nobody is asked yet.

        Args:
            spec: For every engine.
            options: Who answers.
            on_event: Told one line for each loss.
            on_ready: Called when the first engine is loaded, which none is before the first unit.
        """
        self._spec, self._options = spec, options
        self._on_event, self._on_ready = on_event, on_ready

    @abstractmethod
    def results(self, units: Iterable[WorkUnit], tried: Collection[str] = ()) -> Iterator[tuple[WorkUnit, UnitOutcome]]:
        """Answer units, in any order, each exactly once; a unit may come back in parts.

        Args:
            units: Taken one by one, when there is somebody free to answer: what comes next may still be decided then.
            tried: Samples that gave no answer in time in an earlier run: they come last, each alone.

        Raises:
            ModelError, DataError: An engine could not be built.
            PoolError: There is nobody to answer, or building an engine raised something else.
        """

    def gather(self) -> None:
        """Have those come who answer, who else come with the first unit."""

    @abstractmethod
    def turn_to(self, spec: EngineSpec) -> None:
        """Answer units of another benchmark from now on, with the model that is loaded; nothing may be under way.

        Args:
            spec: Of the same model.
        """

    def release(self) -> None:
        """Let go of the engines and what they hold; the cluster, which Tune's callbacks may use too, stays."""

    def close(self) -> None:
        """Let go of engines and cluster."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class LocalPool(Pool):
    """One engine in this process: for debuggers, and where Ray is not wanted."""

    workers = 1
    _engine: EngineLike | None = None

    def turn_to(self, spec: EngineSpec) -> None:
        self._spec = spec
        if self._engine is not None:
            self._engine.turn_to(spec)

    def release(self) -> None:
        self._engine = None

    def results(self, units: Iterable[WorkUnit], tried: Collection[str] = ()) -> Iterator[tuple[WorkUnit, UnitOutcome]]:
        engine = self._engine = self._engine or engine_of(self._options.engine)(self._spec, None, None)
        self._on_ready()
        if not engine.identity()["device"].startswith("cuda"):
            yield from self._one_by_one(engine, Dispatch(units, 1, self._options.limits.sample_s, tried))
            return
        with ThreadPoolExecutor(UNITS_OF_A_GPU) as pool:  # several at a time, which nothing can break off
            yield from ahead(pool, lambda unit: (unit, engine.run(unit)), units, UNITS_OF_A_GPU)

    def _one_by_one(self, engine: EngineLike, dispatch: Dispatch[None]) -> Iterator[tuple[WorkUnit, UnitOutcome]]:
        while (job := dispatch.take(None, time.monotonic())) is not None:
            limit_s = dispatch.limit(job)
            try:
                with alarm(limit_s):
                    outcome = engine.run(job.unit)
            except TimeLimit:
                error = NoAnswer(limit_s, [job])
                loss = dispatch.lose(None, machine=False, stuck=error.jobs)
                self._on_event(told_of(f"broken off ({error})", loss))
                for unit in loss.given_up:
                    yield unit, given_up(unit, error)
            else:
                dispatch.answer(None, job, time.monotonic())
                yield job.unit, outcome
