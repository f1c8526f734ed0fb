"""Published figures in the benchmark table: rows beside ours, and a flag where our un-pruned model is far from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from results.analysis.benchmark_table import ALIKE, BenchmarkTable, Cell, Row
from results.literature import LINEAGES, PAPERS, UNPRUNED, Lineage, Published
from results.suites import Results
from strategies.errors import UsageError

SIZE = (32, 576, 4096)  # layers, visual tokens and width of LLaVA-1.5-7B, whose figures they are
FAR = 0.02  # of a printed un-pruned figure: ours is looked into from there on


def with_band(table: BenchmarkTable, found: Sequence[Results]) -> BenchmarkTable:
    """The table with a flag, and a note, where our un-pruned model lies far from what is printed of it.

    Args:
        table: Of ``found``.
        found: Experiments; only those of a model as large as LLaVA-1.5-7B are looked at.
    """
    bands = {
        (one.model, f"{one.benchmark} {part}".strip()): band
        for one in found
        if _is_theirs(one)
        for (task, part), band in UNPRUNED.items()
        if task == one.experiment.spec.task.name
    }
    rows, far = list(table.rows), []
    for place, row in enumerate(rows):
        if row.budget or row.origin:
            continue
        cells = dict(row.cells)
        for column, cell in row.cells.items():
            if (band := bands.get((row.model, column))) is None:
                continue
            low, high = band
            away = 100 * (cell.value / min(max(cell.value, low), high) - 1)
            if abs(away) > 100 * FAR:
                cells[column] = replace(cell, away=away)
                printed = f"{low:g}" if low == high else f"{low:g} to {high:g}"
                far.append(f"{row.model} {column} {cell.value:.1f} ({printed} printed, {away:+.1f} %)".strip())
        rows[place] = replace(row, cells=cells)
    note = (
        f"the un-pruned model is far from the literature: {', '.join(far)}; see that prompt, answer rule and "
        "checkpoint are the published ones before comparing methods"
    )
    return replace(table, rows=tuple(rows), notes=(*table.notes, *([note] if far else [])))


def lineages_of(found: Sequence[Results]) -> list[str]:
    """The lineages that have figures of the models and benchmarks here."""
    tasks = {one.experiment.spec.task.name for one in found if _is_theirs(one)}
    return [name for name, one in LINEAGES.items() if any(tasks & set(row.figures) for row in one.rows)]


def with_published(table: BenchmarkTable, found: Sequence[Results], name: str) -> BenchmarkTable:
    """The table with the rows of a lineage at the budgets that it has.

    Args:
        table: Of ``found``.
        found: Experiments; figures are shown beside those of a model as large as LLaVA-1.5-7B.
        name: Of a lineage, see ``results/literature.py``.

    Raises:
        UsageError: There is no such lineage, or no model that it is of.
    """
    lineage = LINEAGES.get(name)
    if lineage is None:
        known = ", ".join(f"{key} ({one.origin})" for key, one in LINEAGES.items())
        raise UsageError(f"--published {name}: is none of {known}")
    columns = {model: _columns(found, model, lineage) for model in dict.fromkeys(one.model for one in found)}
    if not any(columns.values()):
        raise UsageError(f"--published {name}: its figures are of LLaVA-1.5-7B on benchmarks that are not here")
    rows: list[Row] = []
    for place, row in enumerate(table.rows):
        rows.append(row)
        following = table.rows[place + 1] if place + 1 < len(table.rows) else None
        last = following is None or (following.model, following.budget) != (row.model, row.budget)
        if last and columns[row.model]:
            rows += _published(lineage, row, columns[row.model], table.averaged)
    papers = dict.fromkeys(f"{row.method.partition(' ')[0]} {row.source}" for row in rows if row.source)
    note = f"({lineage.kind}): printed elsewhere, {lineage.origin}; the methods' papers: {', '.join(papers)}"
    return replace(table, rows=tuple(rows), notes=(*table.notes, note))


def _is_theirs(one: Results) -> bool:
    """Whether an experiment's model is as large as the one that figures are printed of."""
    config = one.experiment.config
    width = None if config.sizes is None else config.sizes.hidden
    return (config.layers, config.visual_tokens, width) == SIZE


def _columns(found: Sequence[Results], model: str, lineage: Lineage) -> dict[str, str]:
    """The task of each column that the lineage may have figures of; none for another model."""
    columns = {}
    for one in found:
        if one.model != model or not _is_theirs(one):
            continue
        task = one.experiment.spec.task.name
        part = " perception" if task == "mme" and lineage.mme == "perception" else ""
        columns[f"{one.benchmark}{part}"] = task
    return columns


def _published(lineage: Lineage, row: Row, columns: Mapping[str, str], averaged: Sequence[str]) -> Iterator[Row]:
    """The printed rows of a row's budget; of the un-pruned model, where that is printed, its own."""
    printed = lineage.rows
    if not row.budget:
        whole = Published(method=row.method, tokens=round(row.tokens), figures=lineage.unpruned)
        printed = (whole,) if lineage.unpruned else ()
    for one in printed:
        if abs(one.tokens - row.tokens) <= ALIKE * one.tokens:
            cells = _cells(one, lineage, columns)
            shares = [cells[name].relative if name in cells else np.nan for name in averaged]
            yield Row(
                model=row.model,
                method=one.method,
                budget=row.budget,
                tokens=float(one.tokens),
                cells=cells,
                mean=float(np.mean(shares)) if shares else np.nan,
                origin=lineage.kind,
                source=PAPERS.get(one.method.partition(" ")[0], ""),
            )


def _cells(one: Published, lineage: Lineage, columns: Mapping[str, str]) -> dict[str, Cell]:
    return {
        column: Cell(value=value, relative=100 * value / lineage.unpruned.get(task, np.nan), n=0)
        for column, task in columns.items()
        if (value := one.figures.get(task)) is not None
    }
