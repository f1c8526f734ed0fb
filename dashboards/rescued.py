"""Rescued and retained, as rows and as a figure: each method beside the luck of a random choice."""

from __future__ import annotations

from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from dashboards import theme
from dashboards.figures import MARGIN, ids, template
from dashboards.rows import labels
from results.analysis.metrics import spoken
from results.wording import count, percent, percent_span, told_apart

MAX_ROWS = 30  # in one picture
SIDES = (
    ("wrong", "rescued", "rescue", "rescued: of what {control} gets wrong"),
    ("right", "retained", "retain", "retained: of what the un-pruned model gets right"),
)


def rescue_rows(found: pd.DataFrame, summary: pd.DataFrame) -> pd.DataFrame:
    """What is drawn: the greatest rescue first.

    Args:
        found: As `results.analysis.rescue.rescue` gives it.
        summary: Rows of the view, one experiment's; others of ``found`` are left out.

    Returns:
        The columns of ``found``, and id, experiment and name, which fits beside a picture.
    """
    pruned = summary[~summary["baseline"]]
    named = pruned[["key", "id", "experiment"]].assign(name=labels(pruned))
    rows = found[found["wrong"] > 0].merge(named, on="key", how="inner", validate="one_to_one")
    return rows.sort_values("rescue", ascending=False, kind="stable", ignore_index=True)


def rescue_figure(rows: pd.DataFrame, control: str) -> go.Figure:
    """Share rescued and share retained of each row, with intervals; a tick for the random choice, a ring for un-pruned.

    Args:
        rows: As from `rescue_rows`, one at least.
        control: The strategy that they are held against.
    """
    places = list(range(len(rows)))
    titles = [text.format(control=escape(control)) for *_, text in SIDES]
    figure = make_subplots(cols=2, shared_yaxes=True, horizontal_spacing=0.04, subplot_titles=titles)
    for column, (asked, hit, share, _) in enumerate(SIDES, start=1):
        for place, low, high in zip(places, rows[f"{share}_low"], rows[f"{share}_high"], strict=True):
            ends = {"x": [100 * low, 100 * high], "y": [place, place], "hoverinfo": "skip"}
            figure.add_scatter(**ends, mode="lines", line={"color": theme.COLOURS[0], "width": 2}, row=1, col=column)
        if column == 1:
            for name, symbol in (("floor", "line-ns"), ("ceiling", "diamond-open")):
                line = {"width": 2, "color": theme.REFERENCE}
                marker = {"symbol": symbol, "size": 12, "color": theme.REFERENCE, "line": line}
                place_of = {"x": 100 * rows[name], "y": places, "mode": "markers", "hoverinfo": "skip"}
                figure.add_scatter(**place_of, marker=marker, name=name, row=1, col=1)
        figure.add_scatter(
            x=100 * rows[share], y=places, mode="markers", marker={"color": theme.COLOURS[0], "size": 9}, name=hit,
            hovertext=[_hover(row, asked, hit, share) for row in rows.to_dict("records")], hoverinfo="text",
            customdata=ids(rows), row=1, col=column,
        )  # fmt: skip
        seen = rows[[f"{share}_low", f"{share}_high", *(("floor", "ceiling") if column == 1 else ())]].to_numpy(float)
        figure.update_xaxes(title={"text": "%"}, range=_ends(seen), row=1, col=column)
    names = [escape(name) for name in told_apart(rows["name"], 48)]
    figure.update_yaxes(tickvals=places, range=[len(places) - 0.5, -0.5])
    figure.update_yaxes(ticktext=names, row=1, col=1)
    figure.update_annotations(font={"size": 12, "color": theme.REFERENCE})
    luck = " · tick: the random choice" if rows["floor"].notna().any() else ""
    figure.update_layout(
        template=template(theme.LIGHT),
        height=MARGIN["t"] + 24 + MARGIN["b"] + 24 + 26 * max(len(places), 2),
        margin={**MARGIN, "t": MARGIN["t"] + 24},
        title={
            "text": "Rescued and retained",
            "subtitle": {"text": f"line: {spoken(rows['interval'])}, 95 %{luck} · diamond: the un-pruned model"},
        },
    )
    return figure


def _ends(shares: NDArray[np.float64]) -> list[float]:
    """Ends of an axis, in percent: all that is drawn, with a little room."""
    known = 100 * shares[~np.isnan(shares)]
    return [max(known.min() - 3, -2.0), min(known.max() + 3, 102.0)] if known.size else [0.0, 100.0]


def _hover(row: dict, asked: str, hit: str, share: str) -> str:
    span = percent_span(row[f"{share}_low"], row[f"{share}_high"])
    against = row["control"] if asked == "wrong" else "un-pruned"
    return (
        f"<b>{escape(row['label'])}</b><br>{hit} {count(row[hit])} of {count(row[asked])}: "
        f"{percent(row[share])} ({span})<br>against {escape(against)}"
        + (f"<br>random {percent(row['floor'])}, un-pruned {percent(row['ceiling'])}" if asked == "wrong" else "")
    )
