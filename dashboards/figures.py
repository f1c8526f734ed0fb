"""Rows -> plotly figures. Nothing is counted here; `dashboards.plots` draws the same rows with matplotlib."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from functools import cache
from html import escape, unescape
from importlib.resources import files
from re import sub
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dashboards import theme
from dashboards.labels import AXIS_TITLES, LABEL_LENGTH, end_labels
from dashboards.looks import CONTEXT, Look, methods_of, series_looks
from dashboards.rows import (
    ACCURACY,
    Heat,
    Measure,
    Reference,
    Slice,
    axis_range,
    baselines,
    curves,
    focus,
    forest_range,
    reference,
    value_range,
)
from results.analysis.metrics import spoken
from results.wording import count, number, p_value, percent, percent_span, plural, points, points_span, told_apart

HEIGHT = 400
MARGIN = {"l": 56, "r": 24, "t": 72, "b": 52}
HEAD_ROOM = 16  # more above a heat-map, whose first row has no axis to keep it from the subtitle
Figure = go.Figure
LABELS = (files("dashboards") / "assets" / "app" / "labels.js").read_text(encoding="utf-8")  # beside plotly.js
LEVEL_GAP = 0.06  # of the range: level lines that lie closer are named together
CHARACTER_PX = 7.4  # mean width of a bold character at theme.LABEL_PX

# Of plotly.js, wherever a figure is shown.
CONFIG = {
    "displaylogo": False,
    "showSendToCloud": False,  # plotly 7 offers every reader to upload the figure; results are not ours to publish
    "plotlyServerURL": "",
    "responsive": True,
    "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d"],
    "toImageButtonOptions": {"scale": 2},
}


@cache
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


def repainted(figure: go.Figure, ink: theme.Ink) -> dict[str, Any]:
    """A figure as JSON in the colours of another paper: figures are drawn for a light one."""
    text = str(figure.to_json())
    for light, other in theme.on_paper(ink).items():
        text = text.replace(light, other)
    painted: dict[str, Any] = json.loads(text)
    painted["layout"]["template"] = template(ink).to_plotly_json()
    return painted


def as_page(figure: go.Figure, ink: theme.Ink) -> str:
    """A figure as an HTML page of its own, with the library inside it."""
    page = go.Figure(repainted(figure, ink)).to_html(include_plotlyjs=True, config=CONFIG, post_script=[LABELS])
    return str(page)


def words(figure: go.Figure) -> str:
    """The title of a figure and what stands below it, for readers who do not see it."""
    lines = (figure.layout.title.text, figure.layout.title.subtitle.text)
    return ", ".join(unescape(sub("<[^>]*>", "", line)) for line in lines if line)


def bare_json(figure: go.Figure) -> str:
    """A figure as JSON without its template, which a page states once for all its figures."""
    return str(go.Figure(figure).update_layout(template=None).to_json())


def curve_figure(
    summary: pd.DataFrame,
    part: Slice,
    measure: Measure,
    chosen: tuple[str, ...] | None = None,
    methods: Sequence[str] = (),
) -> go.Figure:
    """Curves of one measure along a slice's axis, with bands for the focused series and the un-pruned model's line.

    Args:
        summary: Where the un-pruned model's row stands.
        part: What is drawn.
        measure: Which number of it.
        chosen: The series in colour; by default those that `rows.focus` picks.
        methods: All that have a colour, in their order; by default those of the summary.
    """
    rows = curves(part, measure)
    chosen = focus(part.rows) if chosen is None else chosen
    looks = {name: look for name, look in series_looks(rows, methods or methods_of(summary)).items() if name in chosen}
    if "experiment" in part.rows:  # whose curves are drawn
        summary = summary[summary["experiment"].isin(part.rows["experiment"].unique())]
    base = reference(summary, measure)
    low, high = value_range(rows, base, chosen, measure)
    figure = go.Figure()
    _reference(figure, base)
    if measure is ACCURACY:
        levels = baselines(summary)
        low, high = min([low, *(y - 1 for _, y in levels)]), max([high, *(y + 1 for _, y in levels)])
        _baselines(figure, levels, LEVEL_GAP * (high - low))
    names = rows["series"].drop_duplicates().tolist()
    for name in sorted(names, key=lambda name: name in chosen):  # context below, focus on top
        _curve(figure, rows[rows["series"] == name], name, looks)
    figure.update_layout(
        template=template(theme.LIGHT),
        height=HEIGHT,
        title={
            "text": f"{measure.name} ({measure.unit})",
            "subtitle": {"text": f"{escape(part.title)} · {measure.band(part.rows)}"},
        },
        xaxis={"title": {"text": AXIS_TITLES[part.axis]}, "range": axis_range(rows["x"], part.axis)},
        yaxis={"range": [low, high]},
    )
    if part.axis == "layer":
        figure.update_xaxes(tick0=0, dtick=1 if rows["x"].max() - rows["x"].min() <= 16 else 4)
    _end_labels(figure, rows, part, base, looks, measure, (low, high))
    return figure


def heat_figure(heat: Heat, axis: str, held: str = "") -> go.Figure:
    """Difference to the un-pruned model per series and axis value, a number in every cell that has been run.

    Args:
        heat: The map.
        axis: What its columns are.
        held: What is held fixed, in words.
    """
    extreme = max(float(np.nanmax(np.abs(heat.points), initial=0.0)), 1.0)
    digits = 1 if extreme < 9.95 and len(heat.xs) <= 20 else 0
    text = [
        ["" if np.isnan(value) else number(value, digits) + ("" if sure else "°") + ("…" if part else "")
         for value, sure, part in zip(*row, strict=True)]
        for row in zip(heat.points, heat.significant, heat.partial, strict=True)
    ]  # fmt: skip
    # Rows have numbers, not names: two names that are shortened alike would fall into one row.
    names, places = [escape(name) for name in told_apart(heat.series, LABEL_LENGTH)], list(range(len(heat.series)))
    told = _cells(heat, axis, dict(zip(heat.rows["key"], hover(heat.rows), strict=True)), "key")
    chosen = (
        _cells(heat, axis, dict(zip(heat.rows["id"], heat.rows["id"], strict=True)), "id")
        if "id" in heat.rows
        else None
    )
    steps = np.linspace(0, 1, len(theme.LOSS_TO_GAIN))
    figure = go.Figure(
        go.Heatmap(
            z=heat.points, x=[str(x) for x in heat.xs], y=places, text=text, texttemplate="%{text}",
            textfont={"size": 11}, xgap=2, ygap=2, zmin=-extreme, zmax=extreme, hoverongaps=False, showscale=False,
            colorscale=[[float(step), colour] for step, colour in zip(steps, theme.LOSS_TO_GAIN, strict=True)],
            hovertext=told, hoverinfo="text", customdata=chosen,
        )
    )  # fmt: skip
    figure.update_layout(
        template=template(theme.LIGHT),
        height=MARGIN["t"] + HEAD_ROOM + MARGIN["b"] + 24 + 30 * len(names),
        margin={**MARGIN, "t": MARGIN["t"] + HEAD_ROOM},
        title={
            "text": "Change against the un-pruned model (percentage points)",
            "subtitle": {
                "text": f"{escape(held)} · " * bool(held)
                + "° not significant (paired test, Holm) · … unfinished · blank: not run"
            },
        },
        xaxis={"type": "category", "title": {"text": AXIS_TITLES[axis]}, "ticks": ""},
        yaxis={"tickvals": places, "ticktext": names, "range": [len(names) - 0.5, -0.5], "showgrid": False},
    )
    if axis == "rank":
        figure.update_xaxes(autorange="reversed")
    return figure


def _cells(heat: Heat, axis: str, texts: dict[str, str], column: str) -> list[list[str]]:
    """A text for every cell of a map, "" where there is no grid point."""
    grid = heat.rows.pivot(index="series", columns=axis, values=column).reindex(index=list(heat.series))
    return [["" if pd.isna(key) else texts[key] for key in row] for row in grid[list(heat.xs)].to_numpy()]


def forest_figure(rows: pd.DataFrame, against: str = "the un-pruned model") -> go.Figure:
    """Paired difference of single configurations with its interval; filled where significant.

    Args:
        rows: As from `rows.forest`: label, x, low, high (points), significant, and what `hover` reads.
        against: What they are compared with.
    """
    figure = go.Figure()
    band, test = spoken(rows["diff_interval"]), spoken(rows["test"])
    names = [escape(label) for label in told_apart(rows["label"], 60)]
    colours = [theme.verdict(x, sure) for x, sure in zip(rows["x"], rows["significant"], strict=True)]
    for place, (low, high, colour) in enumerate(zip(rows["low"], rows["high"], colours, strict=True)):
        figure.add_scatter(x=[low, high], y=[place, place], mode="lines", line={"color": colour, "width": 2},
                           hoverinfo="skip")  # fmt: skip
    figure.add_scatter(
        x=rows["x"], y=list(range(len(rows))), mode="markers", hovertext=hover(rows), hoverinfo="text",
        customdata=ids(rows),
        marker={"color": colours, "size": 9, "line": {"width": 2, "color": colours},
                "symbol": ["circle" if sure else "circle-open" for sure in rows["significant"]]},
    )  # fmt: skip
    figure.add_vline(x=0, line={"dash": "dash", "width": 1.5, "color": theme.REFERENCE})
    figure.update_layout(
        template=template(theme.LIGHT),
        height=MARGIN["t"] + MARGIN["b"] + 24 + 28 * max(len(rows), 2),
        title={
            "text": f"Change against {escape(against)} (percentage points)",
            "subtitle": {"text": f"line: {band}, 95 % of each alone · filled: significant among all ({test}, Holm)"},
        },
        xaxis={"title": {"text": "worse  ←  percentage points  →  better"}, "range": forest_range(rows)},
        yaxis={"tickvals": list(range(len(names))), "ticktext": names, "range": [len(names) - 0.5, -0.5]},
    )
    return figure


def hover(rows: pd.DataFrame) -> list[str]:
    """What is shown of each configuration under the pointer."""
    return [_hover(row) for row in rows.to_dict("records")]


def ids(rows: pd.DataFrame) -> list[str] | None:
    """What a click on each point means to the app; a single experiment's summary has no ids."""
    return rows["id"].tolist() if "id" in rows else None


def _hover(row: dict[Hashable, Any]) -> str:
    span = percent_span(row["ci_low"], row["ci_high"])
    asked = "" if row["state"] == "complete" else f" of {count(row['n_expected'])}"
    text = f"<b>{escape(row['label'])}</b><br>"
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


def _baselines(figure: go.Figure, levels: Sequence[tuple[str, float]], gap: float) -> None:
    """The un-pruned models of several experiments, named at the left; those that lie closer than a gap in one line."""
    groups: list[list[tuple[str, float]]] = []
    for name, y in sorted(levels, key=lambda level: -level[1]):
        if not groups or groups[-1][0][1] - y > gap:
            groups.append([])
        groups[-1].append((name, y))
        figure.add_hline(y=y, line={"dash": "dash", "width": 1.2, "color": theme.REFERENCE})
    for group in groups:
        named = ", ".join(f"{escape(name)} {number(y)}\u00a0%" for name, y in group)
        figure.add_annotation(
            xref="paper", x=0, yref="y", y=group[0][1], text=f"un-pruned: {named}", showarrow=False, xanchor="left",
            yanchor="bottom", font={"size": 11, "color": theme.REFERENCE},
        )  # fmt: skip


def _curve(figure: go.Figure, rows: pd.DataFrame, name: str, looks: Mapping[str, Look]) -> None:
    colour, dash = looks.get(name, CONTEXT)
    focused = name in looks
    for run in _runs(rows) if focused else []:
        figure.add_scatter(
            x=pd.concat([run["x"], run["x"][::-1]]), y=pd.concat([run["high"], run["low"][::-1]]),
            mode="lines", line={"width": 0}, fill="toself", fillcolor=theme.faded(colour, theme.BAND_OPACITY),
            hoverinfo="skip", name=escape(name),
        )  # fmt: skip
    figure.add_scatter(
        x=rows["x"], y=rows["y"], mode="lines+markers", name=escape(name), connectgaps=False,
        line={
            "color": colour, "width": 2.5 if focused else 1.2, "dash": dash,
        },
        marker={
            "color": colour, "size": 7 if focused else 4,
            "symbol": ["circle" if state == "complete" else "circle-open" for state in rows["state"]],
        },
        hovertext=hover(rows), hoverinfo="text", customdata=ids(rows),
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
    looks: Mapping[str, Look],
    measure: Measure,
    span: tuple[float, float],
) -> None:
    """Names at the right end of the lines, pushed apart and led to by a thin line."""
    low, high = span
    per_px = (high - low) / (HEIGHT - MARGIN["t"] - MARGIN["b"])
    labels = end_labels(rows, part.axis, base, measure, tuple(looks), theme.LABEL_GAP_PX * per_px, span)
    for label in labels:
        colour = looks.get(label.series or "", (theme.REFERENCE, ""))[0]
        text = escape(label.text)
        leader = colour if label.reaches else "rgba(0,0,0,0)"
        figure.add_annotation(
            xref="paper", x=1, yref="y", y=label.y, ax=22, ay=-(label.placed - label.y) / per_px, showarrow=True,
            text=f"<b>{text}</b>" if label.series in looks else text, arrowhead=0, arrowwidth=0.8, arrowcolor=leader,
            standoff=2, xanchor="left", align="left", font={"color": colour, "size": theme.LABEL_PX},
            name=f"line:{escape(label.series or '')}",  # assets/app/labels.js moves it when the reader zooms
        )  # fmt: skip
    longest = max((len(label.text) for label in labels), default=0)
    figure.update_layout(margin={**MARGIN, "r": int(36 + longest * CHARACTER_PX)})
