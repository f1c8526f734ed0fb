"""Tune in a process of its own: what it does there holds up nothing here."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from results.import_path import protect_children

SPAWN = multiprocessing.get_context("spawn")  # a fork of this process would hold the pool's connections


def spawn(target: Callable[..., None], *arguments: Any) -> tuple[Any, Any]:
    """Start a process.

    Returns:
        Where it answers, and the process.
    """
    protect_children()
    said, answer = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=target, args=(*arguments, answer), name="saccade-tune", daemon=True)
    with _without_main():
        process.start()
    answer.close()
    return said, process


@contextmanager
def _without_main() -> Iterator[None]:
    """Start a process that does not run the user's own script once more: `saccade.run` may stand at its top level."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
