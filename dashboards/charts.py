"""Figures of single questions: ranks along the kept tokens, accuracy against cost, speed of a run."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dashboards import theme
from dashboards.figures import CHARACTER_PX, HEIGHT, MARGIN, hover, ids, template
from dashboards.labels import AXIS_TITLES, push_apart
from dashboards.looks import method_look
from dashboards.pareto import CostAxis
from dashboards.rows import Reference, axis_range
from results.analysis.metrics import spoken
from results.durations import duration
from results.wording import count, number, percent, percent_span, told_apart

TALL = 520
LINES = {  # places in the palette and dashes: one hue a kind, a second matrix or layer of it is its lighter neighbour
    "accuracy": ((0,), ("solid",)),
    "numerical_rank": ((1, 4), ("dash", "longdash")),
    "effective_rank": ((2, 5), ("dot", "dashdot")),
    "stable_rank": ((3, 4), ("dashdot", "dot")),
    "spectral_entropy": ((3, 4), ("dash", "longdash")),
    "top_8_energy": ((4, 3), ("dot", "dashdot")),
    "log10_condition": ((5, 2), ("longdash", "dash")),
}
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross")  # of methods that share a colour
LABEL_PX = (150, 18)  # room that a label on the front needs


def token_figure(rows: pd.DataFrame, title: str, raw: bool) -> go.Figure:
    """Accuracy and ranks along the kept tokens: normalised in one picture, or raw in one below the other."""
    quantities = rows["quantity"].drop_duplicates().tolist()
    kinds = [kind for kind in LINES if kind in set(rows["kind"])]
    if not raw:
        figure = go.Figure()
        for quantity in quantities:
            _quantity(figure, rows[rows["quantity"] == quantity], quantities, {}, ("y", "low", "high"))
        seen = np.concatenate([rows["y"], *(rows.loc[rows["kind"] == "accuracy", end] for end in ("low", "high"))])
        low, high = float(np.nanmin(seen)), float(np.nanmax(seen))
        room = 0.05 * max(high - low, 0.1)
        span = (low - room, high + room)
        figure.update_yaxes(range=list(span), title={"text": "min-max normalised"})
        margin = _labels(figure, rows, quantities, TALL, span, "y")
        height = TALL
    else:
        figure = make_subplots(rows=len(kinds), cols=1, shared_xaxes=True, vertical_spacing=0.07)
        margin, height = 0, 120 + 230 * len(kinds)
        for place, kind in enumerate(kinds, start=1):
            part = rows[rows["kind"] == kind]
            where = {"row": place, "col": 1}
            for quantity in part["quantity"].drop_duplicates():
                _quantity(figure, part[part["quantity"] == quantity], quantities, where, ("raw", "raw_low", "raw_high"))
            seen = part[["raw", "raw_low", "raw_high"]].to_numpy()
            room = max(0.06 * float(np.nanmax(seen) - np.nanmin(seen)), 0.01)
            span = (float(np.nanmin(seen)) - room, float(np.nanmax(seen)) + room)
            axis = "y" if place == 1 else f"y{place}"
            text = "accuracy, %" if kind == "accuracy" else kind.replace("_", " ")
            figure.update_yaxes(range=list(span), title={"text": text}, row=place, col=1)
            names = part["quantity"].drop_duplicates().tolist()
            margin = max(margin, _labels(figure, part, names, 190, span, axis, "raw"))
    figure.update_layout(
        template=template(theme.LIGHT),
        height=height,
        margin={**MARGIN, "r": margin},
        hovermode="x unified",
        title={
            "text": escape(title),
            "subtitle": {"text": f"band: 95 % ({spoken(rows['by'])})"},
        },
    )
    figure.update_xaxes(range=axis_range(rows["x"], "rank"), title=None)
    last = {"row": len(kinds), "col": 1} if raw else {}
    figure.update_xaxes(title={"text": AXIS_TITLES["rank"]}, **last)
    return figure


def _quantity(
    figure: go.Figure, rows: pd.DataFrame, quantities: list[str], where: dict[str, int], columns: tuple[str, str, str]
) -> None:
    y, low, high = (rows[name] for name in columns)
    colour, dash = _style(str(rows["quantity"].iloc[0]), str(rows["kind"].iloc[0]), quantities)
    if rows["kind"].iloc[0] == "accuracy" or where:
        known = rows["raw"].notna() & low.notna()
        figure.add_scatter(
            x=pd.concat([rows["x"][known], rows["x"][known][::-1]]), y=pd.concat([high[known], low[known][::-1]]),
            mode="lines", line={"width": 0}, fill="toself", fillcolor=theme.faded(colour, theme.BAND_OPACITY),
            hoverinfo="skip", **where,
        )  # fmt: skip
    digits, unit = (1, "\u00a0%") if rows["kind"].iloc[0] == "accuracy" else (2, "")
    told = [
        f"{escape(name)}: {number(value, digits)}{unit} ({number(lo, digits)} to {number(hi, digits)}{unit}), n = {n}"
        for name, value, lo, hi, n in zip(
            rows["name"], rows["raw"], rows["raw_low"], rows["raw_high"], rows["n"], strict=True
        )
    ]
    figure.add_scatter(
        x=rows["x"], y=y, mode="lines+markers", name=escape(str(rows["name"].iloc[0])),
        line={"color": colour, "width": 2.5, "dash": dash}, marker={"color": colour, "size": 6},
        hovertext=told, hoverinfo="text", customdata=ids(rows), **where,
    )  # fmt: skip


def _style(quantity: str, kind: str, quantities: list[str]) -> tuple[str, str]:
    same = [name for name in quantities if name.endswith(kind)]
    place = same.index(quantity) if quantity in same else 0
    hues, dashes = LINES[kind]
    return theme.COLOURS[hues[place % len(hues)]], dashes[place % len(dashes)]


def _labels(
    figure: go.Figure, rows: pd.DataFrame, quantities: list[str], height: int, span: tuple[float, float], axis: str,
    column: str = "y",
) -> int:  # fmt: skip
    """Names at the line ends; returns the room they need at the right."""
    ends = []
    for quantity in quantities:
        known = rows[(rows["quantity"] == quantity) & rows[column].notna()]
        if len(known):
            colour, _ = _style(quantity, str(known["kind"].iloc[0]), quantities)
            ends.append((str(known["name"].iloc[0]), colour, float(known[column].iloc[-1])))
    per_px = (span[1] - span[0]) / max(height - MARGIN["t"] - MARGIN["b"], 60)
    placed = push_apart([y for _, _, y in ends], 2 * theme.LABEL_GAP_PX * per_px, *span)
    lines = [text.replace(" of ", "<br>", 1) for text, _, _ in ends]
    for line, (name, colour, y), to in zip(lines, ends, placed, strict=True):
        figure.add_annotation(
            xref="paper", x=1, yref=axis, y=y, ax=22, ay=-(to - y) / per_px, showarrow=True, text=f"<b>{line}</b>",
            arrowhead=0, arrowwidth=0.8, arrowcolor=colour, standoff=2, xanchor="left", align="left",
            font={"color": colour, "size": theme.LABEL_PX}, name=f"line:{escape(name)}",
        )  # fmt: skip
    longest = max((len(part) for line in lines for part in line.split("<br>")), default=0)
    return int(36 + longest * CHARACTER_PX)


def add_level(figure: go.Figure, text: str, level: Reference, colour: str) -> None:
    """A strategy as a horizontal line with its name, for what does not vary along the axis; the y axis makes room."""
    figure.add_hline(
        y=level.value, line={"color": colour, "width": 1.8, "dash": "dashdot"}, annotation_text=escape(text),
        annotation_position="bottom left", annotation_font={"size": theme.LABEL_PX, "color": colour},
    )  # fmt: skip
    low, high = figure.layout.yaxis.range
    if not np.isnan(level.value):
        figure.update_yaxes(range=[min(low, level.value - 1), max(high, level.value + 1)])


def pareto_figure(rows: pd.DataFrame, axis: CostAxis, bases: pd.DataFrame, methods: Sequence[str] = ()) -> go.Figure:
    """Every grid point in the colour of its method, faded unless it lies on the front; un-pruned models as stars.

    Args:
        rows: From `dashboards.pareto.pareto_rows`, with a column ``short`` for labels.
        axis: The cost.
        bases: Rows of un-pruned models with the same cost column.
        methods: All that have a colour, in their order; by default those of the rows.
    """
    figure = go.Figure()
    digits = _digits(rows["x"])
    costs = [f"{escape(axis.name)} {number(x, digits)}{axis.unit}" for x in rows["x"]]
    told = [f"{text}<br>{cost}" for text, cost in zip(hover(rows), costs, strict=True)]
    rows = rows.assign(told=told)
    for place, (_, part) in enumerate(rows[rows["front"]].groupby("experiment", sort=False)):
        line = {"color": theme.REFERENCE, "width": 1.6, "shape": "hv", "dash": theme.DASHES[place % len(theme.DASHES)]}
        figure.add_scatter(x=part["x"], y=part["y"], mode="lines", line=line, hoverinfo="skip", showlegend=False)
    methods = methods or tuple(rows["strategy"].drop_duplicates())
    for name, mine in rows.groupby("strategy", sort=False):
        colour = method_look(str(name), methods)[0]
        symbol = SYMBOLS[methods.index(str(name)) // len(theme.COLOURS) % len(SYMBOLS)]
        for part, look in (
            (mine[~mine["front"] & ~mine["near"]], {"size": 6, "symbol": symbol, "opacity": 0.35}),
            (mine[mine["near"]], {"size": 8, "symbol": f"{symbol}-open", "opacity": 0.9}),
            (mine[mine["front"]], {"size": 10, "symbol": symbol}),
        ):
            _dots(figure, part, {"color": colour, **look}, str(name))
        key = {"color": colour, "size": 9, "symbol": symbol}
        figure.add_scatter(x=[None], y=[None], mode="markers", marker=key, name=escape(str(name)), showlegend=True)
    known = bases[bases[axis.column].notna() & (bases["n"] > 0)] if axis.column in bases else bases.iloc[:0]
    for base in known.to_dict("records"):
        span = percent_span(base["ci_low"], base["ci_high"])
        figure.add_scatter(
            x=[base[axis.column] * axis.scale], y=[100 * base["accuracy"]], mode="markers",
            marker={"symbol": "star", "size": 15, "color": theme.REFERENCE},
            error_y={"type": "data", "symmetric": False, "array": [100 * (base["ci_high"] - base["accuracy"])],
                     "arrayminus": [100 * (base["accuracy"] - base["ci_low"])], "color": theme.REFERENCE, "width": 5},
            hovertext=[f"<b>un-pruned</b><br>{percent(base['accuracy'])} ({span})"],
            hoverinfo="text", customdata=[base["id"]] if "id" in base else None, showlegend=False,
        )  # fmt: skip
    seen = [*rows["y"], *(100 * known["accuracy"])]
    spread = [*seen, *(100 * known["ci_high"]), *(100 * known["ci_low"])]
    low, high = (min(spread, default=0.0), max(spread, default=100.0))
    room = max(0.08 * (high - low), 1.0)
    xs = [*rows["x"], *(known[axis.column] * axis.scale if axis.column in known else [])]
    left, right = min(xs, default=0.0), max(xs, default=1.0)
    side = max(0.04 * (right - left), 1e-9)
    left -= 4 * side  # room for the first label
    figure.update_layout(
        template=template(theme.LIGHT),
        height=TALL,
        showlegend=True,
        legend={"orientation": "h", "y": -0.16, "yanchor": "top", "x": 0, "itemclick": False, "itemdoubleclick": False},
        title={
            "text": f"Accuracy (%) against {escape(axis.name)}",
            "subtitle": {
                "text": "line: the front · ring: not shown to be worse than the front's point that costs no more "
                f"({spoken(rows['front_test'])}, 5 %) · star: un-pruned, {spoken(bases['interval'])} 95 %"
            },
        },
        xaxis={"title": {"text": axis.title}, "range": [left - side, right + side]},
        yaxis={"range": [low - room, high + room]},
    )
    _front_labels(figure, rows[rows["front"]], (left - side, right + side), (low - room, high + room))
    return figure


def _digits(values: pd.Series) -> int:
    """Decimals that three significant digits of the smallest take."""
    least = float(values[values > 0].min()) if (values > 0).any() else 1.0
    return max(1, 2 - int(np.floor(np.log10(least))))


def _dots(figure: go.Figure, rows: pd.DataFrame, look: dict[str, Any], name: str) -> None:
    figure.add_scatter(
        x=rows["x"], y=rows["y"], mode="markers", marker=look, hovertext=rows["told"], hoverinfo="text",
        customdata=ids(rows), name=escape(name), showlegend=False,
    )  # fmt: skip


def _front_labels(
    figure: go.Figure, rows: pd.DataFrame, xs: tuple[float, float], ys: tuple[float, float]
) -> None:  # fmt: skip
    """Names along the front, as many as fit: the ends first, and then what lies farthest from the named ones."""
    if rows.empty:
        return
    px = (rows["x"].to_numpy() - xs[0]) / (xs[1] - xs[0]) * 1000
    py = (rows["y"].to_numpy() - ys[0]) / (ys[1] - ys[0]) * (TALL - MARGIN["t"] - MARGIN["b"])
    taken: list[int] = []
    for place in [0, len(rows) - 1, *np.argsort(-py, kind="stable").tolist()]:
        clear = all(abs(px[place] - px[o]) > LABEL_PX[0] or abs(py[place] - py[o]) > 2 * LABEL_PX[1] for o in taken)
        if clear and len(taken) < 8:
            taken.append(place)
    names = told_apart(rows["short"], 32)
    for place in taken:
        row = rows.iloc[place]
        figure.add_annotation(
            x=row["x"], y=row["y"], text=escape(names[place]),
            showarrow=True, arrowhead=0, arrowwidth=0.8, arrowcolor=theme.CONTEXT, ax=-14, ay=-22,
            xanchor="right", font={"size": 11, "color": theme.REFERENCE},
        )  # fmt: skip


def state_figure(rows: pd.DataFrame) -> go.Figure:
    """Cells by strategy: answered, failed, missing. Rows from `dashboards.progress.state_rows`."""
    several = rows["experiment"].nunique() > 1
    owners = rows["experiment"] + ": " if several else pd.Series("", index=rows.index)
    names = [escape(name) for name in told_apart(owners + rows["strategy"].replace("none", "un-pruned"), 34)]
    places = list(range(len(rows)))
    total = (rows["answered"] + rows["failed"] + rows["missing"]).clip(lower=1)
    figure = go.Figure()
    for column, colour in (("answered", theme.COLOURS[0]), ("failed", theme.COLOURS[1]), ("missing", theme.EMPTY)):
        figure.add_bar(
            x=100 * rows[column] / total, y=places, orientation="h", marker={"color": colour, "line": {"width": 0}},
            hovertext=[
                f"{name}<br>{column}: {count(int(n))} of {count(int(of))} cells; {done} of {points} points complete"
                for name, n, of, done, points in zip(
                    names, rows[column], total, rows["complete"], rows["points"], strict=True
                )
            ],
            hoverinfo="text",
        )  # fmt: skip
    figure.update_layout(
        template=template(theme.LIGHT),
        barmode="stack",
        height=MARGIN["t"] + MARGIN["b"] + 24 + 26 * max(len(rows), 2),
        title={
            "text": "Cells by strategy (%)",
            "subtitle": {
                "text": f"<span style='color:{theme.COLOURS[0]}'><b>answered</b></span> · "
                f"<span style='color:{theme.COLOURS[1]}'><b>failed</b></span> · <b>missing</b>"
            },
        },
        xaxis={"range": [0, 100], "title": {"text": "% of the image questions' cells"}},
        yaxis={"tickvals": places, "ticktext": names, "range": [len(rows) - 0.5, -0.5], "showgrid": False},
    )
    return figure


def phase_figure(rows: pd.DataFrame, began: str) -> go.Figure:
    """What a run spent its time on, a bar a phase. Rows from `progress.phase_rows`."""
    figure = go.Figure()
    for place, row in enumerate(rows.to_dict("records")):
        colour = theme.COLOURS[0] if row["what"] == "cells" else theme.CONTEXT
        took = row["to_s"] - row["from_s"]
        figure.add_scatter(
            x=[row["from_s"], row["to_s"]], y=[place, place], mode="lines", line={"width": 10, "color": colour},
            hovertext=[f"{escape(row['what'])}: {duration(took)}"] * 2, hoverinfo="text",
        )  # fmt: skip
    names = [
        f"{escape(what)}, {duration(seconds)}"
        for what, seconds in zip(rows["what"], rows["to_s"] - rows["from_s"], strict=True)
    ]
    figure.update_layout(
        template=template(theme.LIGHT),
        height=MARGIN["t"] + MARGIN["b"] + 24 + 22 * max(len(rows), 2),
        title={
            "text": "Where the time of the newest run went",
            "subtitle": {"text": f"began {escape(began)} · blue: from its first answer to its last"},
        },
        xaxis={"title": {"text": "seconds since it began"}, "rangemode": "tozero"},
        yaxis={"tickvals": list(range(len(rows))), "ticktext": names, "range": [len(rows) - 0.5, -0.5],
               "showgrid": False},
    )  # fmt: skip
    return figure


def rate_figure(rows: pd.DataFrame) -> go.Figure:
    """Samples per second over the time of work, one line a worker, and their sum. Rows from `progress.rate_rows`."""
    figure = go.Figure()
    workers = rows["worker"].drop_duplicates().tolist()
    texts = told_apart(workers, 20)
    total = rows.groupby("minute", sort=True)["per_s"].sum()
    for place, worker in enumerate(workers):
        part = rows[rows["worker"] == worker]
        alone = len(workers) == 1
        colour = theme.COLOURS[0] if alone else theme.CONTEXT
        figure.add_scatter(
            x=part["minute"], y=part["per_s"], mode="lines" if len(part) > 1 else "markers", name=escape(worker),
            line={"color": colour, "width": 2.5 if alone else 1.2, "shape": "hvh"},
            hovertext=[f"{escape(worker)}<br>{number(value, 2)} samples/s" for value in part["per_s"]],
            hoverinfo="text",
        )  # fmt: skip
        if place < 8 and not alone:
            _right_label(figure, texts[place], float(part["per_s"].iloc[-1]), theme.REFERENCE)
    if len(workers) > 1:
        figure.add_scatter(
            x=total.index, y=total, mode="lines", line={"color": theme.COLOURS[0], "width": 2.5, "shape": "hvh"},
            hovertext=[f"all workers<br>{number(value, 2)} samples/s" for value in total], hoverinfo="text",
        )  # fmt: skip
        _right_label(figure, "all", float(total.iloc[-1]), theme.COLOURS[0])
    top = float(total.max()) if len(total) else 1.0
    figure.update_layout(
        template=template(theme.LIGHT),
        height=HEIGHT - 60,
        margin={**MARGIN, "r": 24 if len(workers) < 2 else 150},
        title={
            "text": "Speed (samples per second)",
            "subtitle": {"text": "a sample with all its grid points; pauses of the sweep are cut out"},
        },
        xaxis={"title": {"text": "minutes of work"}},
        yaxis={"range": [0, 1.1 * top]},
    )
    return figure


def _right_label(figure: go.Figure, text: str, y: float, colour: str) -> None:
    figure.add_annotation(
        xref="paper", x=1.005, y=y, text=escape(text), showarrow=False, xanchor="left",
        font={"size": 11, "color": colour},
    )  # fmt: skip
