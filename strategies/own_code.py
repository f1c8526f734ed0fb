"""Code that is not of this project: a user's own file, run as a module, or what an installed package registers.

Whatever it raises is one line with its place. What is made of it - a strategy, a benchmark - says who runs it.
"""

from __future__ import annotations

import linecache
import sys
import traceback
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, Protocol, TypeVar

from strategies.errors import SaccadeError
from strategies.suggestion import near

Made = TypeVar("Made")


def of_file(file: str, text: str, name: str, error: type[SaccadeError], wanted: Callable[[Any], bool]) -> Any:
    """Run the text of a file, and take what has a name in it.

    Args:
        file: its name without folders, ``my_rule.py``.
        text: Python.
        name: of what is wanted.
        error: raised where the text does not run, or has no such name.
        wanted: which of its values the message may suggest.
    """
    module = run(file, lambda: _module(file, text), error)
    if not hasattr(module, name):
        known = [other for other, value in vars(module).items() if wanted(value)]
        raise error(f"{file}: has no '{name}'{near(name, known)}")
    return getattr(module, name)


def of_package(group: str, name: str, kind: str, error: type[SaccadeError]) -> tuple[Any, str] | None:
    """What an installed package registers under a name, and the package; None where none does.

    Args:
        group: of entry points.
        name: as it is registered.
        kind: for messages, ``strategy``.
        error: raised where it cannot be imported, or two packages register it.
    """
    found = [point for point in registered(group) if point.name == name]
    if len(found) > 1:
        raise error(f"{kind} '{name}': is in {' and in '.join(map(package_of, found))}; uninstall one of them")
    if not found:
        return None
    package = package_of(found[0])
    return run(package, found[0].load, error), package


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnCode:
    """A rule or a benchmark on its way to another process."""

    name: str  # in grid points, or in a `TaskSpec`
    source: str  # its hash, which must come out there too
    text: str | None  # of its file; None: of a package that must be installed there


class Hashed(Protocol):
    """What is in a catalog."""

    @property
    def source_hash(self) -> str: ...


def admit(
    sent: Iterable[OwnCode],
    kind: str,
    error: type[SaccadeError],
    from_package: Callable[[str], Hashed | None],
    from_text: Callable[[str, str, str], Hashed],
) -> None:
    """Know what another process has sent.

    Args:
        sent: by that process.
        kind: for messages, ``strategy``.
        error: raised where one does not run here, or is of another version.
        from_package, from_text: take one into the catalog, by its name, or by file, text and name in it.
    """
    for one in sent:
        file, _, name = one.name.rpartition(":")
        made = from_package(one.name) if one.text is None else from_text(file, one.text, name)
        if made is None:
            raise error(f"{kind} '{one.name}': its package is not installed here; install it on every machine")
        if made.source_hash != one.source:
            raise error(f"{kind} '{one.name}': another version is installed here; install the same everywhere")


def registered(group: str) -> list[EntryPoint]:
    """What installed packages register, by name; nothing of it is imported."""
    return sorted(entry_points(group=group), key=lambda point: point.name)


def collisions(group: str, kind: str, ours: Container[str]) -> list[str]:
    """A line for each that has the name of one of ours, which goes before it."""
    remedy = "Saccade has one of that name; rename it there"
    return [
        f"{kind} '{point.name}' of {package_of(point)} is not used: {remedy}"
        for point in registered(group)
        if point.name in ours
    ]


def package_of(point: EntryPoint) -> str:
    return "an installed package" if point.dist is None else f"{point.dist.name} {point.dist.version}"


def run(place: str, make: Callable[[], Made], kind: type[SaccadeError]) -> Made:
    """What code of others makes; whatever it raises, in one line with its place, unless it is such a line itself."""
    try:
        return make()
    except kind:
        raise
    except SyntaxError as error:
        raise kind(f"{error.filename or place}:{error.lineno}: {error.msg}") from error
    except (Exception, SystemExit) as error:  # whatever a file of a user's does
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == place]
        where = f"{place}:{lines[-1]}" if lines else place
        alone = isinstance(error, ModuleNotFoundError) and place.endswith(".py")
        remedy = "; it is one file: put all of it there, or install what it imports" if alone else ""
        raise kind(f"{where}: {type(error).__name__}: {error}{remedy}") from error


def _module(file: str, text: str) -> ModuleType:
    """The text as a module, whose lines tracebacks can show."""
    module = ModuleType(f"saccade_own_{file.removesuffix('.py')}")
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    sys.modules[module.__name__] = module  # where dataclasses and type hints look
    exec(compile(text, file, "exec"), vars(module))
    return module
