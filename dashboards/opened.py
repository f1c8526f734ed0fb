"""What is opened: experiments, and of suites' folders those experiments that have begun."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from results.suites import begun, is_suite


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """An experiment on the gallery."""

    path: Path
    model: str = ""  # of a suite of several
    benchmark: str = ""  # of a suite; "" where it was opened by itself


def opened(places: Sequence[Path]) -> list[Opened]:
    """Each once, in the order in which they are named.

    Raises:
        StoreError: A suite's file is damaged.
    """
    found: dict[Path, Opened] = {}
    for place in places:
        if not is_suite(place):
            found.setdefault(place, Opened(path=place))
            continue
        for one in begun(place):
            path = place / one.folder
            found[path] = Opened(path=path, model=one.model, benchmark=one.benchmark)
    return list(found.values())
