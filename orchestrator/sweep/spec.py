"""A sweep: from a file to the frozen list of everything that is to be computed, with every mistake reported at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.cluster.joining import has_gpu
from orchestrator.sweep.document import CallbackSpec, Document, MeasureSection, callback_specs, parse
from orchestrator.sweep.grid import grid_of
from orchestrator.sweep.kept import Budget, counts_tokens
from orchestrator.sweep.mistakes import Check, Mistake, SpecError, checked, in_file_order
from orchestrator.sweep.own_rules import task_of, with_own_rules
from orchestrator.sweep.ranges import expand
from orchestrator.sweep.source import SweepText, find_sweep
from results.analysis.racing import RacingRule
from strategies.own import OwnRule, travelling
from workers import evidence
from workers.embedded.location import DATA_DIR, MODEL_DIR
from workers.families.base import Checkpoint
from workers.families.catalog import open_checkpoint
from workers.families.config import NO_TEXT_TOWER, ModelConfig, ModelError
from workers.foreign import expanded
from workers.tasks import own as own_tasks
from workers.tasks.base import DataError
from workers.tasks.catalog import load_benchmark, resolved
from workers.tasks.files import data_folder
from workers.tasks.own import OwnTask
from workers.work import EngineSpec, GridPoint, MeasureSpec, ModelSpec, SpectrumSpec, TaskSpec, unpruned_point

EMBEDDED = "embedded"


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepSpec:
    """A checked sweep, for one model."""

    name: str
    place: str = "the sweep"  # where it is written, for messages
    engine: EngineSpec
    points: tuple[GridPoint, ...]  # the un-pruned baseline first, each once
    sample_limit: int | None  # the first N samples of the file; None: all
    config: ModelConfig
    budgets: tuple[Budget, ...] = ()  # what `tokens:` was compiled to
    racing: RacingRule | None = None
    callbacks: tuple[CallbackSpec, ...] = ()  # of Ray Tune
    rules: tuple[OwnRule, ...] = ()  # of the grid, that Saccade does not have
    tasks: tuple[OwnTask, ...] = ()  # the benchmark, where Saccade does not have it

    @property
    def default_out(self) -> Path:
        """Where the results go if nobody says."""
        return Path("experiments") / self.name


def load_sweep(source: str | Path, overrides: Mapping[str, Any] | None = None, gpu: bool | None = None) -> SweepSpec:
    """Read a sweep file and resolve it against its model's sizes and the catalog of strategies.

    Args:
        source: Path of a YAML file, or the name of a shipped sweep.
        overrides: What the command line sets: model, data, samples, or a place such as ``measure.spectra.samples``.
        gpu: Whether engines will run on GPUs, which settles ``dtype: auto``; by default it is looked up (`has_gpu`).

    Raises:
        SpecError: All mistakes of the file, one line each.
        ModelError: The file is fine, but its model cannot be used.
    """
    return spec_of(find_sweep(source).changed(overrides or {}), gpu)


def spec_of(written: SweepText, gpu: bool | None = None, files: bool = True) -> SweepSpec:
    """The same of a sweep that has been read.

    Args:
        written: The sweep.
        gpu: As in `load_sweep`.
        files: Whether mistakes are told together with what is wrong with the files of model and benchmark.

    Raises:
        SpecError, ModelError: As in `load_sweep`.
    """
    place, source = written.place, written.source
    (document, entries), mistakes = checked(parse(written.raw))
    checkpoint, config, model_error = _model(document)
    folder = expanded(Path(source)).parent
    entries, more = checked(with_own_rules(entries, folder))
    mistakes += more
    task: TaskSpec | None = None
    if document is not None:
        (data, measure), more = checked(_sections(document, config))
        mistakes += more
        task, more = checked(_task(document, data, checkpoint, folder))
        mistakes += more
    asked = config is not None and not config.varies and any(counts_tokens(entry) for _, entry in entries)
    grid, more = checked(grid_of(entries, config, several=asked and _several_images(task)))
    mistakes += more
    if document is not None:
        if document.model.text_tower is None and evidence.reads_text_tower(evidence.needed(grid.points)):
            mistakes.append(Mistake("model.text_tower", NO_TEXT_TOWER))
        if files and (mistakes or model_error is not None):  # else they are looked at when the sweep is prepared
            mistakes += [told_at(error) for error in wrong_files(checkpoint, data, task)]
    if model_error is not None and not mistakes:
        raise ModelError(placed(place, model_error)) from model_error
    if mistakes:
        mistakes += [] if model_error is None else [told_at(model_error)]
        raise SpecError(*(f"{place}: {where}: {what}" for where, what in in_file_order(mistakes)))
    assert document is not None
    assert checkpoint is not None
    assert config is not None
    assert task is not None
    return SweepSpec(
        name=document.name or Path(source).stem,
        place=place,
        engine=_engine(document, checkpoint, task, measure, gpu),
        points=(unpruned_point(config.layers, config.visual_tokens), *grid.points),
        sample_limit=document.samples,
        config=config,
        budgets=grid.budgets,
        racing=None if document.racing is None else RacingRule(**document.racing.model_dump()),
        callbacks=callback_specs(document.tune.callbacks),
        rules=travelling(point.strategy for point in grid.points),
        tasks=own_tasks.travelling(task.name),
    )


def _model(document: Document | None) -> tuple[Checkpoint | None, ModelConfig | None, ModelError | None]:
    if document is None:
        return None, None, None
    wanted = document.model
    path = str(MODEL_DIR) if wanted.path == EMBEDDED else wanted.path
    try:
        checkpoint = open_checkpoint(ModelSpec(**{**wanted.model_dump(), "path": path}))
        return checkpoint, checkpoint.sizes, None
    except ModelError as error:
        return None, None, error


def _task(document: Document, data: str, checkpoint: Checkpoint | None, folder: Path) -> Check[TaskSpec | None]:
    """How the questions are asked, as the checkpoint was trained where the sweep does not say."""
    asked = {**document.task.model_dump(exclude_none=True), "data": data}
    if checkpoint is not None:
        asked.setdefault("conversation", checkpoint.conversation)
    try:
        asked["name"] = task_of(document.task.name, folder).name
        return resolved(TaskSpec(**asked))
    except DataError as error:
        yield Mistake("task", str(error))
        return None


def _several_images(task: TaskSpec | None) -> bool:
    """Whether a benchmark has questions about several images; what is wrong with its files is told elsewhere."""
    try:
        return task is not None and bool(task.data) and any(sample.more for sample in load_benchmark(task).samples)
    except DataError:
        return False


def wrong_files(checkpoint: Checkpoint | None, data: str, task: TaskSpec | None) -> Iterator[ModelError | DataError]:
    """What is wrong with the files of a model and of a benchmark, where these are known (``data``: "" where not)."""
    try:
        if checkpoint is not None:
            checkpoint.check()
    except ModelError as error:
        yield error
    try:
        if data:
            load_benchmark(task) if task is not None else data_folder(TaskSpec(name="", data=data))
    except DataError as error:
        yield error


def told_at(error: ModelError | DataError) -> Mistake:
    """What is wrong with files, at the key that names them."""
    key = "model" if isinstance(error, ModelError) else "data"
    return Mistake(key, str(error).removeprefix(f"{key} "))


def placed(place: str, error: ModelError | DataError) -> str:
    """The same as a line, with the sweep's file before it."""
    return ": ".join((place, *told_at(error)))


def _dtype(name: str, gpu: bool | None) -> str:
    """`auto` is settled when the sweep is read, because the dtype is part of a cell's address."""
    if name != "auto":
        return name
    return "bfloat16" if (has_gpu() if gpu is None else gpu) else "float32"


def _engine(
    document: Document, checkpoint: Checkpoint, task: TaskSpec, measure: MeasureSpec, gpu: bool | None
) -> EngineSpec:
    wanted = document.model
    return EngineSpec(
        model=ModelSpec(
            **{
                **wanted.model_dump(),
                # Folders, no names: a branch of the hub may mean something else tomorrow.
                "path": str(checkpoint.folder),
                "dtype": _dtype(wanted.dtype, gpu),
                "image_mode": checkpoint.image_mode if wanted.image_mode == "auto" else wanted.image_mode,
                "base": None if checkpoint.base == checkpoint.folder else str(checkpoint.base),
                "vision_tower": None if checkpoint.tower is None else str(checkpoint.tower),
                "text_tower": None if checkpoint.text_tower is None else str(checkpoint.text_tower),
            }
        ),
        task=task,
        max_new_tokens=document.max_new_tokens,
        seed=document.seed,
        measure=measure,
    )


def _sections(document: Document, config: ModelConfig | None) -> Check[tuple[str, MeasureSpec]]:
    """The benchmark's folder, and what is measured."""
    named = [data for data in (document.data, document.task.data) if data is not None]
    if not named:
        yield Mistake("data", f"is missing: give the benchmark's directory, or `{EMBEDDED}`")
    if len(named) > 1:
        yield Mistake("task.data", "is given, and so is `data`: keep one of them")
    away = document.model.offload
    if config is not None and isinstance(away, int) and away > config.layers:
        yield Mistake("model.offload", f"{away} is above the model's {config.layers} decoder layers")
    measure = yield from _measure(document.measure, config)
    if not named:
        return "", measure
    return str(DATA_DIR if named[0] == EMBEDDED else expanded(Path(named[0])).absolute()), measure


def _measure(section: MeasureSection, config: ModelConfig | None) -> Check[MeasureSpec]:
    wanted = section.spectra
    if wanted is None or config is None:
        return MeasureSpec(quality=section.quality)
    layers = wanted.layer if isinstance(wanted.layer, list) else [wanted.layer]
    named = [{"first": 0, "last": config.layers - 1}.get(str(layer), layer) for layer in layers]
    try:
        numbers = expand(named, {"L": config.layers})
    except ValueError as error:
        yield Mistake("measure.spectra.layer", str(error))
        return MeasureSpec(quality=section.quality)
    if wrong := [number for number in numbers if not 0 <= number < config.layers]:
        message = f"{wrong[0]} is outside 0..{config.layers - 1}, the model's decoder layers counted from 0"
        yield Mistake("measure.spectra.layer", message)
    if not wanted.matrices:
        yield Mistake("measure.spectra.matrix", "is an empty list")
    spectra = dict.fromkeys(
        SpectrumSpec(matrix=matrix, layer=layer, threshold=wanted.threshold, power=wanted.power)
        for matrix in wanted.matrices
        for layer in numbers
    )
    return MeasureSpec(spectra=tuple(spectra), spectra_samples=wanted.samples, quality=section.quality)
