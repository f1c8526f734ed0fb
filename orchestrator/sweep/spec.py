"""A sweep: from a file to the frozen list of everything that is to be computed, with every mistake reported at once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, get_args, get_type_hints

from orchestrator.cluster.joining import has_gpu
from orchestrator.sweep.document import (
    CallbackSpec,
    Document,
    Entry,
    MeasureSection,
    Mistake,
    SpecError,
    callback_specs,
    parse,
)
from orchestrator.sweep.ranges import expand
from results.analysis.racing import RacingRule
from results.yaml_text import MAX_BYTES
from strategies import catalog
from strategies.budget import average_tokens, rank_for_average
from strategies.catalog import Strategy
from strategies.suggestion import near
from workers import evidence
from workers.embedded.location import DATA_DIR, MODEL_DIR
from workers.families.base import Checkpoint
from workers.families.catalog import open_checkpoint
from workers.families.config import ModelConfig, ModelError
from workers.foreign import expanded
from workers.json_file import UnreadableError, read_text
from workers.tasks.base import DataError
from workers.tasks.catalog import resolved
from workers.work import (
    UNPRUNED,
    EngineSpec,
    GridPoint,
    MeasureSpec,
    ModelSpec,
    Scalar,
    SpectrumSpec,
    TaskSpec,
    unpruned_point,
)

EMBEDDED = "embedded"
MAX_POINTS = 100_000  # of a grid entry; 3,000 points make a large sweep
SHIPPED = resources.files("orchestrator") / "sweeps"


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """An average number of visual tokens that was asked for, and the rank that comes nearest to it."""

    tokens: float
    layer: int
    rank: int
    average: float  # realised


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepSpec:
    """A checked sweep, for one model."""

    name: str
    engine: EngineSpec
    points: tuple[GridPoint, ...]  # the un-pruned baseline first, each once
    sample_limit: int | None  # the first N samples of the file; None: all
    config: ModelConfig
    budgets: tuple[Budget, ...] = ()  # what `tokens:` was compiled to
    racing: RacingRule | None = None
    callbacks: tuple[CallbackSpec, ...] = ()  # of Ray Tune


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
    place, text = _find(source)
    try:
        document, entries, mistakes = parse(text, overrides or {})
    except ValueError as error:
        raise SpecError(f"{place}: {error}") from error
    checkpoint, config, model_error = _model(document)
    points: dict[str, GridPoint] = {}
    budgets: dict[Budget, None] = {}
    for index, entry in enumerate(entries):
        if entry is not None:
            for point in _points(entry, f"grid[{index}]", config, mistakes, budgets):
                points.setdefault(point.key, point)
    if document is not None and document.data is None and document.task.data is None:
        mistakes.append(("data", f"is missing: give the benchmark's directory, or `{EMBEDDED}`"))
    if document is not None and document.data is not None and document.task.data is not None:
        mistakes.append(("task.data", "is given, and so is `data`: keep one of them"))
    measure = MeasureSpec() if document is None else _measure(document.measure, config, mistakes)
    if mistakes and model_error is not None:
        mistakes.append(("model", str(model_error)))
    if mistakes:
        raise SpecError(*(f"{place}: {where}: {what}" for where, what in _in_file_order(mistakes)))
    if model_error is not None:
        raise model_error
    assert document is not None
    assert checkpoint is not None
    assert config is not None
    try:
        task = resolved(_task(document))
    except DataError as error:
        raise SpecError(f"{place}: task: {error}") from error
    baseline = unpruned_point(config.layers, config.visual_tokens)
    return SweepSpec(
        name=document.name or Path(source).stem,
        engine=_engine(document, checkpoint, task, measure, gpu),
        points=(baseline, *points.values()),
        sample_limit=document.samples,
        config=config,
        budgets=tuple(budgets),
        racing=None if document.racing is None else RacingRule(**document.racing.model_dump()),
        callbacks=callback_specs(document.tune.callbacks),
    )


def shipped_sweeps() -> list[str]:
    """Names of the sweeps that come with saccade."""
    return sorted(Path(file.name).stem for file in SHIPPED.iterdir() if file.name.endswith(".yaml"))


def _find(source: str | Path) -> tuple[str, str]:
    """The file's name for messages, and its text."""
    path = expanded(Path(source))
    try:
        if path.is_file():
            return str(source), read_text(path, MAX_BYTES)
        if path.name == str(source) and path.stem in shipped_sweeps() and path.suffix in ("", ".yaml"):
            shipped = f"{path.stem}.yaml"
            return shipped, (SHIPPED / shipped).read_text(encoding="utf-8")
    except UnreadableError as error:
        raise SpecError(str(error)) from error
    except OSError as error:  # its folder may not be looked into, or the name is too long
        raise SpecError(f"{source}: {error.strerror}") from error
    names = shipped_sweeps()
    raise SpecError(
        f"{source}: no such file, and no shipped sweep{near(path.stem, names)} (shipped: {', '.join(names)})"
    )


def _model(document: Document | None) -> tuple[Checkpoint | None, ModelConfig | None, ModelError | None]:
    if document is None:
        return None, None, None
    wanted = document.model
    path = str(MODEL_DIR) if wanted.path == EMBEDDED else wanted.path
    try:
        checkpoint = open_checkpoint(ModelSpec(path=path, base=wanted.base, vision_tower=wanted.vision_tower))
        return checkpoint, checkpoint.sizes, None
    except ModelError as error:
        return None, None, error


def _dtype(name: str, gpu: bool | None) -> str:
    """`auto` is settled when the sweep is read, because the dtype is part of a cell's address."""
    if name != "auto":
        return name
    return "bfloat16" if (has_gpu() if gpu is None else gpu) else "float32"


def _task(document: Document) -> TaskSpec:
    task = document.task
    data = document.data or task.data
    assert data is not None
    return TaskSpec(
        name=task.name,
        data=str(DATA_DIR if data == EMBEDDED else expanded(Path(data)).absolute()),
        questions=task.questions,
        split=task.split,
        conversation=task.conversation,
        single_prediction=task.single_prediction,
        scorer=task.scorer,
    )


def _engine(
    document: Document, checkpoint: Checkpoint, task: TaskSpec, measure: MeasureSpec, gpu: bool | None
) -> EngineSpec:
    wanted = document.model
    return EngineSpec(
        # Folders, no names: a branch of the hub may mean something else tomorrow.
        model=ModelSpec(
            path=str(checkpoint.folder),
            dtype=_dtype(wanted.dtype, gpu),
            image_mode=checkpoint.image_mode if wanted.image_mode == "auto" else wanted.image_mode,
            base=None if checkpoint.base == checkpoint.folder else str(checkpoint.base),
            vision_tower=None if checkpoint.tower is None else str(checkpoint.tower),
        ),
        task=task,
        max_new_tokens=document.max_new_tokens,
        seed=document.seed,
        measure=measure,
    )


def _measure(section: MeasureSection, config: ModelConfig | None, mistakes: list[Mistake]) -> MeasureSpec:
    wanted = section.spectra
    if wanted is None or config is None:
        return MeasureSpec(quality=section.quality)
    layers = wanted.layer if isinstance(wanted.layer, list) else [wanted.layer]
    named = [{"first": 0, "last": config.layers - 1}.get(str(layer), layer) for layer in layers]
    try:
        numbers = expand(named, {"L": config.layers})
    except ValueError as error:
        mistakes.append(("measure.spectra.layer", str(error)))
        return MeasureSpec(quality=section.quality)
    if wrong := [number for number in numbers if not 0 <= number < config.layers]:
        message = f"{wrong[0]} is outside 0..{config.layers - 1}, the model's decoder layers counted from 0"
        mistakes.append(("measure.spectra.layer", message))
    if not wanted.matrices:
        mistakes.append(("measure.spectra.matrix", "is an empty list"))
    spectra = dict.fromkeys(
        SpectrumSpec(matrix=matrix, layer=layer, threshold=wanted.threshold, power=wanted.power)
        for matrix in wanted.matrices
        for layer in numbers
    )
    return MeasureSpec(spectra=tuple(spectra), spectra_samples=wanted.samples, quality=section.quality)


def _points(
    entry: Entry, place: str, config: ModelConfig | None, mistakes: list[Mistake], budgets: dict[Budget, None]
) -> Iterator[GridPoint]:
    """All points of a grid entry; without the model's config it is checked as far as possible."""
    if entry.rank is not None and entry.tokens is not None:
        mistakes.append((f"{place}.tokens", "is given, and so is `rank`: keep one of them"))
        return
    layers = _numbers(entry.layer, f"{place}.layer", "layer", config, mistakes)
    ranks = None if entry.rank is None else _numbers(entry.rank, f"{place}.rank", "rank", config, mistakes)
    chosen = _budgets(entry, place, layers, config, mistakes) if entry.tokens is not None else None
    if not entry.strategies:
        mistakes.append((f"{place}.strategy", "is an empty list"))
    for name in entry.strategies:
        strategy = _strategy(name, f"{place}.strategy", mistakes)
        if strategy is None:
            continue
        if strategy.fixed_rank is not None:
            if chosen is not None or (ranks is not None and set(ranks) != {strategy.fixed_rank}):
                key = "rank" if chosen is None else "tokens"
                mistakes.append(
                    (f"{place}.{key}", f"{name} always keeps {strategy.fixed_rank} visual tokens; leave {key} out")
                )
            settings = [(layer, strategy.fixed_rank) for layer in layers]
        elif chosen is not None:
            if strategy.schedule is not None:
                mistakes.append(
                    (f"{place}.tokens", f"{name} prunes in stages, which one budget does not fix; give rank")
                )
                continue
            settings = [(budget.layer, budget.rank) for budget in chosen]
            budgets.update(dict.fromkeys(chosen))
        elif ranks is None:
            mistakes.append((f"{place}.rank", f"is missing: say how many visual tokens {name} keeps"))
            continue
        else:
            settings = list(itertools.product(layers, ranks))
        for params in _params(entry, strategy, place, config, mistakes, len(settings)):
            for layer, rank in settings:
                assert config is not None
                complaint = evidence.complaint(
                    strategy, dict(params), layer=layer, rank=rank, layers=config.layers, heads=config.heads
                )
                if complaint:
                    mistakes.append(_placed(complaint, place, {"layer", *strategy.params}))
                    break  # the other layers and ranks would say the same
                yield GridPoint(strategy=name, layer=layer, rank=rank, params=params)


def _too_many(count: int, place: str, mistakes: list[Mistake]) -> bool:
    """Whether a grid entry is larger than any sweep; then it is a mistake."""
    if count > MAX_POINTS:
        mistakes.append((place, f"stands for {count:,} grid points, more than {MAX_POINTS:,}"))
    return count > MAX_POINTS


def _budgets(
    entry: Entry, place: str, layers: tuple[int, ...], config: ModelConfig | None, mistakes: list[Mistake]
) -> list[Budget]:
    """Average tokens -> ranks, for each layer."""
    if config is None:
        return []
    if config.varies:
        what = "is an average over a fixed number of visual tokens, and this model cuts images into tiles; give rank"
        mistakes.append((f"{place}.tokens", what))
        return []
    values = entry.tokens if isinstance(entry.tokens, list) else [entry.tokens]
    found = []
    try:
        if not values:
            raise ValueError("is an empty list")
        symbols = {"L": config.layers, "N": config.visual_tokens}
        wanted = [
            number
            for value in values
            if value is not None
            for number in ((value,) if isinstance(value, float) else expand(value, symbols))
        ]
        if _too_many(len(layers) * len(wanted), f"{place}.tokens", mistakes):
            return []
        for layer, tokens in itertools.product(layers, wanted):
            rank = rank_for_average(tokens, layer, config.layers, config.visual_tokens)
            average = average_tokens(layer, rank, config.layers, config.visual_tokens)
            found.append(Budget(tokens=tokens, layer=layer, rank=rank, average=average))
    except ValueError as error:
        mistakes.append((f"{place}.tokens", str(error)))
    return found


def _placed(complaint: str, place: str, keys: Collection[str]) -> Mistake:
    """A strategy's complaint, at the key that it names where it names one."""
    name, _, rest = complaint.partition(": ")
    return (f"{place}.{name}", rest) if name in keys else (place, complaint)


def _strategy(name: str, place: str, mistakes: list[Mistake]) -> Strategy | None:
    if name == UNPRUNED:
        mistakes.append((place, f"{UNPRUNED!r} is the un-pruned model, which every sweep holds; leave it out"))
        return None
    try:
        return catalog.get(name)
    except ValueError as error:
        mistakes.append((place, str(error)))
        return None


def _numbers(
    value: int | str | list[int | str], place: str, kind: str, config: ModelConfig | None, mistakes: list[Mistake]
) -> tuple[int, ...]:
    """The integers a value stands for; those out of bounds are reported and left out."""
    if config is None:
        return ()
    try:
        numbers = expand(value, {"L": config.layers, "N": config.visual_tokens})
    except ValueError as error:
        mistakes.append((place, str(error)))
        return ()
    if kind == "layer":
        highest, limit = config.layers, f"the model's {config.layers} layers"
    else:
        highest, limit = config.visual_tokens, f"the model's {config.visual_tokens} visual tokens"
    if low := [number for number in numbers if number < 0]:
        mistakes.append((place, f"{low[0]} is below 0"))
    if high := [number for number in numbers if number > highest]:
        mistakes.append((place, f"{max(high)} is above {limit}"))
    return tuple(dict.fromkeys(number for number in numbers if 0 <= number <= highest))


def _params(
    entry: Entry, strategy: Strategy, place: str, config: ModelConfig | None, mistakes: list[Mistake], settings: int
) -> list[tuple[tuple[str, Scalar], ...]]:
    """All combinations of a grid entry's parameters for one strategy; defaults are written out.

    A default is part of the point, so that giving it explicitly names the same cells.
    """
    lists: dict[str, list[Any]] = {}
    whole = _whole_numbers(strategy)
    for name, value in entry.params.items():
        if name not in strategy.params:
            known = ["strategy", "layer", "rank", "tokens", *strategy.params]
            what = f"unknown key{near(name, known)} (known for {strategy.name}: {', '.join(known)})"
            mistakes.append((f"{place}.{name}", what))
            return []
        values: list[Any] = value if isinstance(value, list) else [value]
        if whole.get(name) and config is not None and any(isinstance(one, str) for one in values):
            try:
                values = list(expand(values, {"L": config.layers, "N": config.visual_tokens, "H": config.heads}))
            except ValueError as error:
                mistakes.append((f"{place}.{name}", str(error)))
                return []
        if not values:
            mistakes.append((f"{place}.{name}", "is an empty list"))
            return []
        if bad := [one for one in values if not isinstance(one, bool | int | float | str)]:
            mistakes.append((f"{place}.{name}", f"{bad[0]!r} is neither a number, a text, true nor false"))
            return []
        lists[name] = values
    if _too_many(settings * math.prod(map(len, lists.values())), place, mistakes):
        return []
    combinations = []
    for chosen in itertools.product(*lists.values()):
        given = dict(zip(lists, chosen, strict=True))
        if config is None:  # expressions such as H/2 are not numbers yet
            given_now = {
                name: value for name, value in given.items() if not (whole.get(name) and isinstance(value, str))
            }
            complaint = strategy.check(given_now) if given_now == given else None
        else:
            complaint = strategy.check(given, heads=config.heads)
        if complaint:
            mistakes.append(_placed(complaint, place, given))
            continue
        defaults = {name: value for name, value in strategy.params.items() if name not in given}
        complete = {name: _as_default(strategy.params[name], value) for name, value in {**defaults, **given}.items()}
        combinations.append(tuple(complete.items()))
    return combinations


def _whole_numbers(strategy: Strategy) -> dict[str, bool]:
    """Which parameters are whole numbers, so that H/2 may stand for one."""
    hints = get_type_hints(strategy.function)
    return {name: hints[name] is int or int in get_args(hints[name]) for name in strategy.params}


def _as_default(default: Any, value: Scalar) -> Scalar:
    """``1`` for a parameter whose default is ``0.5`` is the number 1.0: the two must not be two grid points."""
    return float(value) if isinstance(default, float) and isinstance(value, int) else value


def _in_file_order(mistakes: list[Mistake]) -> list[Mistake]:
    """Each mistake once; those of the grid by entry, so that the list can be worked through from top to bottom."""

    def rank(mistake: Mistake) -> int:
        place = mistake[0]
        return int(place[5 : place.index("]")]) if place.startswith("grid[") else -1

    return sorted(dict.fromkeys(mistakes), key=rank)
