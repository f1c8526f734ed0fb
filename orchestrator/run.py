"""Run a sweep: plan -> pool -> store. What is on disk is not computed again, so running is resuming."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
from rich.console import Console

from orchestrator.cluster.faults import NO_ANSWER, FaultWatch
from orchestrator.cluster.joining import IN_A_JOB
from orchestrator.cluster.limits import Limits
from orchestrator.cluster.pool import ENGINE, EngineFactory, LocalPool, Pool, RayPool
from orchestrator.policy import Policy
from orchestrator.progress import SweepProgress
from orchestrator.recorder import DEFAULT_LIMIT, PictureRecorder
from orchestrator.show import cells_text
from orchestrator.sweep.plan import Plan, make_plan
from orchestrator.sweep.prepare import Prepared
from orchestrator.sweep.spec import SpecError
from orchestrator.tune.tune_store import TuneMirror, check_callbacks
from results.experiment import Experiment, check_target
from results.stops import Stops, write_stops


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a run did."""

    experiment: Experiment
    plan: Plan
    computed: int  # cells
    failed: int  # samples given up in this run
    seconds: float
    peak_bytes: int = 0  # of the memory of the fullest GPU
    warnings: tuple[str, ...] = ()
    stops: Stops | None = None  # by racing


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How to run, which decides nothing about the results."""

    workers: int | None = None  # actors; None: one for each GPU, or CPU core
    local: bool = False  # in this process, without Ray
    address: str | None = None  # of a Ray cluster
    gpus_per_worker: float | None = None  # of an actor; None: one where there are GPUs
    engine: EngineFactory = ENGINE
    pictures: int = DEFAULT_LIMIT  # of samples as the model saw them, recorded for the sample explorer
    limits: Limits = field(default_factory=Limits)  # what takes longer hangs


def plan_and_stops(prepared: Prepared, out: Path, workers: int) -> tuple[Plan, Stops | None]:
    """What `run_sweep` would do, without doing it, and what racing decides on the cells that are there.

    Raises:
        StoreError: ``out`` cannot take this sweep.
    """
    old = check_target(out, prepared.manifest)
    # Not its own file of samples, which may still be that of a smaller sweep.
    experiment = Experiment(out, prepared.manifest, prepared.samples) if old else None
    done = experiment.done() if experiment else {}
    policy = _policy(prepared, experiment)
    plan = _plan(prepared, policy, done, workers)
    return replace(plan, notes=experiment.notes if experiment else ()), policy.stops(done)


def run_sweep(prepared: Prepared, out: Path, options: RunOptions, console: Console) -> RunResult:
    """Compute all missing cells of a sweep.

    Args:
        prepared: The sweep.
        out: Experiment directory; made where it is missing.
        options: Where to compute.
        console: For progress.

    Raises:
        StoreError, PoolError, SweepError, ModelError, DataError: Nothing that was computed is lost.
    """
    if IN_A_JOB in os.environ and not out.is_absolute():
        raise SpecError(f"--out {out}: this Ray job's folder is thrown away at its end; give an absolute path or a URI")
    started = time.monotonic()
    check_callbacks(prepared.spec.callbacks)
    sweep = _Sweep(prepared, out, options)
    plan, stops = sweep.plan(options.workers or 1), sweep.decide()
    if plan.missing or not sweep.is_mirrored():
        console.print(f"cells: {cells_text(plan, stops)}", soft_wrap=True)
        plan = sweep.compute(plan, console)
        stops = sweep.decide()
    else:
        sweep.finish_pictures()
    return RunResult(
        experiment=sweep.experiment,
        plan=plan,
        computed=sweep.computed,
        failed=sweep.failed,
        seconds=time.monotonic() - started,
        peak_bytes=sweep.peak_bytes,
        warnings=tuple(sweep.warnings),
        stops=stops,
    )


class _Sweep:
    """A sweep under way: its directory, all that follows its cells, and what this process has done."""

    def __init__(self, prepared: Prepared, out: Path, options: RunOptions) -> None:
        self._prepared, self._options = prepared, options
        self.experiment = Experiment.create(out, prepared.manifest, prepared.samples)
        aside = self.experiment.set_damaged_aside()
        self._done = self.experiment.done()
        self._policy = _policy(prepared, self.experiment)
        self._mirror = None if options.local else TuneMirror(self.experiment, prepared.spec.callbacks)
        self._recorder = PictureRecorder(self.experiment, prepared.samples, options.pictures)
        self.computed = self.failed = self.peak_bytes = 0
        self.warnings = [*prepared.notes, *aside]

    def plan(self, workers: int) -> Plan:
        return _plan(self._prepared, self._policy, self._done, workers)

    def decide(self) -> Stops | None:
        """What racing has decided by now, also written beside the cells."""
        stops = None
        if self._prepared.spec.racing:
            stops = self._policy.stops(self.experiment.done() if self.computed else self._done)
        write_stops(self.experiment, stops)
        return stops

    def is_mirrored(self) -> bool:
        """Whether Ray Tune has been told of all that is there."""
        return self._mirror is None or self._mirror.is_complete(self._policy.standing.reports())

    def compute(self, plan: Plan, console: Console) -> Plan:
        """Compute the cells of a plan; returned as it was cut for the workers that there are."""
        there = sum(map(len, self._done.values()))
        with (
            SweepProgress(console, there, plan.missing, len(self.experiment.points)) as progress,
            _pool(self._prepared, self._options, progress) as pool,
        ):
            plan = self.plan(pool.workers)
            if self._mirror:
                reports = self._policy.standing.reports()
                self._mirror.start([(key, row) for key, rows in reports.items() for row in rows])
            try:
                self._follow(pool, plan, progress)
                pool.release()
                if self._mirror:
                    self._warn(self._mirror.finish())
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    progress.event("stopping; every finished unit is on disk")
                self._recorder.stop()
                if self._mirror:
                    self._mirror.abandon()
                raise
        self.finish_pictures()
        self.warnings += self.experiment.notes
        return plan

    def finish_pictures(self) -> None:
        """Record the pictures that are still missing."""
        self._warn(self._recorder.finish())

    def _follow(self, pool: Pool, plan: Plan, progress: SweepProgress) -> None:
        """Write what the pool answers, and tell everybody."""
        failures = self.experiment.failures()
        watch = FaultWatch(len(self._prepared.samples), failures["sample"] if self._done else ())
        tried = frozenset(failures["sample"][failures["kind"] == NO_ANSWER])
        policy, skipped = self._policy, 0
        for unit, outcome in pool.results(policy.units(plan.units), tried):
            self.experiment.write(unit, outcome)
            self._recorder.offer(outcome)
            for label in policy.add(outcome):
                progress.event(f"racing stopped {label}")
            if self._mirror:
                self._mirror.publish(policy.standing.news())
            self.computed += len(outcome.outcomes)
            self.failed += len(outcome.failures)
            self.peak_bytes = max(self.peak_bytes, outcome.peak_bytes)
            left_out, skipped = policy.skipped - skipped, policy.skipped
            cells = unit.cells + left_out
            progress.advance(unit.cells / len(self.experiment.points), cells, len(outcome.failures))
            for note in outcome.notes:
                progress.event(note)
            watch.look(outcome)

    def _warn(self, warning: str | None) -> None:
        if warning:
            self.warnings.append(warning)


@contextmanager
def _pool(prepared: Prepared, options: RunOptions, progress: SweepProgress) -> Iterator[Pool]:
    if options.local:
        with LocalPool(prepared.spec.engine, options.engine, limits=options.limits, on_event=progress.event) as pool:
            progress.ready()
            yield pool
    else:
        with RayPool(
            prepared.spec.engine,
            options.engine,
            workers=options.workers,
            address=options.address,
            gpus_per_worker=options.gpus_per_worker,
            limits=options.limits,
            on_event=progress.event,
            on_ready=progress.ready,
        ) as pool:
            yield pool


def _policy(prepared: Prepared, experiment: Experiment | None) -> Policy:
    spec = prepared.spec
    columns = ["point", "sample", "correct", "score", "tokens_kept"]
    cells = experiment.cells(columns[2:]) if experiment else pd.DataFrame(columns=columns)
    failed = experiment.failures()["sample"] if experiment else ()
    return Policy(spec.racing, spec.points, prepared.samples, spec.engine.seed, cells, failed)


def _plan(prepared: Prepared, policy: Policy, done: dict[str, frozenset[str]], workers: int) -> Plan:
    spec = prepared.spec
    return make_plan(spec.points, policy.samples, policy.settled(done), spec.config, spec.engine.task, workers)
