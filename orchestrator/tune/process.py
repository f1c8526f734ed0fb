"""Tune in a process of its own: what it does there holds up nothing here."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
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
    process.start()
    answer.close()
    return said, process
