"""What a page is made of: controls, and panels that hold a figure and its numbers.

A page is a module with one constant ``PAGE``. Most pages only say which controls they have and which panels a view
gives; the app keeps their state in the URL, refreshes figures without losing the reader's zoom, offers the downloads,
and opens a configuration's details on a click. What is not made of panels is ``extra``, below them or alone, and the
page ``register``s the callbacks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from dashboards.view import View
from results.escaping import csv_text

if TYPE_CHECKING:
    from dash import Dash

    from dashboards.figures import Figure
    from dashboards.gallery import Gallery, Snapshot

MAX_FACETS = 8
Kind = Literal["choice", "choices", "slider", "switch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """A setting of one page; its value stands in the URL under its name, unless it is the default."""

    name: str
    label: str
    kind: Kind
    values: Sequence[str]  # as the URL has them; of a switch: off, on
    labels: Sequence[str] = ()  # for people; the values themselves by default
    default: Sequence[str] = ()  # where it is not the first value; of ``choices`` several, or none

    @property
    def texts(self) -> Sequence[str]:
        return self.labels or self.values

    @property
    def preset(self) -> list[str]:
        """What it stands at where the URL says nothing."""
        return list(self.default or ([] if self.kind == "choices" else self.values[:1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A figure with its numbers. Every point's ``customdata`` is (or begins with) the ``id`` of its configuration."""

    name: str  # unique on the page; names the downloads
    figure: Figure | None
    rows: pd.DataFrame  # what the figure shows
    title: str = ""  # where the figure has none
    finding: str = ""  # what it shows, in a sentence
    experiments: tuple[str, ...] = ()  # whose numbers it shows, where not of all in view
    alone: str = ""  # its name where one experiment alone is in view, where that is another
    note: str = ""  # numbers under the picture, in words
    below: Any = None  # Dash components under it
    wide: bool = True  # the whole width; else two side by side

    @property
    def csv(self) -> str:
        """With a byte-order mark, because spreadsheets otherwise take UTF-8 for Latin-1."""
        return "\ufeff" + csv_text(self.rows)


def faceted(panels: Callable[[View], Sequence[Panel]]) -> Callable[[View], Sequence[Panel]]:
    """Panels drawn once for each model and benchmark, so that nobody is held against another's un-pruned model."""

    def all_of(view: View) -> Sequence[Panel]:
        facets = view.facets()
        if len(facets) == 1:
            return panels(view)
        found: list[Panel] = []
        for place, facet in enumerate(facets[:MAX_FACETS], start=1):
            for nth, panel in enumerate(panels(facet)):
                title = facet.facet if nth == 0 or not panel.wide else ""
                owners = tuple(source.name for source in facet.sources)
                name = f"{panel.name}-{place}"
                found.append(replace(panel, name=name, alone=panel.name, title=title, experiments=owners))
        if found and (left := len(facets) - MAX_FACETS) > 0:
            note = f"and {left} more models and benchmarks: choose them in the bar"
            found.append(Panel(name="more", figure=None, rows=view.rows.iloc[:0], note=note))
        return found

    return all_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page of the app."""

    name: str  # in the navigation
    path: str  # "/layer"
    shown: Callable[[Snapshot], bool] = field(default=lambda snapshot: True)  # whether it has anything to say here
    panels: Callable[[View], Sequence[Panel]] = field(default=lambda view: ())
    controls: Callable[[View], Sequence[Control]] = field(default=lambda view: ())
    extra: Callable[[View], Sequence[Any]] = field(default=lambda view: ())  # drawn once: its own callbacks follow
    printed: bool = True  # whether `saccade figure` draws its panels
    empty: str = ""  # why nothing is drawn of a grid that is answered and passes the filters
    register: Callable[[Dash, Gallery], None] = field(
        default=lambda app, gallery: None
    )  # ids begin with the page's name

    def link(self, search: str = "", base: str = "./") -> str:
        """Its address beside the other pages, or below a base."""
        return f"{base}{self.path.lstrip('/')}{search}"
