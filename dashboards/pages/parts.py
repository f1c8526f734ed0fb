"""Parts that several pages share: notices, tiles, the choice of a slice, its curves, the numbers under a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
from dash import html

from dashboards.figures import curve_figure
from dashboards.pages.base import Control, Kind, Panel
from dashboards.reading import reading
from dashboards.rows import ACCURACY, Measure, Slice, curves, focus, significant
from dashboards.spectra import impossible_ranks
from dashboards.view import CONFIG, View
from results.analysis.metrics import share_images, spoken
from results.stops import STOPPED
from results.wording import MISSING, count, p_value, percent, percent_span, plural, points, points_span

MAX_ROWS = 40  # of a table under a picture; the CSV has all
MAX_NOTICES = 4


def numbers(rows: pd.DataFrame, view: View, against: str = "un-pruned", label: str = "label") -> Any:
    """The numbers under a picture, folded: intervals, paired differences and tests of the rows that it shows."""
    interval, of_change, test = (spoken(rows[name]) for name in ("interval", "diff_interval", "test"))
    images = share_images(rows)
    names = ["configuration", "state", "n", *["images"] * images, "accuracy", f"{interval} 95 %",
             f"change to {against}", f"{of_change} 95 %", "lost", "gained", f"p {test}", "p Holm"]  # fmt: skip
    body = []
    for row, sure in zip(rows.head(MAX_ROWS).to_dict("records"), significant(rows.head(MAX_ROWS)), strict=True):
        link = html.A(row[label], href=view.state.with_(CONFIG, row["id"]).search or "?")
        change = points(row["difference"])
        texts = (
            count(row["n"]), *[count(row["n_images"])] * images,
            percent(row["accuracy"]), percent_span(row["ci_low"], row["ci_high"]),
            html.B(change) if sure else change, points_span(row["diff_low"], row["diff_high"]),
            *(MISSING if pd.isna(row[name]) else count(int(row[name])) for name in ("lost", "gained")),
            p_value(row["p"]), p_value(row["p_holm"]),
        )  # fmt: skip
        cells = [html.Td(link, dir="auto"), html.Td(row["status"], className=f"status {row['status']}")]
        body.append(html.Tr([*cells, *(html.Td(text, className="number") for text in texts)]))
    head = html.Tr([html.Th(name, className="number" if place > 1 else "") for place, name in enumerate(names)])
    more = f"; the first {MAX_ROWS} of {count(len(rows))}, the CSV has all" if len(rows) > MAX_ROWS else ""
    return html.Details(
        [
            html.Summary(f"numbers of {plural(min(len(rows), MAX_ROWS), 'configuration')}{more}"),
            scrolling(html.Table([html.Thead(head), html.Tbody(body)])),
            html.P(
                "bold: significant at 0.05 among all that are compared (Holm); intervals are of each alone",
                className="note",
            ),
        ]
    )


def scrolling(table: html.Table) -> Any:
    """A table in a box of its own, which the arrow keys move too."""
    return html.Div(table, className="scroll", tabIndex=0)


def tiles(found: Sequence[tuple[str, Any, str]]) -> Any:
    """Large numbers side by side.

    Args:
        found: (name, value, detail) of each; a value is a text or a component.
    """
    body = [
        html.Div([html.Dt(name, dir="auto"), html.Dd([value, html.Small(detail, dir="auto")])])
        for name, value, detail in found
    ]
    return html.Dl(body, className="tiles")


def notices(view: View) -> list[Any]:
    """What a reader must know of the rows in view before reading a number off them."""
    found: list[tuple[str, str]] = []
    states = view.pruned["status"].value_counts()
    open_states = [name for name in ("running", "partial", "missing", "failed") if name in states]
    unfinished = [f"{count(int(states[name]))} {name}" for name in open_states]
    if unfinished:
        text = f"of {plural(len(view.pruned), 'configuration')}, {', '.join(unfinished)}; hollow: partial"
        found.append(("Unfinished", text))
    if stopped := int(states.get(STOPPED, 0)):
        text = (
            f"stopped {count(stopped)} of {plural(len(view.pruned), 'configuration')} early; few questions were asked"
        )
        found.append(("Racing", text))
    flagged = view.rows[view.rows["flags"] != ""]
    for flags, rows in list(flagged.groupby("flags", sort=False))[:MAX_NOTICES]:
        names = ", ".join(rows["label"].head(2)) + (f" and {len(rows) - 2} more" if len(rows) > 2 else "")
        found.append(("Impossible or suspicious", f"{flags} ({names})"))
    for source in view.sources:
        if notice := source.experiment.manifest.notice:
            found.append((source.name, notice))
        if len(source.failures):
            failed = plural(len(source.failures), "sample")
            found.append((source.name, f"{failed} failed: neither right nor wrong; see Run"))
        found += [(source.name, note) for note in source.notes[:2]]
    return [html.P([html.Strong(f"{kind}: "), text], className="notice", dir="auto") for kind, text in found]


def rank_notices(view: View) -> list[Any]:
    """Measured ranks that cannot be."""
    texts = [text for source in view.sources for text in impossible_ranks(source.measured(), source.summary)]
    return [html.P([html.Strong("Impossible: "), text], className="notice") for text in texts[:MAX_NOTICES]]


def focused(part: Slice, view: View) -> tuple[str, ...]:
    """The series in colour: those that were asked for, else those that `focus` picks."""
    wanted = [name for name in view.state.all("focus") if name in set(part.rows["series"])]
    return tuple(wanted[:6]) or focus(part.rows)


def picked(found: list[Slice], wanted: str) -> Slice | None:
    """The slice of a fixed value, else the one with most points."""
    return next((part for part in found if str(part.value) == wanted), next(iter(found), None))


def held(found: list[Slice], name: str, label: str, kind: Kind = "slider") -> Control:
    """The control whose value `picked` takes."""
    values = [str(value) for value in sorted({part.value for part in found})]
    return Control(name=name, label=label, kind=kind, values=values, default=[str(found[0].value)])


def finding(view: View, rows: pd.DataFrame) -> str:
    """What some rows of one experiment say, in a sentence; nothing of several, whose un-pruned models are others."""
    owners = rows["experiment"].unique()
    if len(owners) != 1:
        return ""
    base = view.rows[view.rows["baseline"] & (view.rows["experiment"] == owners[0])]
    return reading(pd.concat([base, rows[~rows["baseline"]]], ignore_index=True)) if len(base) else ""


def curve_panels(view: View, part: Slice, measures: Iterable[Measure]) -> dict[Measure, Panel]:
    """The curves of a slice, for each measure that there is a number of."""
    chosen = focused(part, view)
    return {
        measure: Panel(
            name=measure.column.replace("_", "-"), figure=curve_figure(view.rows, part, measure, chosen, view.methods),
            rows=curves(part, measure), wide=False, finding=finding(view, part.rows) if measure is ACCURACY else "",
        )
        for measure in measures
        if part.rows[measure.column].notna().any()
    }  # fmt: skip
