"""What every benchmark promises, tried on its own files: one line a promise.

The suite is the same for ours (`tests/test_workers_own_tasks.py`) and for a benchmark of a user's own (`saccade tasks
check`). No model runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd

from strategies.errors import SaccadeError
from workers.images import load_image
from workers.tasks.base import LETTERS, Benchmark, Metric, Sample, Task
from workers.tasks.catalog import load_benchmark, resolved, scorer_of
from workers.tasks.prompts import IMAGE_MARKER, build_prompt
from workers.work import TaskSpec

LOOKED_AT = 50  # images that are opened, and questions that are judged by each scorer


class TaskPromise(NamedTuple):
    """A promise, and what was seen of it."""

    text: str
    fault: str  # empty where it is kept


class _BrokenError(Exception):
    """A promise is not kept."""


@dataclass(frozen=True, kw_only=True)
class _Trial:
    task: Task
    spec: TaskSpec
    benchmark: Benchmark = field(default_factory=lambda: Benchmark(samples=()))

    @property
    def samples(self) -> tuple[Sample, ...]:
        return self.benchmark.samples


def task_promises(task: Task, data: str, options: Mapping[str, Any] | None = None) -> Iterator[TaskPromise]:
    """Try a benchmark.

    Args:
        task: of the catalog, or admitted to it.
        data: directory of its files.
        options: fields of `TaskSpec`.
    """
    spec = TaskSpec(name=task.name, data=data, **dict(options or {}))
    try:
        trial = _Trial(task=task, spec=resolved(spec), benchmark=load_benchmark(spec))
    except SaccadeError as error:
        yield TaskPromise(LOADS, str(error))
        return  # nothing else can be looked at
    yield TaskPromise(LOADS, "")
    for text, look in OF_BENCHMARKS:
        fault = ""
        try:
            look(trial)
        except _BrokenError as broken:
            fault = str(broken)
        except Exception as error:  # whatever code of a user's own raises is what was asked for
            fault = f"{type(error).__name__}: {' '.join(str(error).split())}"
        yield TaskPromise(text, fault)


def _loads_again(trial: _Trial) -> None:
    again = load_benchmark(trial.spec).samples
    for first, second in zip(trial.samples, again, strict=False):
        if first != second:
            raise _BrokenError(f"question {first.id} is another the second time")
    if len(again) != len(trial.samples):
        raise _BrokenError(f"{len(trial.samples)} questions, and {len(again)} the second time")


def _images_open(trial: _Trial) -> None:
    for sample in [one for one in trial.samples if one.image is not None][:LOOKED_AT]:
        for image in sample.images:
            load_image(image)


def _asks(trial: _Trial) -> None:
    for sample in trial.samples[:LOOKED_AT]:
        if not sample.question.strip():
            raise _BrokenError(f"question {sample.id} is empty")
        markers = build_prompt(sample, trial.spec).count(IMAGE_MARKER)
        if markers != len(sample.images):
            raise _BrokenError(f"the prompt of question {sample.id} has {markers} places for an image")


def _letters_are_options(trial: _Trial) -> None:
    for sample in trial.samples:
        if sample.choices and sample.label not in tuple(LETTERS[: len(sample.choices)]):
            raise _BrokenError(
                f"question {sample.id} has {len(sample.choices)} options, and the label {sample.label!r}"
            )


def _right_is_right(trial: _Trial) -> None:
    for sample, said in ((one, _right_answer(one)) for one in trial.samples[:LOOKED_AT]):
        if not scorer_of(trial.spec)(said, sample).correct:
            raise _BrokenError(f"{trial.spec.scorer} judges {said!r} wrong, which is right for question {sample.id}")


def _nothing_is_wrong(trial: _Trial) -> None:
    judged = [scorer_of(trial.spec)("", sample) for sample in trial.samples[:LOOKED_AT]]
    wrong = sum(not 0 <= verdict.score <= 1 for verdict in judged)
    if wrong or all(verdict.correct for verdict in judged):
        raise _BrokenError(
            "a score is outside 0..1" if wrong else f"{trial.spec.scorer} judges every empty answer right"
        )


def _gives_figures(trial: _Trial) -> None:
    if trial.task.metrics is None:
        return
    rows = pd.DataFrame([_judged(trial, sample, place) for place, sample in enumerate(trial.samples)])
    found = list(trial.task.metrics(rows))
    if wrong := [one for one in found if not isinstance(one, Metric)]:
        raise _BrokenError(f"gives a {type(wrong[0]).__name__}, no workers.tasks.base.Metric")
    headline, names = trial.task.headline, [one.name.partition(" (")[0] for one in found]
    if headline and headline not in names:
        raise _BrokenError(f"the headline {headline!r} is none of {', '.join(names)}")


def _judged(trial: _Trial, sample: Sample, place: int) -> dict[str, Any]:
    """A row as `Task.metrics` is promised, every third answer being right."""
    verdict = scorer_of(trial.spec)("" if place % 3 else _right_answer(sample), sample)
    return {
        "id": sample.id,
        "group": sample.group,
        "category": sample.category,
        "subject": sample.subject,
        "label": sample.label,
        "options": len(sample.choices),
        "image": sample.image is not None,
        "parsed": verdict.parsed,
        "score": verdict.score,
        "correct": verdict.correct,
    }


def _right_answer(sample: Sample) -> str:
    """The label; of several annotators what most say."""
    return max(sample.answers, key=sample.answers.count) if sample.answers else sample.label


LOADS = "loads: each question once, each image there, split and scorer known"
OF_BENCHMARKS: list[tuple[str, Callable[[_Trial], None]]] = [
    ("gives the same questions again", _loads_again),
    ("its images can be decoded", _images_open),
    ("asks something, with one place for each image", _asks),
    ("labels of questions with options are letters of these", _letters_are_options),
    ("its scorer judges the right answer right", _right_is_right),
    ("its scorer judges an empty answer by 0 to 1, and not always right", _nothing_is_wrong),
    ("makes its figures of any answers, the headline among them", _gives_figures),
]
