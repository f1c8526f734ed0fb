"""Of a grid that several models share, what one of them can run, and why not the rest."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.sweep.mistakes import SpecError
from orchestrator.sweep.source import SweepText
from orchestrator.sweep.spec import SweepSpec, spec_of

IN_GRID = re.compile(r"grid\[(\d+)\][^:]*: (.*)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A method that a model cannot run as the grid has it."""

    place: int  # among the grid's entries, a list of strategies taken apart
    strategy: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Runnable:
    """A sweep without what its model cannot run."""

    spec: SweepSpec
    refused: tuple[Refused, ...] = ()
    complaints: tuple[str, ...] = ()  # what is said of the whole sweep where something is refused


def runnable(written: SweepText, gpu: bool | None) -> Runnable:
    """Leave out the grid entries that the model cannot run, a method at a time.

    Raises:
        SpecError, ModelError: Something else is wrong, or no entry is left.
    """
    try:
        return Runnable(spec=spec_of(written, gpu, files=False))
    except SpecError as error:
        complaints = error
    entries = dict(enumerate(_taken_apart(written.raw.get("grid"))))
    refused: list[Refused] = []
    while entries:
        try:
            spec = spec_of(replace(written, raw={**written.raw, "grid": list(entries.values())}), gpu, files=False)
            return Runnable(spec=spec, refused=tuple(refused), complaints=complaints.args)
        except SpecError as error:
            found = [IN_GRID.fullmatch(line.removeprefix(f"{written.place}: ")) for line in error.args]
        places = list(entries)
        for one in found:
            if one is None:
                raise complaints
            entry = entries.pop(places[int(one[1])], None)
            if entry is not None:  # a second complaint of it says no more
                refused.append(Refused(place=places[int(one[1])], strategy=str(entry["strategy"]), reason=one[2]))
    raise complaints


def _taken_apart(grid: Any) -> Iterator[Mapping[str, Any]]:
    """The entries, one for each strategy; what is no entry says so itself when it is read."""
    for entry in grid if isinstance(grid, list) else []:
        named = entry.get("strategy") if isinstance(entry, dict) else None
        for strategy in named if isinstance(named, list) else [named]:
            yield entry if named is None else {**entry, "strategy": strategy}
