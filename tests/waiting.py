"""Waiting until something is so, instead of for a time that a busy machine needs more of."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 200.0  # below the time limit of a test; only what would never come to pass takes so long


def wait_for(condition: Callable[[], object], every_s: float = 0.05) -> None:
    """Return as soon as ``condition()`` holds; fail when it does not for minutes."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(every_s)
