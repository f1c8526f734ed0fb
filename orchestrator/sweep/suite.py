"""Suites: a sweep file that names its grid once, and several benchmarks or models to run it on.

    name: llava_1_5_table
    suite:
      benchmarks: [gqa, pope, {name: mme, samples: 500}]
    model: ./llava-1.5-7b-hf
    data: ./benchmarks          # a folder of it for each benchmark, by its name
    grid: ...

A suite is no more than its members, ordinary sweeps: what a member is checked and run by is written once, for sweeps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from orchestrator.sweep.document import ModelSection, Section, TaskSection, name_alone, path_alone, valid
from orchestrator.sweep.mistakes import Check, Mistake, SpecError, checked
from orchestrator.sweep.per_model import Runnable, runnable
from orchestrator.sweep.source import SweepText, find_sweep
from orchestrator.sweep.spec import EMBEDDED, SweepSpec, spec_of
from results.suites import TITLE, LeftOut
from workers.families.config import ModelError


class BenchmarkSection(Section):
    """One of ``suite.benchmarks:`` - a name alone stands for ``{name: ...}``."""

    name: Annotated[str, Field(pattern=TITLE)]  # of its column and its folder
    task: Annotated[TaskSection | None, BeforeValidator(name_alone)] = None  # None: the one of this name
    data: str | None = None  # in the suite's `data`, or a whole path; None: the folder of this name
    samples: int | str | None = None  # None: as the suite says
    max_new_tokens: int | None = None


class SuiteSection(Section):
    """``suite:`` - what the grid is run on."""

    benchmarks: Annotated[list[Annotated[BenchmarkSection, BeforeValidator(name_alone)]], Field(min_length=1)]
    models: list[Annotated[ModelSection, BeforeValidator(path_alone)]] = Field(default=[])  # none: `model` of the file


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One sweep of a suite."""

    model: str  # for people, and of its folder; "" where there is one model
    benchmark: str
    spec: SweepSpec

    @property
    def folder(self) -> Path:
        """Of its experiment, inside the suite's."""
        return Path(self.model, self.benchmark)

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.model} {self.benchmark}".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A checked suite."""

    name: str
    members: tuple[Member, ...]  # model by model, in the order of the file
    left_out: tuple[LeftOut, ...] = ()  # what one of several models cannot run


def is_suite(source: str | Path) -> bool:
    """Whether a sweep file, or a shipped sweep, is a suite.

    Raises:
        SpecError: There is no such file, or it is no YAML.
    """
    return "suite" in find_sweep(source).raw


def load_suite(source: str | Path, overrides: Mapping[str, Any] | None = None, gpu: bool | None = None) -> Suite:
    """Read a suite and check every member as `load_sweep` checks a sweep.

    A method of the grid that one of several models cannot run is left out there; what none can run is a mistake.

    Args:
        source: Path of a YAML file, or the name of a shipped suite.
        overrides: What the command line sets, as for `load_sweep`; ``samples`` is of every benchmark.
        gpu: As for `load_sweep`.

    Raises:
        SpecError: All mistakes, one line each.
        ModelError: The file is fine, but a model cannot be used.
    """
    text = find_sweep(source)
    changed = text.changed(overrides or {})
    section, mistakes = checked(_section(changed.raw))
    if section is None or mistakes:
        raise SpecError(*(f"{text.place}: {where}: {what}" for where, what in mistakes))
    if "samples" in (overrides or {}):
        section = section.model_copy(
            update={"benchmarks": [one.model_copy(update={"samples": None}) for one in section.benchmarks]}
        )
    members: list[Member] = []
    wrong: dict[str, str] = {}  # what is wrong with the grid is so for all members, and told once
    unusable: ModelError | None = None
    refused: dict[str, Runnable] = {}  # by model; its benchmarks have one grid
    for model, benchmark, raw in _documents(changed.raw, section):
        place = f"{text.place}: {f'{model} {benchmark}'.strip()}"
        written = SweepText(place=place, source=text.source, raw=raw)
        try:
            made = (
                runnable(written, gpu) if len(section.models) > 1 else Runnable(spec=spec_of(written, gpu, files=False))
            )
            members.append(Member(model=model, benchmark=benchmark, spec=made.spec))
            refused.setdefault(model, made)
        except SpecError as error:
            for line in error.args:
                wrong.setdefault(line.removeprefix(f"{place}: "), line)
        except ModelError as error:
            unusable = unusable or error
    for line in _by_none(list(refused.values())):
        wrong.setdefault(line[line.index("grid[") :], line)
    if wrong:
        of_grid = {what: f"{text.place}: {what}" for what in wrong if what.startswith("grid")}
        raise SpecError(*(of_grid.get(what, line) for what, line in wrong.items()))
    if unusable is not None:
        raise unusable
    left_out = tuple(
        LeftOut(model=model, strategy=one.strategy, reason=one.reason)
        for model, made in refused.items()
        for one in made.refused
    )
    name = str(changed.raw.get("name") or Path(source).stem)
    return Suite(name=name, members=tuple(members), left_out=left_out)


def _by_none(models: Sequence[Runnable]) -> tuple[str, ...]:
    """What is said of a grid with an entry that none of the models can run; nothing where each has one."""
    common = set.intersection(*({one.place for one in made.refused} for made in models)) if models else set()
    return models[0].complaints if common else ()


def _section(raw: Mapping[str, Any]) -> Check[SuiteSection | None]:
    section = yield from valid(SuiteSection, raw.get("suite"), "suite")
    if section is None:
        return None
    for what, names in (
        ("benchmarks", [one.name for one in section.benchmarks]),
        ("models", [_model_title(one) for one in section.models]),
    ):
        for name, count in Counter(names).items():
            if count > 1:
                yield Mistake(f"suite.{what}", f"'{name}' is there {count} times; give each a name of its own")
    if section.models and "model" in raw:
        yield Mistake("model", "is given, and so is `suite.models`: keep one of them")
    if "task" in raw:
        yield Mistake("task", "is given, and so is `suite.benchmarks`: say it there")
    return section


def _documents(raw: Mapping[str, Any], section: SuiteSection) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The members as sweep files would say them: model, benchmark and document."""
    common = {key: value for key, value in raw.items() if key not in ("suite", "name", "model", "data")}
    models: list[tuple[str, Any]] = [
        (_model_title(one), one.model_dump(exclude_defaults=True)) for one in section.models
    ]
    models = models or [("", raw.get("model"))]
    for title, model in models:
        for one in section.benchmarks:
            task = {"name": one.name} if one.task is None else one.task.model_dump(exclude_defaults=True)
            document = {**common, "name": one.name, "task": task, "data": _data(raw.get("data"), one)}
            if model is not None:
                document["model"] = model
            for key in ("samples", "max_new_tokens"):
                if (value := getattr(one, key)) is not None:
                    document[key] = value
            yield title, one.name, {key: value for key, value in document.items() if value is not None}


def _data(root: Any, one: BenchmarkSection) -> str | None:
    """Where a benchmark's files are: those that come with saccade, or a folder of the suite's."""
    if root is None or EMBEDDED in (root, one.data):
        return one.data if root is None else EMBEDDED
    return str(Path(str(root), one.data or one.name))


def _model_title(model: ModelSection) -> str:
    return Path(model.path.partition("@")[0]).name or model.path
