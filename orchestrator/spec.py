"""A sweep: from a file to the frozen list of everything that is to be computed, with every mistake reported at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from orchestrator.document import Document, Entry, Mistake, near, parse, read_text
from orchestrator.ranges import expand
from strategies import catalog
from strategies.catalog import Strategy
from workers.embedded.location import DATA_DIR, MODEL_DIR
from workers.models import ModelError, ModelFacts, read_facts
from workers.work import BASELINE, EngineSpec, GridPoint, ModelSpec, Scalar, TaskSpec, baseline_point

EMBEDDED = "embedded"
SHIPPED = resources.files("orchestrator") / "sweeps"


class SpecError(ValueError):
    """A sweep file is wrong. One line per mistake, each with file, place and remedy; exit code 2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepSpec:
    """A checked sweep, for one model."""

    name: str
    engine: EngineSpec
    points: tuple[GridPoint, ...]  # the un-pruned baseline first, each once
    sample_limit: int | None  # the first N samples of the file; None: all
    facts: ModelFacts


def load_sweep(source: str | Path, overrides: Mapping[str, str | int] | None = None) -> SweepSpec:
    """Read a sweep file and resolve it against its model's sizes and the catalog of strategies.

    Args:
        source: Path of a YAML file, or the name of a shipped sweep.
        overrides: Top-level keys that the command line sets: model, data, samples.

    Raises:
        SpecError: All mistakes of the file, one line each.
        ModelError: The file is fine, but its model cannot be used.
    """
    place, text = _find(source)
    try:
        document, entries, mistakes = parse(text, overrides or {})
    except ValueError as error:
        raise SpecError(f"{place}: {error}") from error
    facts, model_error = _facts(document)
    points: dict[str, GridPoint] = {}
    for index, entry in enumerate(entries):
        if entry is not None:
            for point in _points(entry, f"grid[{index}]", facts, mistakes):
                points.setdefault(point.key, point)
    if document is not None and document.data is None and document.task.data is None:
        mistakes.append(("data", f"is missing: give the benchmark's directory, or `{EMBEDDED}`"))
    if document is not None and document.data is not None and document.task.data is not None:
        mistakes.append(("task.data", "is given, and so is `data`: keep one of them"))
    if mistakes and model_error is not None:
        mistakes.append(("model", str(model_error)))
    if mistakes:
        raise SpecError("\n".join(f"{place}: {where}: {what}" for where, what in _in_file_order(mistakes)))
    if model_error is not None:
        raise model_error
    assert document is not None
    assert facts is not None
    baseline = baseline_point(facts.layers, facts.visual_tokens)
    return SweepSpec(
        name=document.name or Path(source).stem,
        engine=_engine(document),
        points=(baseline, *points.values()),
        sample_limit=document.samples,
        facts=facts,
    )


def shipped_sweeps() -> list[str]:
    """Names of the sweeps that come with saccade."""
    return sorted(Path(file.name).stem for file in SHIPPED.iterdir() if file.name.endswith(".yaml"))


def _find(source: str | Path) -> tuple[str, str]:
    """The file's name for messages, and its text."""
    path = Path(source)
    try:
        if path.is_file():
            return str(source), read_text(path)
        if path.name == str(source) and path.stem in shipped_sweeps() and path.suffix in ("", ".yaml"):
            shipped = f"{path.stem}.yaml"
            return shipped, (SHIPPED / shipped).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise SpecError(f"{source}: {error.strerror if isinstance(error, OSError) else error}") from error
    names = shipped_sweeps()
    raise SpecError(
        f"{source}: no such file, and no shipped sweep{near(path.stem, names)} (shipped: {', '.join(names)})"
    )


def _facts(document: Document | None) -> tuple[ModelFacts | None, ModelError | None]:
    if document is None:
        return None, None
    try:
        return read_facts(_model_path(document)), None
    except ModelError as error:
        return None, error


def _model_path(document: Document) -> Path:
    return MODEL_DIR if document.model.path == EMBEDDED else Path(document.model.path).absolute()


def _engine(document: Document) -> EngineSpec:
    task = document.task
    data = document.data or task.data
    assert data is not None
    return EngineSpec(
        model=ModelSpec(
            path=str(_model_path(document)), dtype=document.model.dtype, image_mode=document.model.image_mode
        ),
        task=TaskSpec(
            name=task.name,
            data=str(DATA_DIR if data == EMBEDDED else Path(data).absolute()),
            questions=task.questions,
            split=task.split,
            conversation=task.conversation,
            single_prediction=task.single_prediction,
            scorer=task.scorer,
        ),
        max_new_tokens=document.max_new_tokens,
        seed=document.seed,
    )


def _points(entry: Entry, place: str, facts: ModelFacts | None, mistakes: list[Mistake]) -> Iterator[GridPoint]:
    """All points of a grid entry; without the model's facts it is checked as far as possible."""
    layers = _numbers(entry.layer, f"{place}.layer", "layer", facts, mistakes)
    ranks = None if entry.rank is None else _numbers(entry.rank, f"{place}.rank", "rank", facts, mistakes)
    if not entry.strategies:
        mistakes.append((f"{place}.strategy", "is an empty list"))
    for name in entry.strategies:
        strategy = _strategy(name, f"{place}.strategy", mistakes)
        if strategy is None:
            continue
        if strategy.fixed_rank is not None:
            if ranks is not None and set(ranks) != {strategy.fixed_rank}:
                mistakes.append(
                    (f"{place}.rank", f"{name} always keeps {strategy.fixed_rank} visual tokens; leave rank out")
                )
            own_ranks: tuple[int, ...] = (strategy.fixed_rank,)
        elif ranks is None:
            mistakes.append((f"{place}.rank", f"is missing: say how many visual tokens {name} keeps"))
            continue
        else:
            own_ranks = ranks
        for params in _params(entry, strategy, place, mistakes):
            for layer, rank in itertools.product(layers, own_ranks):
                yield GridPoint(strategy=name, layer=layer, rank=rank, params=params)


def _strategy(name: str, place: str, mistakes: list[Mistake]) -> Strategy | None:
    if name == BASELINE:
        mistakes.append((place, f"{BASELINE!r} is the un-pruned model, which every sweep holds; leave it out"))
        return None
    try:
        return catalog.get(name)
    except ValueError as error:
        mistakes.append((place, str(error)))
        return None


def _numbers(
    value: int | str | list[int | str], place: str, kind: str, facts: ModelFacts | None, mistakes: list[Mistake]
) -> tuple[int, ...]:
    """The integers a value stands for; those out of bounds are reported and left out."""
    if facts is None:
        return ()
    try:
        numbers = expand(value, {"L": facts.layers, "N": facts.visual_tokens})
    except ValueError as error:
        mistakes.append((place, str(error)))
        return ()
    if kind == "layer":
        highest, limit = facts.layers, f"the model's {facts.layers} layers"
    else:
        highest, limit = facts.visual_tokens, f"the model's {facts.visual_tokens} visual tokens"
    if low := [number for number in numbers if number < 0]:
        mistakes.append((place, f"{low[0]} is below 0"))
    if high := [number for number in numbers if number > highest]:
        mistakes.append((place, f"{max(high)} is above {limit}"))
    return tuple(number for number in numbers if 0 <= number <= highest)


def _params(
    entry: Entry, strategy: Strategy, place: str, mistakes: list[Mistake]
) -> list[tuple[tuple[str, Scalar], ...]]:
    """All combinations of a grid entry's parameters for one strategy; defaults are written out.

    A default is part of the point, so that giving it explicitly names the same cells.
    """
    lists: dict[str, list[Any]] = {}
    for name, value in entry.params.items():
        if name not in strategy.params:
            known = ["strategy", "layer", "rank", *strategy.params]
            what = f"unknown key{near(name, known)} (known for {strategy.name}: {', '.join(known)})"
            mistakes.append((f"{place}.{name}", what))
            return []
        values = value if isinstance(value, list) else [value]
        if not values:
            mistakes.append((f"{place}.{name}", "is an empty list"))
            return []
        if bad := [one for one in values if not isinstance(one, bool | int | float | str)]:
            mistakes.append((f"{place}.{name}", f"{bad[0]!r} is neither a number, a text, true nor false"))
            return []
        lists[name] = values
    combinations = []
    for chosen in itertools.product(*lists.values()):
        given = dict(zip(lists, chosen, strict=True))
        if complaint := strategy.check(given):
            name, _, rest = complaint.partition(": ")
            mistakes.append((f"{place}.{name}", rest) if name in given else (place, complaint))
            continue
        defaults = {name: value for name, value in strategy.params.items() if name not in given}
        complete = {name: _as_default(strategy.params[name], value) for name, value in {**defaults, **given}.items()}
        combinations.append(tuple(complete.items()))
    return combinations


def _as_default(default: Any, value: Scalar) -> Scalar:
    """``1`` for a parameter whose default is ``0.5`` is the number 1.0: the two must not be two grid points."""
    return float(value) if isinstance(default, float) and isinstance(value, int) else value


def _in_file_order(mistakes: list[Mistake]) -> list[Mistake]:
    """Each mistake once; those of the grid by entry, so that the list can be worked through from top to bottom."""

    def rank(mistake: Mistake) -> int:
        place = mistake[0]
        return int(place[5 : place.index("]")]) if place.startswith("grid[") else -1

    return sorted(dict.fromkeys(mistakes), key=rank)
