"""Where this user's machine keeps what can be made again: working copies of buckets, the speed of cards, kernels."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(name: str) -> Path:
    """A folder of ours in ``XDG_CACHE_HOME``, or ``~/.cache``; not made here."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "saccade" / name
