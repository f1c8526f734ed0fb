"""Benchmarks that are not of this project: from a user's own file, or from an installed package.

As strategies of a user's own (`strategies.own`): a file is run only for who names it for this very purpose, as ``task:
./my_task.py:load`` in a sweep file; it goes to other processes as text (`OwnTask`), and is called ``my_task.py:load``
everywhere. A package registers its benchmarks under the entry point group ``saccade.tasks``; those of lmms-eval are
taken from there. An experiment holds only names and hashes.

Both give a `Task`, or a function of a `TaskSpec` that gives samples or a `Benchmark`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from strategies import own_code
from strategies.own_names import in_file
from workers.tasks import catalog
from workers.tasks.answers import SCORERS
from workers.tasks.base import Benchmark, DataError, Sample, Task
from workers.tasks.files import checked
from workers.tasks.from_lmms_eval import PREFIX, task_named
from workers.work import TaskSpec

GROUP = "saccade.tasks"


class TaskError(DataError):
    """A benchmark that is not of this project cannot be used. The message says where and why."""


OwnTask = own_code.OwnCode


def from_text(file: str, text: str, name: str) -> Task:
    """Run the text of a file, and take a benchmark from it into the catalog.

    Args:
        file: its name without folders, ``my_task.py``.
        text: Python.
        name: of the benchmark in it.

    Raises:
        TaskError: the text does not run, or has no such benchmark.
    """
    made = own_code.of_file(file, text, name, TaskError, lambda value: isinstance(value, Task) or callable(value))
    return catalog.admit(_task(made, f"{file}:{name}", file, f"own benchmark, {file}", text))


def from_package(name: str) -> Task | None:
    """Take a benchmark of an installed package into the catalog; None where no package has one of that name.

    Raises:
        TaskError: it cannot be imported, is no benchmark, or two packages have one of that name.
    """
    if name.startswith(PREFIX):
        task, package = task_named(name)
        return catalog.admit(_task(task, name, package, package, package))
    found = None if name in catalog.CATALOG else own_code.of_package(GROUP, name, "task", TaskError)
    if found is None:
        return None
    made, package = found
    function = made.load if isinstance(made, Task) else made
    file = inspect.getsourcefile(function) if inspect.isfunction(function) else None
    text = "" if file is None else Path(file).read_text(encoding="utf-8")
    return catalog.admit(_task(made, name, package, package, f"{text}\n# {package}"))


def packaged() -> list[EntryPoint]:
    """What installed packages register, by name; nothing of it is imported."""
    return own_code.registered(GROUP)


def collisions() -> list[str]:
    """A line for each benchmark of a package that has the name of one of ours, which goes before it."""
    return own_code.collisions(GROUP, "task", catalog.CATALOG)


def travelling(name: str) -> tuple[OwnTask, ...]:
    """What another process needs to know the benchmark of this name; nothing where it is of this project."""
    task = catalog.ADMITTED.get(name)
    if task is None:
        return ()
    return (OwnTask(name=name, source=task.source_hash, text=task.origin if in_file(name) else None),)


def admit(tasks: Sequence[OwnTask]) -> None:
    """Know benchmarks that another process has sent.

    Raises:
        TaskError: one does not run here, or is of another version.
    """
    own_code.admit(tasks, "task", TaskError, from_package, from_text)


def _task(made: Any, name: str, place: str, source: str, text: str) -> Task:
    """What a file or a package gives, as a benchmark of that name whose loader raises one line.

    Raises:
        TaskError: it is none, or names a scorer that nobody has.
    """
    if inspect.isfunction(made):
        given = [one for one in inspect.signature(made).parameters.values() if one.default is one.empty]
        if len(given) == 1:
            made = Task(name=name, load=made, split="test", scorers=tuple(SCORERS), source=source)
    if not isinstance(made, Task):
        raise TaskError(f"{name}: is no benchmark; give a workers.tasks.base.Task, or a function of a TaskSpec")
    own = {judge.__name__ for judge in made.judges}
    if not made.scorers or (unknown := [one for one in made.scorers if one not in own | set(SCORERS)]):
        said = f"scorer '{unknown[0]}' is unknown" if made.scorers else "it names no scorer"
        raise TaskError(f"{name}: {said} (known: {', '.join((*own, *SCORERS))})")
    return replace(made, name=name, load=Loading(made.load, name, place), origin=text)


@dataclass(frozen=True, slots=True)
class Loading:
    """A loader of others, what it gives being looked at."""

    load: Callable[[TaskSpec], Any]
    name: str
    place: str

    def __call__(self, spec: TaskSpec) -> Benchmark:
        made = own_code.run(self.place, lambda: self._samples(spec), DataError)
        for sample in made.samples:
            if not isinstance(sample, Sample):
                raise TaskError(f"{self.name}: gives a {type(sample).__name__}, no workers.tasks.base.Sample")
        return replace(made, samples=checked(Path(spec.data), made.samples, f"question of {self.name}"))

    def _samples(self, spec: TaskSpec) -> Benchmark:
        made = self.load(spec)
        return made if isinstance(made, Benchmark) else Benchmark(samples=tuple(made))
