"""Tokens kept: accuracy and the ranks of the pruned forward's matrices as fewer and fewer tokens stay."""

from __future__ import annotations

import pandas as pd

from dashboards.charts import token_figure
from dashboards.pages.base import Control, Page, Panel
from dashboards.pages.parts import curve_panels, focused, held, numbers, picked, rank_notices
from dashboards.rows import ACCURACY, DIFFERENCE, Slice
from dashboards.spectra import RANKS, kinds_of, token_rows
from dashboards.view import View

NONE_MEASURED = "no spectra: the sweep did not ask for them (measure.spectra in its file)"


def controls(view: View) -> list[Control]:
    found = view.slices("rank")
    if not found:
        return []
    series = list(dict.fromkeys(name for part in found for name in part.rows["series"]))
    part = picked(found, view.state.get("at"))
    assert part is not None
    return [
        Control(name="curve", label="strategy", kind="choice", values=series, default=[_longest(part, view)]),
        held(found, "at", "pruned from layer", "slider" if len(found) > 4 else "choice"),
        Control(name="scale", label="raw values", kind="switch", values=("normalised", "raw")),
        *_measures(kinds_of(_measured(view, _curve(view, part)))),
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
    curve = _curve(view, part)
    name = curve["series"].iloc[0]
    rows = token_rows(curve, _measured(view, curve), view.state.all("measures") or RANKS)
    found = [
        Panel(
            name="ranks",
            figure=token_figure(rows, f"{name}, {part.title}", raw=view.state.get("scale") == "raw"),
            rows=rows,
            note="" if rows["quantity"].nunique() > 1 else NONE_MEASURED,
            below=[*rank_notices(view), numbers(curve.sort_values("rank", ascending=False), view)],
        )
    ]
    if part.rows["series"].nunique() > 1:
        found += curve_panels(view, part, (ACCURACY, DIFFERENCE)).values()
    return found


def _curve(view: View, part: Slice) -> pd.DataFrame:
    """The rows of the series that was asked for."""
    wanted = view.state.get("curve")
    return part.rows[part.rows["series"] == (wanted if wanted in set(part.rows["series"]) else _longest(part, view))]


def _longest(part: Slice, view: View) -> str:
    """The series with most numbers of tokens; of equals one in focus."""
    counts = part.rows.groupby("series", sort=False)["rank"].nunique()
    longest = counts[counts == counts.max()].index.tolist()
    return next((name for name in focused(part, view) if name in longest), str(longest[0]))


def _measured(view: View, curve: pd.DataFrame) -> pd.DataFrame:
    return view.snapshot.source_of(curve).measured()


PAGE = Page(name="Tokens kept", path="/tokens", panels=panels, controls=controls)
