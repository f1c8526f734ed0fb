"""The source text that decides what a strategy chooses, as one hash."""

from __future__ import annotations

import ast
import hashlib
import inspect
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
ALWAYS = ("view.py", "scores.py", "baselines.py")  # the last is in the names of cells that there are
NO_CHOICE = {"catalog", "strategy"}  # where a rule of a user's own finds its words


def hash_of(functions: Iterable[Callable[..., Any] | None], origin: str | None, traits: str) -> str:
    """Of the files of some functions with all that they import from here, and of what is no text of these.

    Args:
        functions: of a strategy; None where it has none.
        origin: source text of a rule that is not of this package.
        traits: what else decides.
    """
    files = {FOLDER / name for name in ALWAYS}
    if origin is not None:
        files |= _imported(origin)
    for function in filter(None, functions):
        file = Path(inspect.getsourcefile(function) or "")
        files |= _with_imports(file) if origin is None or file.parent == FOLDER else set()
    content = b"".join(file.read_bytes() for file in sorted(files)) + (origin or "").encode()
    return hashlib.sha256(content + traits.encode()).hexdigest()[:16]


@cache
def _with_imports(file: Path) -> frozenset[Path]:
    """A file of this package and all that it imports from it, however indirectly."""
    return frozenset({file}) | _imported(file.read_text(encoding="utf-8"))


def _imported(text: str) -> frozenset[Path]:
    """The files of this package that a text imports, however indirectly; none of those that decide no choice."""
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module == FOLDER.name:
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(f"{FOLDER.name}."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith(f"{FOLDER.name}.")}
    return frozenset[Path]().union(*(_with_imports(FOLDER / f"{name}.py") for name in names - NO_CHOICE))
