"""Names of grid points: what a command line chooses by (`--points`, `--reference`), and what a file is called by."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from workers.work import GridPoint


def file_name(text: str) -> str:
    """``fastv layer=2 rank=8`` -> ``fastv_layer=2_rank=8``, a name that any file system takes."""
    return re.sub(r"[^A-Za-z0-9._=-]+", "_", text)


def names_of(point: GridPoint) -> tuple[str, ...]:
    """What a grid point may be chosen by: its name, and all its settings, which a name leaves out at their defaults."""
    return tuple(dict.fromkeys((point.label, point.spelled)))


def is_named(names: Sequence[str], pattern: str) -> bool:
    """Whether each word of a pattern is a word of some name, or the pattern is a glob of a whole one.

    ``layer=1`` is layer 1 and not 10, ``fastv`` is no ``fastv_advanced``; ``rank=1*`` is a word with a glob in it.
    """
    words = {word for name in names for word in name.split()}
    return any(fnmatchcase(name, pattern) for name in names) or (
        bool(pattern.split()) and all(any(fnmatchcase(word, part) for word in words) for part in pattern.split())
    )


def is_chosen(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether a grid point is among those asked for; without a pattern all are."""
    return not patterns or any(is_named(names, pattern) for pattern in patterns)
