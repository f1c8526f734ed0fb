"""Grid points chosen by name on a command line: `--points` and `--reference` of whatever command."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase


def is_named(label: str, pattern: str) -> bool:
    """Whether each word of a pattern is a word of the label, or the pattern is a glob of the whole label.

    ``layer=1`` is layer 1 and not 10, ``fastv`` is no ``fastv_advanced``; ``rank=1*`` is a word with a glob in it.
    """
    words = label.split()
    return fnmatchcase(label, pattern) or (
        bool(pattern.split()) and all(any(fnmatchcase(word, part) for word in words) for part in pattern.split())
    )


def is_chosen(label: str, patterns: Sequence[str]) -> bool:
    """Whether a grid point is among those asked for; without a pattern all are."""
    return not patterns or any(is_named(label, pattern) for pattern in patterns)
