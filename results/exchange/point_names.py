"""Names of grid points: what a command line chooses by (`--points`, `--reference`), and what a file is called by."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import takewhile

from workers.work import GridPoint


@dataclass(frozen=True, slots=True)
class PointName:
    """The parts of a grid point's one name, ``fastv layer=2 tokens=192 alpha=0.3``."""

    strategy: str
    layer: str = ""  # "2"
    budget: str = ""  # "tokens=192"
    settings: str = ""  # "alpha=0.3"

    @classmethod
    def of(cls, label: str) -> PointName:
        """Of our names, and of those of imported figures, which may lack layer and budget."""
        words = label.split(" ")
        strategy = " ".join(takewhile(lambda word: "=" not in word, words))
        words = words[len(strategy.split(" ")) :]
        layer = words.pop(0).partition("=")[2] if words and words[0].startswith("layer=") else ""
        budget = words.pop(0) if words and words[0].startswith(("rank=", "tokens=")) else ""
        return cls(strategy, layer, budget, " ".join(words))

    def method(self, *, layer: bool) -> str:
        """The name without its budget, for tables that have budgets apart."""
        place = f"layer={self.layer}" if layer and self.layer else ""
        return " ".join(filter(None, (self.strategy, place, self.settings)))


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
