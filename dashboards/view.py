"""What a page is asked to show: the state that the URL keeps, and the part of the results it points at.

The URL is the only memory of a view, so that a view can be sent to a colleague:
``/layer?strategy=fastv&strategy=random&rank=64&config=layer_cutoff:4f0c...``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar, cast
from urllib.parse import parse_qsl, urlencode

import pandas as pd

from dashboards import theme
from dashboards.gallery import Snapshot, Source
from dashboards.rows import PARAMETER, Axis, Slice, slices

OWNERS = {"experiment": "Experiment", "model": "Model", "benchmark": "Benchmark"}  # whose un-pruned model it is
FILTERS = OWNERS | {  # of the bar on every page, and how it calls them; `filters_of` adds parameters
    "strategy": "Strategy", "layer": "Layer", "rank": "Tokens kept", "state": "State",
}  # fmt: skip
REMEMBERED = 24  # views of a snapshot
T = TypeVar("T")
CONFIG = "config"  # the configuration whose details are open: a value of the column ``id``


@dataclass(frozen=True, slots=True)
class State:
    """Names with one or several values, as the URL's query has them. Unknown names are kept, unknown values ignored."""

    values: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, search: str | None) -> State:
        return cls(tuple(parse_qsl((search or "").lstrip("?"))))

    @property
    def search(self) -> str:
        """As the URL writes it: "" or "?name=value&..."."""
        return f"?{urlencode(self.values)}" if self.values else ""

    def all(self, name: str) -> tuple[str, ...]:
        return tuple(value for key, value in self.values if key == name)

    def get(self, name: str) -> str:
        return next(iter(self.all(name)), "")

    @property
    def filters(self) -> State:
        """What of it belongs to the filter bar."""
        return State(tuple(pair for pair in self.values if pair[0] in FILTERS or pair[0].startswith(PARAMETER)))

    def with_(self, name: str, value: str | Iterable[str] | None) -> State:
        """With other values of one name; none of them removes it."""
        new = [value] if isinstance(value, str) else list(value or ())
        kept = [pair for pair in self.values if pair[0] != name]
        return State((*kept, *((name, text) for text in new if text != "")))


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Everything a page needs to draw."""

    state: State
    snapshot: Snapshot
    rows: pd.DataFrame  # of the snapshot's, those that the filter bar lets through; un-pruned models always
    ink: theme.Ink

    def slices(self, axis: Axis) -> list[Slice]:
        """`dashboards.rows.slices` of the rows in view, worked out once for all pages."""
        return once(self.snapshot, ("slices", axis, self.state.filters), lambda: slices(self.rows, axis))

    @property
    def sources(self) -> tuple[Source, ...]:
        """The experiments in view."""
        shown = set(self.rows["experiment"])
        return tuple(source for source in self.snapshot.sources if source.name in shown)

    @property
    def pruned(self) -> pd.DataFrame:
        return self.rows[~self.rows["baseline"]]


def view(snapshot: Snapshot, state: State, ink: theme.Ink = theme.LIGHT) -> View:
    """Apply the filter bar."""
    rows = once(snapshot, ("rows", state.filters), lambda: filtered(snapshot.rows, state))
    return View(state=state, snapshot=snapshot, rows=rows, ink=ink)


def once(snapshot: Snapshot, key: object, work: Callable[[], T]) -> T:
    """What a view works out of a snapshot: several callbacks ask for the same one after another."""
    with snapshot.lock:  # two requests of one change do not work at the same thing
        found = snapshot.found
        if key not in found:
            if len(found) >= REMEMBERED:
                found.pop(next(iter(found)))
            found[key] = work()
        return cast("T", found[key])


def filtered(rows: pd.DataFrame, state: State) -> pd.DataFrame:
    """Rows that the filters let through. A filter without a known value lets everything through."""
    passed = pd.Series(True, index=rows.index)
    for name in filters_of(rows):
        known = options(rows, name)
        if wanted := [value for value in state.all(name) if value in known]:
            passed &= texts(rows, name).isin(wanted) | (rows["baseline"] & (name not in OWNERS))
    return rows[passed]


def filters_of(rows: pd.DataFrame) -> dict[str, str]:
    """The filters that there are: those of the bar, and one for each parameter (see `with_parameters`)."""
    return FILTERS | {name: name.removeprefix(PARAMETER) for name in map(str, rows) if name.startswith(PARAMETER)}


def options(rows: pd.DataFrame, name: str) -> list[str]:
    """The values that a filter can have, in the order of the grid, numbers by size."""
    found = texts(rows if name in OWNERS else rows[~rows["baseline"]], name)
    known = [text for text in found.unique() if text]
    try:
        return sorted(known, key=float)
    except ValueError:
        return known


def texts(rows: pd.DataFrame, name: str) -> pd.Series:
    """A column as the filter bar writes it."""
    return rows["status" if name == "state" else name].astype(str)
