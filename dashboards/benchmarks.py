"""The papers' table as a page shows it: what it says, and its rows as HTML."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from dash import html

from results.analysis.benchmark_table import CANNOT, BenchmarkTable, Cell, Row, Spread
from results.wording import MISSING, figures, number, points, points_span

Address = Callable[[Row, str], str | None]  # of a row and a column: where its answers are to be seen
MARKS = {"best": " best", "second": " second", "": ""}


def findings(table: BenchmarkTable) -> list[str]:
    """A sentence for each model and budget: who keeps most, where that is beyond chance."""
    found = []
    several = len({row.model for row in table.rows}) > 1
    for (model, budget), rows in _groups(table):
        ours = sorted((row for row in rows if not row.origin and not math.isnan(row.mean)), key=lambda row: -row.mean)
        if not budget or not ours:
            continue
        place = f"{model}, {budget}" if several else budget
        first = f"{ours[0].method} keeps {mean_text(ours[0])} of the un-pruned model"
        if len(ours) == 1:
            found.append(f"{place}: {first}.")
        elif ours[0].mark:
            found.append(f"{place}: {first}, the most beyond chance.")
        else:
            found.append(f"{place}: {first}; it cannot be told from {ours[1].method}, {mean_text(ours[1])}.")
    return found


def _groups(table: BenchmarkTable) -> list[tuple[tuple[str, str], list[Row]]]:
    return [(key, list(rows)) for key, rows in groupby(table.rows, key=lambda row: (row.model, row.budget))]


def mean_text(row: Row) -> str:
    """A mean with its interval."""
    span = "" if math.isnan(row.low) else f" ({number(row.low)} to {number(row.high)})"
    return f"{number(row.mean)}\u00a0%{span}"


def table_html(table: BenchmarkTable, against: str, address: Address) -> Any:
    """Rows by budget, a column for each benchmark.

    Args:
        table: What is shown.
        against: Whom the methods are held against; "" for nobody.
        address: Where a cell leads.
    """
    gains = any(not math.isnan(row.gain) for row in table.rows)
    shares = any(not math.isnan(row.flops) for row in table.rows)
    more = [*([f"over {against}"] if gains else []), *(["FLOPs", "KV"] if shares else []), *table.costs]
    names = [*table.columns, "mean, %", *more]
    head = html.Tr([html.Th("method"), *(html.Th(name, className="number") for name in names)])
    body = []
    several = len({row.model for row in table.rows}) > 1
    for (model, budget), rows in _groups(table):
        title = " · ".join(filter(None, (model if several else "", budget or "all tokens")))
        body.append(html.Tr(html.Th(title, colSpan=len(names) + 1, dir="auto"), className="budget"))
        body += [_row(row, table, names, address) for row in rows]
    grid = html.Table([html.Thead(head), html.Tbody(body)], className="benchmarks")
    return html.Div(grid, className="scroll benchmarks", tabIndex=0)  # the arrow keys move it too


def _row(row: Row, table: BenchmarkTable, names: Sequence[str], address: Address) -> Any:
    first = html.Th(_told(row.method, f"{row.origin} {row.source}".strip()), dir="auto", className="method")
    if row.budget == CANNOT:
        return html.Tr([first, html.Td(f"{CANNOT}: {row.reason}", colSpan=len(names), className="absent")])
    cells = [_cell(row.cells.get(name), None if row.origin else address(row, name)) for name in table.columns]
    cells.append(html.Td(_told(number(row.mean), _span(row.low, row.high)), className=f"number{MARKS[row.mark]}"))
    known = {"FLOPs": number(row.flops, 2), "KV": number(row.kv, 2)}
    known |= {title: _cost(row.costs.get(title)) for title in table.costs}
    cells += [html.Td(known.get(name, _gain(row)), className="number") for name in names[len(cells) :]]
    look = "printed" if row.origin else "" if row.budget else "baseline"
    return html.Tr([first, *cells], className=look)


def _gain(row: Row) -> list[Any]:
    span = "" if math.isnan(row.gain_low) else points_span(row.gain_low / 100, row.gain_high / 100)
    return _told(points(row.gain / 100), span)


def _cell(cell: Cell | None, link: str | None) -> Any:
    if cell is None:
        return html.Td(MISSING, className="number absent")
    value: Any = number(cell.value) if link is None else html.A(number(cell.value), href=link)
    if not math.isnan(cell.low):  # a mean over benchmarks
        return html.Td(_told(value, _span(cell.low, cell.high)), className="number")
    small = "" if math.isnan(cell.relative) else f"{number(cell.relative)}\u00a0%"
    if not math.isnan(cell.away):
        side = "above" if cell.away > 0 else "below"
        flag = html.Small(f"{abs(cell.away):.1f}\u00a0% {side} printed", className="away-from")
        return html.Td([value, flag], className="number")
    return html.Td(_told(value, small), className=f"number{MARKS[cell.mark]}")


def _told(value: Any, small: str) -> list[Any]:
    return [html.Span(value), *([html.Small(small)] if small else [])]


def _span(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"{number(low)} to {number(high)}"


def _cost(one: Spread | None) -> Any:
    if one is None or math.isnan(one.value):
        return MISSING
    return _told(figures(one.value), "" if math.isnan(one.high) else f"90 % ≤ {figures(one.high)}")
