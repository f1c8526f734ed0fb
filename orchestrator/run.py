"""Run a sweep: plan -> pool -> store. What is on disk is not computed again, so running is resuming."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.progress import track

from orchestrator.cluster.faults import NO_ANSWER, FaultWatch
from orchestrator.cluster.joining import IN_A_JOB
from orchestrator.cluster.pool import Pool, PoolOptions
from orchestrator.crew import Crew
from orchestrator.followers.base import Answered, Begun, Follower, Followers
from orchestrator.followers.log_file import LogFile
from orchestrator.followers.pictures import DEFAULT_LIMIT, PictureRecorder
from orchestrator.followers.progress import SweepProgress
from orchestrator.policy import Policy
from orchestrator.show import cells_text
from orchestrator.storing import stored
from orchestrator.sweep.plan import Plan, make_plan
from orchestrator.sweep.prepare import Prepared, prepare
from orchestrator.sweep.spec import SpecError, SweepSpec
from orchestrator.tune.callbacks import check_callbacks
from orchestrator.tune.mirror import TuneMirror
from results.experiment import Experiment, check_target
from results.image_digests import known_digests
from results.location import uri_of
from results.stops import Stops, write_stops
from results.timeline import FIRST, LAST, Timeline
from workers.image_digests import image_digests

MANY = 500  # images whose digests take long enough to say so


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
class RunOptions(PoolOptions):
    """How to run, which decides nothing about the results."""

    local: bool = False  # in this process, without Ray
    pictures: int = DEFAULT_LIMIT  # of samples as the model saw them, recorded for the sample explorer


def plan_and_stops(prepared: Prepared, out: Path, workers: int) -> tuple[Plan, Stops | None]:
    """What `run_sweep` would do, without doing it, and what racing decides on the cells that are there.

    Raises:
        StoreError: ``out`` cannot take this sweep.
    """
    old = check_target(out, prepared.manifest)
    known = known_digests(out, old)
    prepared = replace(prepared, images=tuple(known.get(sample.id, "") for sample in prepared.samples))
    # Not its own file of samples, which may still be that of a smaller sweep.
    experiment = Experiment(out, prepared.manifest, prepared.samples, prepared.images) if old else None
    done = experiment.done() if experiment else {}
    policy = _policy(prepared, experiment)
    plan = _plan(prepared, policy, done, workers)
    return replace(plan, notes=experiment.notes if experiment else ()), policy.stops(done)


def is_new(place: Path, spec: SweepSpec) -> bool:
    """Whether all cells of a sweep are sure to be missing, so that engines may be called before anything is read."""
    is_here = uri_of(place) is None  # what a bucket holds is known when it has been fetched
    return is_here and not (place / "sweep.yaml").exists() and Path(spec.engine.task.data).is_dir()


def prepare_beside(crew: Crew, spec: SweepSpec, place: Path) -> Prepared:
    """Look at a sweep's files, while those come who are sure to be needed.

    Args:
        crew: Who will answer it.
        spec: The sweep.
        place: Of its experiment.

    Raises:
        ModelError, DataError, SpecError: As `prepare`.
    """
    check_callbacks(spec.callbacks)
    if is_new(place, spec):
        crew.call(spec)
    with crew.timeline.span("data"):
        return prepare(spec)


def run_sweep(
    prepared: Prepared,
    out: Path,
    options: RunOptions,
    console: Console,
    crew: Crew | None = None,
    meanwhile: Callable[[Experiment], None] = lambda experiment: None,
) -> RunResult:
    """Compute all missing cells of a sweep.

    Args:
        prepared: The sweep.
        out: Experiment directory; made where it is missing.
        options: Where to compute.
        console: For progress.
        crew: Who computes; None: somebody who has gone when this returns.
        meanwhile: What to do with the cells when all are there, beside the last pictures and Tune's last files.

    Raises:
        StoreError, PoolError, SweepError, ModelError, DataError: Nothing that was computed is lost.
    """
    if crew is None:
        with Crew(options, options.local) as crew:
            return run_sweep(prepared, out, options, console, crew, meanwhile)
    if IN_A_JOB in os.environ and not out.is_absolute():
        raise SpecError(f"--out {out}: this Ray job's folder is thrown away at its end; give an absolute path or a URI")
    started = time.monotonic()
    check_callbacks(prepared.spec.callbacks)
    with crew.timeline.span("images"):
        sweep = _Sweep(prepared, out, options, console)
    plan, stops = sweep.plan(options.workers or 1), sweep.decide()
    if plan.missing or sweep.is_behind():
        console.print(f"cells: {cells_text(plan, stops)}", soft_wrap=True)
        plan = sweep.compute(crew, meanwhile)
        stops = sweep.decide()
    else:
        sweep.finish(crew.timeline, meanwhile)
    crew.timeline.write(sweep.experiment)
    return RunResult(
        experiment=sweep.experiment,
        plan=plan,
        computed=sweep.computed,
        failed=sweep.failed,
        seconds=time.monotonic() - started,
        peak_bytes=sweep.peak_bytes,
        warnings=(*prepared.notes, *sweep.aside, *sweep.followers.notes, *sweep.experiment.notes),
        stops=stops,
    )


class _Sweep:
    """A sweep under way: its directory, who follows its cells, and what this process has done."""

    def __init__(self, prepared: Prepared, out: Path, options: RunOptions, console: Console) -> None:
        prepared = replace(prepared, images=_images(prepared, out, console))
        self._prepared, self._options = prepared, options
        self.experiment = Experiment.create(out, prepared.manifest, prepared.samples, prepared.images)
        self.aside = self.experiment.set_damaged_aside()
        self._done = self.experiment.done()
        self._policy = _policy(prepared, self.experiment)
        self._reports = self._policy.standing.reports()
        self.followers = Followers(_followers(prepared, self.experiment, options, console))
        self.computed = self.failed = self.peak_bytes = 0

    def plan(self, workers: int) -> Plan:
        return _plan(self._prepared, self._policy, self._done, workers)

    def decide(self) -> Stops | None:
        """What racing has decided by now, also written beside the cells."""
        stops = None
        if self._prepared.spec.racing:
            stops = self._policy.stops(self.experiment.done() if self.computed else self._done)
        write_stops(self.experiment, stops)
        return stops

    def is_behind(self) -> bool:
        """Whether somebody has not been told of all that is there."""
        return self.followers.lag(self._reports)

    def compute(self, crew: Crew, meanwhile: Callable[[Experiment], None]) -> Plan:
        """Compute the missing cells, by a plan that is cut for the workers that there are."""
        followers, timeline = self.followers, crew.timeline
        pool = crew.for_sweep(self._prepared.spec, followers)
        plan = self.plan(pool.workers)
        there, points = sum(map(len, self._done.values())), len(self.experiment.points)
        try:
            followers.start(Begun(points=points, there=there, missing=plan.missing, reports=self._reports))
            self._answer(pool, plan, timeline)
            if not crew.stays:
                crew.release()
            self.finish(timeline, meanwhile)
            if not crew.stays:
                crew.go()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                followers.event("stopping; every finished unit is on disk")
            followers.abandon()
            raise
        return plan

    def finish(self, timeline: Timeline, meanwhile: Callable[[Experiment], None]) -> None:
        """Let everybody catch up, and do beside it what needs the cells alone."""

        def catch_up() -> None:
            with timeline.span("pictures and Tune"):
                self.followers.finish()

        catching_up = threading.Thread(target=catch_up, name="saccade-finish", daemon=True)
        catching_up.start()
        try:
            with timeline.span("tables and plots"):
                meanwhile(self.experiment)
        finally:
            catching_up.join()

    def _answer(self, pool: Pool, plan: Plan, timeline: Timeline) -> None:
        """Write what the pool answers, and tell everybody."""
        failures = self.experiment.failures()
        watch = FaultWatch(len(self._prepared.samples), failures["sample"] if self._done else ())
        tried = frozenset(failures["sample"][failures["kind"] == NO_ANSWER])
        policy, skipped = self._policy, 0
        for unit, outcome in stored(pool.results(policy.units(plan.units), tried), self.experiment.write):
            if not timeline.has(FIRST):
                timeline.at(FIRST)
            timeline.at(LAST)
            self.computed += len(outcome.outcomes)
            self.failed += len(outcome.failures)
            self.peak_bytes = max(self.peak_bytes, outcome.peak_bytes)
            stopped = policy.add(outcome)
            left_out, skipped = policy.skipped - skipped, policy.skipped
            news = policy.standing.news()
            answered = Answered(unit=unit, outcome=outcome, left_out=left_out, stopped=stopped, news=news)
            self.followers.outcome(answered)
            watch.look(outcome)


def _followers(prepared: Prepared, experiment: Experiment, options: RunOptions, console: Console) -> list[Follower]:
    """Who hears of a sweep, in the order in which they are told."""
    pictures = PictureRecorder(experiment, prepared.samples, options.pictures)
    mirrors = [] if options.local else [TuneMirror(experiment, prepared.spec.callbacks)]
    return [SweepProgress(console), LogFile(experiment), pictures, *mirrors]


def _policy(prepared: Prepared, experiment: Experiment | None) -> Policy:
    spec = prepared.spec
    columns = ["point", "sample", "correct", "score", "tokens_kept"]
    cells = experiment.cells(columns[2:]) if experiment else pd.DataFrame(columns=columns)
    failed = experiment.failures()["sample"] if experiment else ()
    return Policy(spec.racing, spec.points, prepared.samples, spec.engine.seed, cells, failed, prepared.image_names)


def _plan(prepared: Prepared, policy: Policy, done: dict[str, frozenset[str]], workers: int) -> Plan:
    spec = prepared.spec
    settled = policy.settled(done)
    return make_plan(
        spec.points, policy.samples, settled, spec.config, spec.engine.task, workers, policy.images, prepared.visual.of
    )


def _images(prepared: Prepared, out: Path, console: Console) -> tuple[str, ...]:
    """The digest of each sample's image, taken where an earlier run has not left it."""
    known = known_digests(out, check_target(out, prepared.manifest))

    def watched(found: Iterator[str], count: int) -> Iterable[str]:
        return track(found, "looking at images", total=count, console=console, transient=True, disable=count < MANY)

    return image_digests(prepared.samples, known, watched)
