"""Rules and benchmarks that a sweep file names and Saccade does not have: taken into the catalogs when it is read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from orchestrator.sweep.document import Entry
from orchestrator.sweep.mistakes import Check, Mistake
from strategies import catalog, own
from strategies.catalog import Strategy
from strategies.errors import SaccadeError
from workers.foreign import expanded
from workers.json_file import UnreadableError, read_text
from workers.tasks import catalog as tasks
from workers.tasks import own as own_tasks
from workers.tasks.base import Task
from workers.tasks.from_lmms_eval import PREFIX
from workers.work import UNPRUNED

MAX_BYTES = 2**20  # of a file of rules
REFERENCE = re.compile(r"(?P<file>[^:]+\.py):(?P<name>[A-Za-z_]\w*)")
TASK_FORM = "a benchmark of your own is named ./FILE.py:NAME, with its place seen from the sweep file"
FORM = "a rule of your own is named ./FILE.py:NAME, with its place seen from the sweep file"


def with_own_rules(entries: Iterable[tuple[str, Entry]], folder: Path) -> Check[list[tuple[str, Entry]]]:
    """The entries with each rule by the name that it has in grid points; what cannot be used is left out.

    Args:
        entries: With their places.
        folder: Of the sweep file.
    """
    named: dict[str, Path] = {}  # of each rule in a file: which one
    found = []
    for place, entry in entries:
        names = []
        for name in entry.strategies:
            try:
                names.append(_known_name(name, folder, named))
            except own.RuleError as error:
                yield Mistake(f"{place}.strategy", str(error))
        if names or not entry.strategies:
            found.append((place, entry.model_copy(update={"strategy": names})))
    return found


def rule_of(name: str, folder: Path) -> Strategy:
    """The strategy of a name: ours, of a package, or in a file, which is run.

    Args:
        name: As a sweep file gives it.
        folder: From which a file is seen.

    Raises:
        RuleError: Its file or package does not run, or has no such rule.
        UnknownStrategy: Nobody has it.
    """
    return catalog.get(_known_name(name, folder, {}))


def task_of(name: str, folder: Path) -> Task:
    """The benchmark of a name: ours, of a package, or in a file, which is run.

    Args:
        name: As a sweep file gives it.
        folder: From which a file is seen.

    Raises:
        TaskError: Its file or package does not run, or has no such benchmark.
        DataError: Nobody has it.
    """
    if is_reference(name) and not name.startswith(PREFIX):
        file, text, wanted = _content(name, folder, own_tasks.TaskError, TASK_FORM)
        return own_tasks.from_text(file.name, text, wanted)
    return own_tasks.from_package(name) or tasks.get(name)


def is_reference(name: str) -> bool:
    """Whether it is meant for a rule in a file, not for a name."""
    return "/" in name or ".py" in name


def _known_name(name: str, folder: Path, named: dict[str, Path]) -> str:
    if is_reference(name):
        strategy, file = _read(name, folder)
        if named.setdefault(strategy.name, file) != file:
            raise own.RuleError(f"{name}: another file of this name has a rule of this name; rename one of them")
        return strategy.name
    if name not in catalog.CATALOG and name != UNPRUNED:
        own.from_package(name)  # where there is none, the grid says so
    return name


def _read(reference: str, folder: Path) -> tuple[Strategy, Path]:
    file, text, name = _content(reference, folder, own.RuleError, FORM)
    return own.from_text(file.name, text, name), file


def _content(reference: str, folder: Path, kind: type[SaccadeError], form: str) -> tuple[Path, str, str]:
    """A file that is named, its text, and what is wanted of it."""
    match = REFERENCE.fullmatch(reference)
    if match is None:
        raise kind(f"{reference}: {form}")
    file = (folder / expanded(Path(match["file"]))).resolve()
    try:
        return file, read_text(file, MAX_BYTES), match["name"]
    except UnreadableError as error:
        raise kind(f"{error}; {form}") from error
