"""The means over a suite's benchmarks as a picture: a line a method, from few tokens to many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from plotly import graph_objects as go

from dashboards import theme
from dashboards.benchmarks import mean_text
from dashboards.figures import HEIGHT, template
from results.analysis.benchmark_table import BenchmarkTable, Row


def means_figure(table: BenchmarkTable) -> go.Figure | None:
    """The mean over the benchmarks of each method, from many tokens to few; None where none has one."""
    rows = [row for row in table.rows if row.budget and not math.isnan(row.mean)]
    if not rows:
        return None
    models = list(dict.fromkeys(row.model for row in rows))
    titles = list(dict.fromkeys(row.title for row in rows))
    figure = go.Figure()
    for title, model in ((title, model) for model in models for title in titles):
        if found := [row for row in rows if (row.title, row.model) == (title, model)]:
            name = f"{model} {title}".strip() if len(models) > 1 else title
            _line(figure, name, found, titles.index(title), models.index(model))
    figure.add_hline(y=100, line={"dash": "dash", "width": 1.5, "color": theme.REFERENCE})
    figure.update_layout(
        template=template(theme.LIGHT),
        height=HEIGHT,
        showlegend=True,
        legend={"orientation": "v", "font": {"size": 11}},
        title={
            "text": "Mean over the benchmarks (% of the un-pruned model)",
            "subtitle": {"text": "line: paired bootstrap over images, 95 % · hollow: printed elsewhere"},
        },
        xaxis={"title": {"text": "visual tokens, mean over the layers"}, "type": "log", **_ticks(rows)},
    )
    return figure


def _line(figure: go.Figure, name: str, rows: Sequence[Row], method: int, model: int) -> None:
    """A colour a method, further dashes a model."""
    colour, dash = theme.line_look(method + len(theme.COLOURS) * model)
    printed = bool(rows[0].origin)
    spans = [(0.0, 0.0) if math.isnan(row.low) else (row.high - row.mean, row.mean - row.low) for row in rows]
    figure.add_scatter(
        x=[row.tokens for row in rows], y=[row.mean for row in rows], name=escape(name),
        mode="markers" if printed else "lines+markers", line={"color": colour, "dash": dash, "width": 2},
        marker={"color": colour, "size": 8, "symbol": "diamond-open" if printed else "circle"},
        error_y={"type": "data", "array": [up for up, _ in spans], "arrayminus": [down for _, down in spans],
                 "thickness": 1.2, "width": 3, "visible": not printed},
        hovertext=[f"<b>{escape(row.title)}</b><br>{escape(row.budget)}: {mean_text(row)}" for row in rows],
        hoverinfo="text",
    )  # fmt: skip


def _ticks(rows: Sequence[Row]) -> dict[str, Any]:
    """A tick at each budget, unless two labels would run into each other; and the range."""
    places: list[float] = []
    for tokens in sorted({row.tokens for row in rows if not row.origin}, reverse=True):
        if not places or tokens < 0.9 * places[-1]:
            places.append(tokens)
    ends = [math.log10(min(row.tokens for row in rows) / 1.15), math.log10(max(row.tokens for row in rows) * 1.15)]
    return {
        "range": ends,
        "tickvals": places,
        "ticktext": [f"{one:.0f}" for one in places],
        "minor": {"showgrid": False},
    }
