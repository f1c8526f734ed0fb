"""Published figures in the benchmark table: rows beside ours, and how far our un-pruned model is from theirs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from results.analysis.benchmark_table import ALIKE, BenchmarkTable, Cell, Row
from results.literature import LINEAGES, Lineage, Published
from results.suites import Results
from strategies.errors import UsageError

SIZE = (32, 576, 4096)  # layers, visual tokens and width of LLaVA-1.5-7B, whose figures they are
FAR = 0.02  # of a published un-pruned figure: ours is looked into from there on


def with_published(table: BenchmarkTable, found: Sequence[Results], name: str) -> BenchmarkTable:
    """The table with the rows of a lineage at the budgets that it has, and a note where un-pruned figures lie apart.

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
        if last and row.budget and columns[row.model]:
            rows += _published(lineage, row, columns[row.model], table.averaged)
    notes = [line for model, known in columns.items() for line in _apart(table, lineage, model, known)]
    return replace(table, rows=tuple(rows), notes=(*table.notes, *notes))


def _columns(found: Sequence[Results], model: str, lineage: Lineage) -> dict[str, str]:
    """The column of each task that the lineage has figures of; none for another model."""
    columns = {}
    for one in found:
        config = one.experiment.config
        width = None if config.sizes is None else config.sizes.hidden
        if one.model != model or (config.layers, config.visual_tokens, width) != SIZE:
            continue
        task = one.experiment.spec.task.name
        part = " perception" if task == "mme" and lineage.mme == "perception" else ""
        columns[task] = f"{one.benchmark}{part}"
    return columns


def _published(lineage: Lineage, row: Row, columns: Mapping[str, str], averaged: Sequence[str]) -> Iterator[Row]:
    for one in lineage.rows:
        if abs(one.tokens - row.tokens) <= ALIKE * one.tokens:
            cells = _cells(one, lineage, columns)
            shares = [cells[name].relative if name in cells else np.nan for name in averaged]
            yield Row(
                model=row.model,
                method=f"{one.method} ({lineage.origin})",
                budget=row.budget,
                tokens=float(one.tokens),
                cells=cells,
                mean=float(np.mean(shares)) if shares else np.nan,
            )


def _cells(one: Published, lineage: Lineage, columns: Mapping[str, str]) -> dict[str, Cell]:
    return {
        columns[task]: Cell(value=value, relative=100 * value / lineage.unpruned.get(task, np.nan), n=0)
        for task, value in one.figures.items()
        if task in columns
    }


def _apart(table: BenchmarkTable, lineage: Lineage, model: str, columns: Mapping[str, str]) -> Iterator[str]:
    """Where our un-pruned model does not give what papers print of it."""
    ours = next((row for row in table.rows if row.model == model and not row.budget), None)
    for task, value in lineage.unpruned.items():
        cell = ours.cells.get(columns.get(task, "")) if ours else None
        if cell is not None and abs(cell.value - value) > FAR * value:
            yield (
                f"{columns[task]}: the un-pruned model has {cell.value:.1f} here and {value:g} in the literature; see "
                "that prompt, answer rule and checkpoint are the published ones before comparing methods"
            )
