"""Run a sweep: plan -> pool -> store. What is on disk is not computed again, so running is resuming."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version

from rich.console import Console

from orchestrator.cluster import IN_A_JOB
from orchestrator.faults import FaultWatch
from orchestrator.plan import Plan, make_plan
from orchestrator.pool import ENGINE, EngineFactory, LocalPool, Pool, RayPool
from orchestrator.progress import SweepProgress
from orchestrator.rungs import Standing
from orchestrator.spec import SpecError, SweepSpec
from orchestrator.store import Experiment, Manifest, check_target
from orchestrator.tune_store import TuneMirror
from strategies import catalog
from workers.checkpoints.layout import open_checkpoint
from workers.fingerprint import data_fingerprint, model_fingerprint, sources_hash
from workers.tasks.base import Sample
from workers.tasks.catalog import load_benchmark
from workers.work import BASELINE, GridPoint

RECORDED_VERSIONS = ("saccade", "torch", "transformers", "ray", "numpy", "pandas", "pyarrow")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A sweep whose files have been looked at."""

    spec: SweepSpec
    samples: tuple[Sample, ...]  # of the sweep
    available: int  # samples that the benchmark has
    manifest: Manifest
    notes: tuple[str, ...] = ()  # what is to be known of the benchmark's files


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


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How to run, which decides nothing about the results."""

    workers: int | None = None  # actors; None: one for each GPU, or CPU core
    local: bool = False  # in this process, without Ray
    address: str | None = None  # of a Ray cluster
    gpus_per_worker: float | None = None  # of an actor; None: one where there are GPUs
    engine: EngineFactory = ENGINE


def prepare(spec: SweepSpec) -> Prepared:
    """Check model and data, and name them by content.

    Raises:
        ModelError, DataError: Files are missing or damaged.
    """
    checkpoint = open_checkpoint(spec.engine.model)
    checkpoint.check()
    benchmark = load_benchmark(spec.engine.task)
    everything = benchmark.samples
    manifest = Manifest(
        name=spec.name,
        engine=spec.engine,
        points=spec.points,
        sources=tuple(_source(point) for point in spec.points),
        model_fingerprint=model_fingerprint(checkpoint),
        # Of all samples, not only of this sweep's, so that asking more of them continues the same cells.
        data_fingerprint=data_fingerprint(everything),
        model_facts=tuple(asdict(spec.facts).items()),
        sources_hash=sources_hash(),
        versions=tuple(_versions()),
    )
    return Prepared(
        spec=spec,
        samples=everything[: spec.sample_limit],
        available=len(everything),
        manifest=manifest,
        notes=benchmark.notes,
    )


def plan_sweep(prepared: Prepared, out: Path, workers: int) -> Plan:
    """What `run_sweep` would do, without doing it.

    Raises:
        StoreError: ``out`` cannot take this sweep.
    """
    old = check_target(out, prepared.manifest)
    done = Experiment(out, prepared.manifest.to_json()).done() if old else {}
    return _plan(prepared, done, workers)


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
        raise SpecError(f"--out {out}: this Ray job's folder is thrown away at its end; give an absolute path")
    started = time.monotonic()
    experiment = Experiment.create(out, prepared.manifest, prepared.samples)
    standing = Standing(experiment.points, prepared.samples)
    standing.add_cells(experiment.cells(["correct", "score", "tokens_kept"]))
    mirror = None if options.local else TuneMirror(experiment, standing.sizes)
    plan = _plan(prepared, experiment.done(), options.workers or 1)
    if not plan.missing and (mirror is None or mirror.is_complete(standing.reached())):
        return RunResult(
            experiment=experiment,
            plan=plan,
            computed=0,
            failed=0,
            seconds=time.monotonic() - started,
            warnings=prepared.notes,
        )
    computed = failed = peak_bytes = 0
    done = experiment.done()
    watch = FaultWatch(len(prepared.samples), experiment.failures()["sample"] if done else ())
    warnings: list[str] = []
    open_samples = sum(len(unit.samples) for unit in plan.units)
    with (
        SweepProgress(console, open_samples, plan.missing, len(experiment.points)) as progress,
        _pool(prepared, options, progress) as pool,
    ):
        plan = _plan(prepared, done, pool.workers)
        if mirror:
            mirror.start(standing.reached())
        try:
            for unit, outcome in pool.results(plan.units):
                experiment.write(unit, outcome)
                standing.add(outcome)
                if mirror:
                    mirror.publish(standing.reached())
                computed += len(outcome.outcomes)
                failed += len(outcome.failures)
                peak_bytes = max(peak_bytes, outcome.peak_bytes)
                progress.advance(unit.cells / len(experiment.points), unit.cells, len(outcome.failures))
                for note in outcome.notes:
                    progress.event(note)
                watch.look(outcome)
        except BaseException:
            if mirror:
                mirror.abandon()
            raise
        if mirror and (warning := mirror.finish()):
            warnings.append(warning)
    return RunResult(
        experiment=experiment,
        plan=plan,
        computed=computed,
        failed=failed,
        seconds=time.monotonic() - started,
        peak_bytes=peak_bytes,
        warnings=(*prepared.notes, *warnings, *experiment.notes),
    )


@contextmanager
def _pool(prepared: Prepared, options: RunOptions, progress: SweepProgress) -> Iterator[Pool]:
    if options.local:
        with LocalPool(prepared.spec.engine, options.engine) as pool:
            progress.ready()
            yield pool
    else:
        with RayPool(
            prepared.spec.engine,
            options.engine,
            workers=options.workers,
            address=options.address,
            gpus_per_worker=options.gpus_per_worker,
            on_event=progress.event,
            on_ready=progress.ready,
        ) as pool:
            yield pool


def _plan(prepared: Prepared, done: dict[str, frozenset[str]], workers: int) -> Plan:
    spec = prepared.spec
    return make_plan(spec.points, prepared.samples, done, spec.facts, spec.engine.task, workers)


def _source(point: GridPoint) -> str:
    return BASELINE if point.strategy == BASELINE else catalog.get(point.strategy).source_hash


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", python_version()
    for name in RECORDED_VERSIONS:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue  # saccade itself, when it is run from its sources
