"""What is opened: experiments, and of suites' folders those experiments that have begun."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from results.experiment import Experiment, names_apart
from results.suites import begun, is_suite


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """An experiment on the gallery."""

    path: Path
    model: str = ""  # of a suite of several
    benchmark: str = ""  # of a suite; "" where it was opened by itself

    @property
    def title(self) -> str:
        """What a suite calls it."""
        return "/".join(filter(None, (self.model, self.benchmark)))


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


def titles(found: Sequence[Opened]) -> list[str]:
    """What they are called: no two alike.

    Raises:
        StoreError: One of them is no experiment.
    """
    names = [one.title or Experiment.open(one.path).name for one in found]
    return names if len(set(names)) == len(names) else names_apart([Experiment.open(one.path) for one in found])
