"""From a checked sweep to all that planning and running need: files checked, samples read, both fingerprinted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import zip_longest
from pathlib import Path
from platform import python_version

from orchestrator.sweep.chosen_by import chosen_by
from orchestrator.sweep.image_tokens import ImageTokens, image_tokens
from orchestrator.sweep.mistakes import SpecError
from orchestrator.sweep.spec import SweepSpec, placed, wrong_files
from results.manifest import Manifest
from strategies import catalog
from workers.families.base import Checkpoint
from workers.families.catalog import open_checkpoint
from workers.families.config import ModelError
from workers.fingerprint import model_fingerprint, sources_hash, whole_data_fingerprint
from workers.rules import prompt_fingerprint, scorer_fingerprint
from workers.runnable import ONE_IMAGE
from workers.tasks import catalog as tasks
from workers.tasks.base import Benchmark, DataError, Sample
from workers.tasks.catalog import load_benchmark, scorer_of
from workers.work import UNPRUNED, GridPoint

RECORDED_VERSIONS = ("saccade", "torch", "transformers", "ray", "numpy", "pandas", "pyarrow")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A sweep whose files have been looked at."""

    spec: SweepSpec
    samples: tuple[Sample, ...]  # of the sweep
    available: int  # samples that the benchmark has
    manifest: Manifest
    notes: tuple[str, ...] = ()  # what is to be known of the benchmark's files, and what was asked of them
    visual: ImageTokens = field(default_factory=ImageTokens)  # of the samples
    images: tuple[str, ...] = ()  # digest of each sample's image, "" for none; empty: not looked at yet

    @property
    def image_names(self) -> tuple[str, ...]:
        """What each sample's image is recognised by: its pixels, else its file; "" for none."""
        files = (sample.shown for sample in self.samples)
        return tuple(digest or file for digest, file in zip_longest(self.images, files, fillvalue=""))

    @property
    def default_out(self) -> Path:
        """Where the results go if nobody says."""
        return self.spec.default_out


def prepare(spec: SweepSpec) -> Prepared:
    """Check model and data, and name them by content.

    Raises:
        ModelError, DataError: Files are missing or damaged.
        SpecError: Those of both are; a line each.
    """
    checkpoint, benchmark = _read(spec)
    everything = benchmark.samples
    task, scorer = tasks.get(spec.engine.task.name), scorer_of(spec.engine.task)
    samples = everything[: spec.sample_limit]
    _check_images(spec, samples)
    manifest = Manifest.of(
        name=spec.name,
        engine=spec.engine,
        points=spec.points,
        sources=tuple(_source(point) for point in spec.points),
        chosen_by=tuple(chosen_by(point, spec.config.position_parts) for point in spec.points),
        model_fingerprint=model_fingerprint(checkpoint),
        # Of all samples, not only of this sweep's, so that asking more of them continues the same cells.
        data_fingerprint=whole_data_fingerprint(everything),
        prompt_fingerprint=prompt_fingerprint(spec.engine.task),
        scorer_fingerprint=task.source_hash if scorer in task.judges else scorer_fingerprint(scorer),
        task_source=task.source_hash,
        config=asdict(spec.config),
        sources_hash=sources_hash(),
        versions=dict(_versions()),
        samples=len(samples),
    )
    return Prepared(
        spec=spec,
        samples=samples,
        available=len(everything),
        manifest=manifest,
        visual=image_tokens(samples, checkpoint),
        notes=(*checkpoint.notes, *benchmark.notes, *_too_many(spec, len(everything)), *_several(samples)),
    )


def _check_images(spec: SweepSpec, samples: Sequence[Sample]) -> None:
    """Refuse a rule that takes one image, where a question has several."""
    several = any(sample.more for sample in samples)
    for point in spec.points if several else ():
        if point.strategy != UNPRUNED and catalog.get(point.strategy).grids is not None:
            raise SpecError(f"{spec.name}: {point.strategy} {ONE_IMAGE}; leave it out")


def _several(samples: Sequence[Sample]) -> Iterator[str]:
    if count := sum(bool(sample.more) for sample in samples):
        yield f"{count} of {len(samples)} questions have several images: what is kept is of all their tokens together"


def _read(spec: SweepSpec) -> tuple[Checkpoint, Benchmark]:
    checkpoint = open_checkpoint(spec.engine.model)
    try:
        checkpoint.check()
        return checkpoint, load_benchmark(spec.engine.task)
    except (ModelError, DataError):
        wrong = list(wrong_files(checkpoint, spec.engine.task.data, spec.engine.task))
    lines = [placed(spec.place, error) for error in wrong]
    raise type(wrong[0])(*lines) if len(wrong) == 1 else SpecError(*lines)


def _too_many(spec: SweepSpec, available: int) -> Iterator[str]:
    if spec.sample_limit is not None and spec.sample_limit > available:
        yield f"samples: {spec.sample_limit} are asked for, and {spec.engine.task.data} has {available}: all are taken"


def _source(point: GridPoint) -> str:
    return UNPRUNED if point.strategy == UNPRUNED else catalog.get(point.strategy).source_with(dict(point.params))


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", python_version()
    for name in RECORDED_VERSIONS:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue  # saccade itself, when it is run from its sources
