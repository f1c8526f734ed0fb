"""The benchmark table as people paste it: to a terminal, Markdown, LaTeX with booktabs, or CSV with every number."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd

from results.analysis.benchmark_table import BenchmarkTable, Cell, Row, Spread
from results.escaping import csv_text, latex_cell, markdown_cell
from results.exchange.booktabs import booktabs, name_columns
from results.exchange.point_names import PointName
from results.wording import figures, number, points

NOTE = (
    "mean: percent of the un-pruned model's figure, over the benchmarks, with a 95 % interval (paired bootstrap over "
    "images); best and second best of a budget are marked where they are so beyond chance"
)


def rendered(table: BenchmarkTable, form: str) -> str:
    """As ``csv``, ``markdown`` or ``latex``."""
    if form == "csv":
        return csv_text(long_rows(table))
    return _markdown(table) if form == "markdown" else _latex(table)


def printable(table: BenchmarkTable) -> tuple[list[str], list[list[str]]]:
    """Header and rows as text, for a terminal: ``*`` and ``+`` behind best and second best."""
    marks = {"best": "*", "second": "+", "": ""}
    body = []
    for row in table.rows:
        cells = [_value(one) + marks[_mark(one)] for one in map(row.cells.get, table.columns)]
        body.append([*_names(table, row), *cells, _mean(row) + marks[row.mark], *_further(table, row)])
    return _header(table), body


def _markdown(table: BenchmarkTable) -> str:
    bold = {"best": "**{}**", "second": "_{}_", "": "{}"}
    header, first = _header(table), len(_names(table, table.rows[0])) if table.rows else 0
    lines = ["| " + " | ".join(map(markdown_cell, header)) + " |"]
    lines.append("|" + "---|" * first + "---:|" * (len(header) - first))
    for row in table.rows:
        cells = [markdown_cell(text) for text in _names(table, row)]
        cells += [bold[_mark(one)].format(_value(one)) for one in map(row.cells.get, table.columns)]
        lines.append("| " + " | ".join([*cells, bold[row.mark].format(_mean(row)), *_further(table, row)]) + " |")
    return "\n".join([*lines, "", markdown_cell(NOTE), *(f"- {markdown_cell(note)}" for note in table.notes), ""])


def _latex(table: BenchmarkTable) -> str:
    bold = {"best": r"\textbf{{{}}}", "second": r"\underline{{{}}}", "": "{}"}
    rows = table.rows
    several = len({row.model for row in rows}) > 1
    models = [("model", [latex_cell(row.model) for row in rows])] if several else []
    names = [replace(row.name or PointName(row.title), budget=_tokens(row)) for row in rows]
    columns = [
        (title, [bold[_mark(one)].format(latex_cell(_value(one))) for one in (row.cells.get(title) for row in rows)])
        for title in table.columns
    ]
    columns.append(("mean %", [bold[row.mark].format(latex_cell(_mean(row))) for row in rows]))
    further = [[latex_cell(text) for text in _further(table, row)] for row in rows]
    columns += [(title, [line[place] for line in further]) for place, title in enumerate(_further_titles(table))]
    places = enumerate(pairwise(rows), start=1)
    breaks = [place for place, (one, row) in places if (one.model, one.budget) != (row.model, row.budget)]
    return booktabs([*models, *name_columns(names)], columns, breaks, aside=(NOTE, *table.notes))


def _tokens(row: Row) -> str:
    """A budget in a column of its own."""
    text = row.budget.removesuffix(" of the tokens").removesuffix(" tokens")
    return text or ("" if np.isnan(row.tokens) else number(row.tokens, 0))


def long_rows(table: BenchmarkTable) -> pd.DataFrame:
    """One row for each method, budget and benchmark, and one for the mean."""
    rows = []
    for row in table.rows:
        named = {"model": row.model, "method": row.title, "budget": row.budget, "tokens": row.tokens}
        cost: dict[str, object] = {"origin": row.origin, "source": row.source, "reason": row.reason}
        cost |= {"flops_ratio": row.flops, "kv_ratio": row.kv}
        for title in table.costs:
            spread = row.costs.get(title, Spread(value=np.nan))
            name = title.lower().replace(" ", "_").replace("/", "_per_")
            cost |= {name: spread.value, f"{name}_p90": spread.high}
        for name in table.columns:
            if (one := row.cells.get(name)) is not None:
                figures = {"value": one.value, "relative": one.relative, "low": one.low, "high": one.high, "n": one.n}
                rows.append({**named, "benchmark": name, **figures, "mark": one.mark, **cost})
        mean = {"value": np.nan, "relative": row.mean, "low": row.low, "high": row.high, "n": 0, "mark": row.mark}
        rows.append({**named, "benchmark": "mean", **mean, **cost})
    return pd.DataFrame(rows)


def _header(table: BenchmarkTable) -> list[str]:
    return [*_titles(table), *table.columns, "mean %", *_further_titles(table)]


def _further_titles(table: BenchmarkTable) -> list[str]:
    return [*(["over it"] if _has_gains(table) else []), "FLOPs", "KV", *table.costs]


def _titles(table: BenchmarkTable) -> list[str]:
    several = len({row.model for row in table.rows}) > 1
    return (["model"] if several else []) + ["budget", "method"]


def _names(table: BenchmarkTable, row: Row) -> list[str]:
    several = len({one.model for one in table.rows}) > 1
    return ([row.model] if several else []) + [row.budget, row.title]


def _value(one: Cell | None) -> str:
    return "" if one is None else _estimate(one.value, one.low, one.high)


def _mark(one: Cell | None) -> str:
    return "" if one is None else one.mark


def _mean(row: Row) -> str:
    return "" if np.isnan(row.mean) else _estimate(row.mean, row.low, row.high)


def _estimate(value: float, low: float, high: float) -> str:
    return number(value) + ("" if np.isnan(low) else f" [{number(low)}, {number(high)}]")


def _further(table: BenchmarkTable, row: Row) -> list[str]:
    gain, low, high = (points(one / 100) for one in (row.gain, row.gain_low, row.gain_high))
    gain = "" if np.isnan(row.gain) else f"{gain} [{low}, {high}]"
    shares = ["" if np.isnan(one) else number(one, 2) for one in (row.flops, row.kv)]
    return [*([gain] if _has_gains(table) else []), *shares, *(_cost(row.costs.get(title)) for title in table.costs)]


def _cost(one: Spread | None) -> str:
    if one is None or np.isnan(one.value):
        return ""
    return figures(one.value) + ("" if np.isnan(one.high) else f" ({figures(one.high)})")


def _has_gains(table: BenchmarkTable) -> bool:
    return any(not np.isnan(row.gain) for row in table.rows)
