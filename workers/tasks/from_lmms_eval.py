"""Any generation task of lmms-eval as a benchmark: its documents, prompts, post-processing and figures, our forward.

Source: EvolvingLMMs-Lab/lmms-eval 0.7 (lmms_eval/evaluator.py; api/task.py), which is no dependency: `pip install
"saccade[lmms-eval]"`. A task is called ``lmms_eval/NAME``. Its documents come as lmms-eval gets them, from the local
cache of Hugging Face or the network; a directory ``data`` with YAML files is searched for tasks too. Filters,
``process_results`` and the aggregations are called as its evaluator calls them. A question's score is the first figure
of its task: the number that ``process_results`` gives or calls ``score``, else what the aggregation makes of that
question alone.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from numbers import Real
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from strategies.suggestion import near
from workers.tasks.base import Benchmark, DataError, Metric, Sample, Task, Verdict
from workers.tasks.prompts import IMAGE_MARKER
from workers.work import TaskSpec

if TYPE_CHECKING:
    import pandas as pd

PREFIX = "lmms_eval/"
SPLIT = "eval"  # the task itself says which documents are asked
USUAL_TOKENS = 1024  # of an answer, where a task does not say
HEADLINE = "score"  # what the task's first figure is called where one is quoted alone
INSTALL = 'pip install "saccade[lmms-eval]"'

_open: dict[str, Any] = {}  # tasks of lmms-eval that this process has read, by their names


def task_named(name: str) -> tuple[Task, str]:
    """The benchmark ``lmms_eval/NAME``, nothing of which is read yet, and the package's version.

    Raises:
        DataError: lmms-eval is not installed.
    """
    try:
        package = f"lmms-eval {version('lmms-eval')}"
    except PackageNotFoundError as error:
        raise DataError(f"task {name}: needs lmms-eval: {INSTALL}") from error
    judge = lmms_eval(name.removeprefix(PREFIX))
    task = Task(
        name=name,
        load=partial(load, judge.task),
        split=SPLIT,
        scorers=(judge.__name__,),
        source=package,
        metrics=judge.figures,
        headline=HEADLINE,
        judges=(judge,),
        asks="what lmms-eval asks of images",
        files="those of lmms-eval",
        splits=f"`{SPLIT}`: the one that the task names",
        figures="those of lmms-eval, the first of them quoted",
    )
    return task, package


def load(name: str, spec: TaskSpec) -> Benchmark:
    """Read a task's documents; images are decoded when they are asked about.

    Raises:
        DataError: there is no such task, it does not ask for a generated answer, or its documents cannot be had.
    """
    if spec.split != SPLIT:
        raise DataError(f"task.split: {PREFIX}{name} asks the documents that lmms-eval names; leave split out")
    task = _open[name] = _read(name, Path(spec.data))
    _document.cache_clear()
    docs, texts = task.eval_docs, task.eval_docs_no_media
    shown = _shown(task, docs)
    place = _file(docs, Path(spec.data))
    samples = [
        Sample(
            id=str(number),
            question=_asked(str(task.fewshot_context(doc, task.config.num_fewshot or 0)), shown[number]),
            label=_told(task.doc_to_target(doc)),
            image=DocumentImage(name, place, number, 0, shown[number]) if shown[number] else None,
            more=tuple(DocumentImage(name, place, number, one, shown[number]) for one in range(1, shown[number])),
            instruction=None,
        )
        for number, doc in enumerate(texts)
    ]
    most = (task.config.generation_kwargs or {}).get("max_new_tokens", USUAL_TOKENS)
    return Benchmark(samples=tuple(samples), notes=(f"{PREFIX}{name}: asked there with max_new_tokens: {most}",))


@dataclass(frozen=True, slots=True)
class DocumentImage:
    """An image of a document, as its task shows it."""

    task: str
    file: Path  # that holds the document
    row: int
    number: int = 0  # which of its images
    images: int = 1  # that it shows

    def __str__(self) -> str:
        which = f", image {self.number + 1}" if self.images > 1 else ""
        return f"{PREFIX}{self.task}: document {self.row}{which}"

    def read(self) -> bytes:
        """The image as PNG.

        Raises:
            OSError: the document has other images, or a video.
        """
        task = _task(self.task)
        images = task.doc_to_visual(task.eval_docs[self.row]) or []
        if len(images) != self.images or not all(hasattr(image, "save") for image in images):
            raise OSError(f"shows {len(images)} images or videos; images are supported, {self.images} of them here")
        stream = io.BytesIO()
        images[self.number].convert("RGB").save(stream, "PNG", compress_level=1)
        return stream.getvalue()


@dataclass(frozen=True, slots=True)
class _Judge:
    """The rule of a task: its filters, then its own judgement of one answer."""

    __name__ = "lmms_eval"
    task: str

    def __call__(self, answer: str, sample: Sample) -> Verdict:
        task = _task(self.task)
        text = _cut(task, answer)
        values = _judged(task, int(sample.id), text)
        first = next((name for name in values if name in task.aggregation()), None)
        return Verdict(text, 0.0 if first is None else _score(task, first, values[first]))

    def figures(self, rows: pd.DataFrame) -> list[Metric]:
        """The task's aggregations over the documents that are answered."""
        task = _task(self.task)
        found: dict[str, list[Any]] = {}
        for id, text in zip(rows["id"], rows["parsed"], strict=True):
            for name, value in _judged(task, int(id), text if isinstance(text, str) else "").items():
                found.setdefault(name, []).append(value)
        figures = []
        for name, values in found.items():
            value = _aggregated(task, name, values) if name in task.aggregation() else None
            if value is not None:
                figures.append(Metric(name, value, len(values), "share" if 0 <= value <= 1 else "points"))
        return [figures[0]._replace(name=f"{HEADLINE} ({figures[0].name})"), *figures[1:]] if figures else []


lmms_eval = _Judge  # the name of the rule, by which its source is found


def _task(name: str) -> Any:
    if name not in _open:
        _open[name] = _read(name, None)
    return _open[name]


def _read(name: str, data: Path | None) -> Any:
    """The task object of lmms-eval."""
    from lmms_eval.api.task import Task as Theirs
    from lmms_eval.tasks import TaskManager
    from loguru import logger
    from tenacity import RetryError

    logger.disable("lmms_eval")
    manager = TaskManager(include_path=str(data), include_defaults=False) if data and any(data.glob("*.yaml")) else None
    if manager is None or name not in manager.all_tasks:
        manager = TaskManager()
    if name not in manager.all_subtasks:
        kind = "a group of tasks: name one of them" if name in manager.all_tasks else "no task of lmms-eval"
        raise DataError(f"{PREFIX}{name}: is {kind}{near(name, manager.all_subtasks)}")
    try:
        made = manager.load_task_or_group([name])[name]
    except RetryError as error:
        reason = error.last_attempt.exception()
        raise DataError(f"{PREFIX}{name}: its documents cannot be had: {type(reason).__name__}: {reason}") from error
    if not isinstance(made, Theirs) or made.OUTPUT_TYPE != "generate_until":
        kind = getattr(made, "OUTPUT_TYPE", "group")
        raise DataError(f"{PREFIX}{name}: is of output_type {kind}; generate_until is supported")
    return made


def _shown(task: Any, docs: Any) -> list[int]:
    """Of each document how many images it has, without decoding any where a column of single images says so."""
    columns = [name for name, kind in getattr(docs, "features", {}).items() if "Image(" in str(kind)]
    if len(columns) != 1 or type(docs.features[columns[0]]).__name__ != "Image":
        return [len(task.doc_to_visual(doc) or ()) for doc in docs]
    from datasets import Image

    return [int(value is not None) for value in docs.cast_column(columns[0], Image(decode=False))[columns[0]]]


def _asked(context: str, images: int) -> str:
    """A document's prompt; where several images stand in it, that is where they go."""
    return (context if images > 1 else context.replace(IMAGE_MARKER, "")).strip()


def _file(docs: Any, data: Path) -> Path:
    """A file that holds the documents, by whose content they are named; where they are in memory alone, the task's."""
    files = [Path(one["filename"]) for one in getattr(docs, "cache_files", ())] or sorted(data.glob("*.yaml"))
    return files[0] if files else Path(inspect.getfile(type(docs)))


def _told(target: Any) -> str:
    return ", ".join(map(str, target)) if isinstance(target, list | tuple) else str(target)


def _cut(task: Any, answer: str) -> str:
    """The answer up to where the task stops it."""
    until = (task.config.generation_kwargs or {}).get("until") or ()
    for stop in [until] if isinstance(until, str) else until:
        answer = answer.partition(stop)[0] if stop else answer
    return answer.strip()


@lru_cache(maxsize=64)  # a question is answered at every grid point
def _document(name: str, number: int) -> Any:
    return _task(name).eval_docs[number]


def _judged(task: Any, number: int, text: str) -> Mapping[str, Any]:
    """What the task makes of an answer: figures by name. It may write to its document, so it is given a copy."""
    name, response = task.config.task, text
    if filters := getattr(task, "_filters", None):
        from lmms_eval.api.instance import Instance

        about = {"task": name, "doc_id": number, "repeats": 1}
        asked = Instance(request_type="generate_until", arguments=(), idx=0, metadata=about, resps=[text])
        filters[0].apply([asked], None)
        response = asked.filtered_resps[filters[0].name]
    values: Mapping[str, Any] = task.process_results(copy.deepcopy(_document(name, number)), [response])
    return values


def _score(task: Any, name: str, value: Any) -> float:
    if isinstance(value, Mapping) and isinstance(value.get("score"), Real):
        value = value["score"]
    number = float(value) if isinstance(value, Real) else _aggregated(task, name, [value])
    return 0.0 if number is None or math.isnan(number) else min(max(number, 0.0), 1.0)


def _aggregated(task: Any, name: str, values: list[Any]) -> float | None:
    """A figure; None where it is no number. What the task prints or writes beside it is dropped."""
    function = task.aggregation()[name]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        given = (
            {"args": SimpleNamespace(output_path=folder)} if "args" in inspect.signature(function).parameters else {}
        )
        found = function(values, **given)
    return float(found) if isinstance(found, Real) else None
