"""Tokens kept: accuracy as fewer and fewer tokens stay, and beside it the ranks of the pruned forward's matrices."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from dashboards.charts import token_figure
from dashboards.pages.base import Control, Page, Panel, faceted
from dashboards.pages.parts import curve_panels, focused, held, numbers, picked, rank_notices
from dashboards.rows import ACCURACY, DIFFERENCE, Slice, curves
from dashboards.spectra import RANKS, kinds_of, token_rows
from dashboards.view import View

NONE_MEASURED = "no spectra: the sweep did not ask for them (measure.spectra in its file)"


def controls(view: View) -> list[Control]:
    found = view.slices("rank")
    if not found:
        return []
    part = picked(found, view.state.get("at"))
    assert part is not None
    series = list(dict.fromkeys(name for other in found for name in _measured_series(other, view)))
    layers = held(found, "at", "layer", "slider" if len(found) > 4 else "choice")
    if not series:
        return [layers]
    kinds = kinds_of(_measured(view, _curve(view, part)))
    return [
        layers,
        Control(name="curve", label="spectra of", kind="choice", values=series, default=[_longest(part, view)]),
        Control(name="scale", label="raw values", kind="switch", values=("normalised", "raw")),
        *_measures(kinds),
    ]


def _measures(kinds: list[str]) -> list[Control]:
    """Which numbers of the spectra are drawn, where more than the ranks were measured."""
    if not set(kinds) - set(RANKS):
        return []
    default = [kind for kind in kinds if kind in RANKS]
    labels = [kind.replace("_", " ") for kind in kinds]
    return [
        Control(name="measures", label="of the spectra", kind="choices", values=kinds, labels=labels, default=default)
    ]


def panels(view: View) -> list[Panel]:
    part = picked(view.slices("rank"), view.state.get("at"))
    if part is None:
        return []
    accuracy, *others = curve_panels(view, part, (ACCURACY, DIFFERENCE)).values()
    ordered = curves(part, ACCURACY)
    found = [replace(accuracy, wide=True, below=numbers(ordered, view)), *(replace(one, wide=True) for one in others)]
    curve = _curve(view, part)
    rows = token_rows(curve, _measured(view, curve), view.state.all("measures") or RANKS)
    if rows["quantity"].nunique() == 1:  # nothing but the accuracy, which stands above
        return [replace(found[0], note=NONE_MEASURED), *found[1:]]
    title = f"{curve['series'].iloc[0]}, {part.title}"
    figure = token_figure(rows, title, raw=view.state.get("scale") == "raw")
    return [*found, Panel(name="ranks", figure=figure, rows=rows, below=rank_notices(view))]


def _curve(view: View, part: Slice) -> pd.DataFrame:
    """The rows of the series that was asked for."""
    wanted = view.state.get("curve")
    return part.rows[part.rows["series"] == (wanted if wanted in set(part.rows["series"]) else _longest(part, view))]


def _longest(part: Slice, view: View) -> str:
    """The series with most numbers of tokens, of those with spectra if there are any; of equals one in focus."""
    names = _measured_series(part, view)
    rows = part.rows[part.rows["series"].isin(names)] if names else part.rows
    counts = rows.groupby("series", sort=False)["rank"].nunique()
    longest = counts[counts == counts.max()].index.tolist()
    return next((name for name in focused(part, view) if name in longest), str(longest[0]))


def _measured_series(part: Slice, view: View) -> list[str]:
    """The series of a slice with spectra."""
    curves_of = part.rows.groupby("series", sort=False)
    return [str(name) for name, curve in curves_of if kinds_of(_measured(view, curve))]


def _measured(view: View, curve: pd.DataFrame) -> pd.DataFrame:
    return view.snapshot.source_of(curve).measured()


PAGE = Page(
    name="Tokens kept",
    path="/tokens",
    panels=faceted(panels),
    controls=controls,
    empty="no strategy here keeps two numbers of tokens at one layer, which would make a curve",
)
