"""Rows -> plotly figures. Nothing is counted here; `dashboards.plots` draws the same rows with matplotlib."""

from __future__ import annotations

from collections.abc import Hashable
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dashboards import theme
from dashboards.labels import AXIS_TITLES, LABEL_LENGTH, end_labels
from dashboards.rows import (
    Heat,
    Measure,
    Reference,
    Slice,
    axis_range,
    curves,
    focus,
    forest_range,
    reference,
    value_range,
)
from dashboards.wording import count, number, p_value, percent, percent_span, plural, points, points_span, shortened

HEIGHT = 400
MARGIN = {"l": 56, "r": 24, "t": 72, "b": 52}
HEAD_ROOM = 16  # more above a heat-map, whose first row has no axis to keep it from the subtitle
CHARACTER_PX = 7.4  # mean width of a bold character at theme.LABEL_PX


def template(ink: theme.Ink) -> go.layout.Template:
    """The look of all figures: horizontal grid only, no boxes, titles at the left."""
    axis = {
        "gridcolor": ink.grid, "linecolor": ink.grid, "zeroline": False, "ticks": "", "automargin": True,
        "title": {"font": {"size": 13, "color": ink.muted}, "standoff": 10}, "tickfont": {"color": ink.muted},
    }  # fmt: skip
    return go.layout.Template(
        layout={
            "font": {"family": theme.FONT, "size": 13, "color": ink.text},
            "paper_bgcolor": ink.paper,
            "plot_bgcolor": ink.paper,
            "colorway": theme.COLOURS,
            "title": {"x": 0, "xref": "container", "xanchor": "left", "y": 0.97, "yanchor": "top", "pad": {"l": 4},
                      "font": {"size": 16}, "subtitle": {"font": {"size": 12, "color": ink.muted}}},
            "xaxis": {**axis, "showgrid": False, "ticks": "outside", "tickcolor": ink.grid},
            "yaxis": axis,
            "hoverlabel": {"align": "left", "bgcolor": ink.paper, "font": {"color": ink.text, "size": 12}},
            "hovermode": "closest",
            "showlegend": False,
            "margin": MARGIN,
        }
    )  # fmt: skip


def curve_figure(summary: pd.DataFrame, part: Slice, measure: Measure) -> go.Figure:
    """Curves of one measure along a slice's axis, with bands for the focused series and the un-pruned model's line."""
    rows = curves(part, measure)
    chosen = focus(part.rows)
    base = reference(summary, measure)
    low, high = value_range(rows, base, chosen, measure)
    figure = go.Figure()
    _reference(figure, base)
    names = rows["series"].drop_duplicates().tolist()
    for name in sorted(names, key=lambda name: name in chosen):  # context below, focus on top
        _curve(figure, rows[rows["series"] == name], name, chosen)
    figure.update_layout(
        template=template(theme.LIGHT),
        height=HEIGHT,
        title={"text": f"{measure.name} (%)", "subtitle": {"text": measure.band}},
        xaxis={"title": {"text": AXIS_TITLES[part.axis]}, "range": axis_range(rows["x"], part.axis)},
        yaxis={"range": [low, high]},
    )
    if part.axis == "layer":
        figure.update_xaxes(tick0=0, dtick=1 if rows["x"].max() - rows["x"].min() <= 16 else 4)
    _end_labels(figure, rows, part, base, chosen, measure, (low, high))
    return figure


def heat_figure(heat: Heat, axis: str) -> go.Figure:
    """Difference to the un-pruned model per series and axis value, a number in every cell that has been run."""
    extreme = max(float(np.nanmax(np.abs(heat.points), initial=0.0)), 1.0)
    digits = 1 if extreme < 9.95 and len(heat.xs) <= 20 else 0
    text = [
        ["" if np.isnan(value) else number(value, digits) + ("" if sure else "°") + ("…" if part else "")
         for value, sure, part in zip(*row, strict=True)]
        for row in zip(heat.points, heat.significant, heat.partial, strict=True)
    ]  # fmt: skip
    # Rows have numbers, not names: two names that are shortened alike would fall into one row.
    names, places = [escape(shortened(name, LABEL_LENGTH)) for name in heat.series], list(range(len(heat.series)))
    told = [
        [f"{escape(name)}<br>{axis} {x}: {number(value, 2)} points" for x, value in zip(heat.xs, row, strict=True)]
        for name, row in zip(heat.series, heat.points, strict=True)
    ]
    steps = np.linspace(0, 1, len(theme.LOSS_TO_GAIN))
    figure = go.Figure(
        go.Heatmap(
            z=heat.points, x=[str(x) for x in heat.xs], y=places, text=text, texttemplate="%{text}",
            textfont={"size": 11}, xgap=2, ygap=2, zmin=-extreme, zmax=extreme, hoverongaps=False, showscale=False,
            colorscale=[[float(step), colour] for step, colour in zip(steps, theme.LOSS_TO_GAIN, strict=True)],
            hovertext=told, hoverinfo="text",
        )
    )  # fmt: skip
    figure.update_layout(
        template=template(theme.LIGHT),
        height=MARGIN["t"] + HEAD_ROOM + MARGIN["b"] + 24 + 30 * len(names),
        margin={**MARGIN, "t": MARGIN["t"] + HEAD_ROOM},
        title={
            "text": "Change against the un-pruned model (percentage points)",
            "subtitle": {"text": "° not significant (paired test, Holm) · … unfinished · blank: not run"},
        },
        xaxis={"type": "category", "title": {"text": AXIS_TITLES[axis]}, "ticks": ""},
        yaxis={"tickvals": places, "ticktext": names, "range": [len(names) - 0.5, -0.5], "showgrid": False},
    )
    if axis == "rank":
        figure.update_xaxes(autorange="reversed")
    return figure


def forest_figure(rows: pd.DataFrame) -> go.Figure:
    """Paired difference of single configurations with its interval; filled where significant."""
    figure = go.Figure()
    names = [escape(shortened(label, 48)) for label in rows["label"]]
    colours = [theme.verdict(x, sure) for x, sure in zip(rows["x"], rows["significant"], strict=True)]
    for place, (low, high, colour) in enumerate(zip(rows["low"], rows["high"], colours, strict=True)):
        figure.add_scatter(x=[low, high], y=[place, place], mode="lines", line={"color": colour, "width": 2},
                           hoverinfo="skip")  # fmt: skip
    figure.add_scatter(
        x=rows["x"], y=list(range(len(rows))), mode="markers", hovertext=hover(rows), hoverinfo="text",
        marker={"color": colours, "size": 9, "line": {"width": 2, "color": colours},
                "symbol": ["circle" if sure else "circle-open" for sure in rows["significant"]]},
    )  # fmt: skip
    figure.add_vline(x=0, line={"dash": "dash", "width": 1.5, "color": theme.REFERENCE})
    figure.update_layout(
        template=template(theme.LIGHT),
        height=MARGIN["t"] + MARGIN["b"] + 24 + 28 * max(len(rows), 2),
        title={
            "text": "Change against the un-pruned model (percentage points)",
            "subtitle": {"text": "line: paired bootstrap, 95 % · filled: significant (paired test, Holm)"},
        },
        xaxis={"title": {"text": "worse  ←  percentage points  →  better"}, "range": forest_range(rows)},
        yaxis={"tickvals": list(range(len(names))), "ticktext": names, "range": [len(names) - 0.5, -0.5]},
    )
    return figure


def hover(rows: pd.DataFrame) -> list[str]:
    """What is shown of each configuration under the pointer."""
    return [_hover(row) for row in rows.to_dict("records")]


def _hover(row: dict[Hashable, Any]) -> str:
    span = percent_span(row["ci_low"], row["ci_high"])
    asked = "" if row["state"] == "complete" else f" of {count(row['n_expected'])}"
    text = f"<b>{escape(shortened(row['label'], 60))}</b><br>"
    text += f"accuracy {percent(row['accuracy'])} ({span}), n = {count(row['n'])}{asked}"
    if np.isnan(row["difference"]):
        return text
    return (
        f"{text}<br>change {points(row['difference'])} points ({points_span(row['diff_low'], row['diff_high'])})"
        f"<br>relative drop {number(row['relative_drop'])}\u00a0%"
        f"<br>{plural(row['lost'], 'right answer')} lost, {count(row['gained'])} gained; "
        f"p {escape(p_value(row['p_holm']))} after Holm"
    )


def _reference(figure: go.Figure, base: Reference | None) -> None:
    if base is None:
        return
    if not np.isnan(base.low):
        band = theme.faded(theme.REFERENCE, 0.12)
        figure.add_hrect(y0=base.low, y1=base.high, fillcolor=band, line_width=0, layer="below")
    figure.add_hline(y=base.value, line={"dash": "dash", "width": 1.5, "color": theme.REFERENCE})


def _curve(figure: go.Figure, rows: pd.DataFrame, name: str, chosen: tuple[str, ...]) -> None:
    colour = theme.colour_of(name, chosen)
    focused = name in chosen
    for run in _runs(rows) if focused else []:
        figure.add_scatter(
            x=pd.concat([run["x"], run["x"][::-1]]), y=pd.concat([run["high"], run["low"][::-1]]),
            mode="lines", line={"width": 0}, fill="toself", fillcolor=theme.faded(colour, theme.BAND_OPACITY),
            hoverinfo="skip", name=escape(name),
        )  # fmt: skip
    figure.add_scatter(
        x=rows["x"], y=rows["y"], mode="lines+markers", name=escape(name), connectgaps=False,
        line={
            "color": colour, "width": 2.5 if focused else 1.2,
            "dash": theme.DASHES[chosen.index(name)] if focused else "solid",
        },
        marker={
            "color": colour, "size": 7 if focused else 4,
            "symbol": ["circle" if state == "complete" else "circle-open" for state in rows["state"]],
        },
        hovertext=hover(rows), hoverinfo="text",
    )  # fmt: skip


def _runs(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """Stretches without a missing point, because a filled polygon cannot have a gap."""
    known = rows["y"].notna()
    return [run for _, run in rows[known].groupby((~known).cumsum()[known])]


def _end_labels(
    figure: go.Figure,
    rows: pd.DataFrame,
    part: Slice,
    base: Reference | None,
    chosen: tuple[str, ...],
    measure: Measure,
    span: tuple[float, float],
) -> None:
    """Names at the right end of the lines, pushed apart and led to by a thin line."""
    low, high = span
    per_px = (high - low) / (HEIGHT - MARGIN["t"] - MARGIN["b"])
    labels = end_labels(rows, part.axis, base, measure, chosen, theme.LABEL_GAP_PX * per_px, span)
    for label in labels:
        colour = theme.colour_of(label.series, chosen) if label.series in chosen else theme.REFERENCE
        text = escape(label.text)
        leader = colour if label.reaches else "rgba(0,0,0,0)"
        figure.add_annotation(
            xref="paper", x=1, yref="y", y=label.y, ax=22, ay=-(label.placed - label.y) / per_px, showarrow=True,
            text=f"<b>{text}</b>" if label.series in chosen else text, arrowhead=0, arrowwidth=0.8, arrowcolor=leader,
            standoff=2, xanchor="left", align="left", font={"color": colour, "size": theme.LABEL_PX},
        )  # fmt: skip
    longest = max((len(label.text) for label in labels), default=0)
    figure.update_layout(margin={**MARGIN, "r": int(36 + longest * CHARACTER_PX)})
