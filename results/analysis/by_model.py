"""Models side by side: method and share of the tokens by model, each cell the mean percent of that model's un-pruned.

Budgets are shares, because models have other numbers of tokens and layers: a method's visual tokens, averaged over the
layers, as a share of the un-pruned model's. Of a layer cut-off that is the layer as a share of the depth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from results.analysis.benchmark_table import ALIKE, BenchmarkTable, Cell, Row
from results.exchange.point_names import PointName
from results.wording import percent
from strategies.errors import UsageError
from strategies.listed import KEEP_NOTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCurve:
    """A method on a model, from few tokens to many."""

    method: str
    model: str
    share: tuple[float, ...]  # of the un-pruned model's tokens, averaged over its layers
    mean: tuple[float, ...]  # percent of the un-pruned model's, over the benchmarks
    low: tuple[float, ...]
    high: tuple[float, ...]


def by_model(table: BenchmarkTable) -> BenchmarkTable:
    """The table with a column for each model; its rows are methods at shares of the tokens, and their mean over models.

    Raises:
        UsageError: The table is of one model.
    """
    models = tuple(dict.fromkeys(row.model for row in table.rows))
    if len(models) < 2:
        raise UsageError("--by model: the table is of one model; list several in `suite.models`")
    rows: dict[tuple[str, float], Row] = {}
    for method, share, row in sorted(_shares(table), key=lambda one: -one[1]):
        near = (place for place in rows if place[0] == method and abs(place[1] - share) <= ALIKE * place[1])
        place = next(near, (method, share))
        cell = Cell(value=row.mean, relative=row.mean, n=0, low=row.low, high=row.high)
        known = rows.get(place) or Row(
            model="", method=method, budget=_budget(place[1]), tokens=np.nan, cells={}, name=row.name
        )
        rows[place] = replace(known, name=_shared(known, row), cells={**known.cells, row.model: cell})
    whole = [replace(row, mean=_mean(row, models)) for row in rows.values()]
    return BenchmarkTable(columns=models, averaged=models, rows=tuple(whole), notes=(*table.notes, NOTE))


NOTE = (
    "columns are models: the mean over the benchmarks, percent of that model's un-pruned, and its interval; budgets "
    "are shares of the visual tokens, averaged over the layers, which of a layer cut-off is the share of the depth"
)


def model_curves(table: BenchmarkTable) -> list[ModelCurve]:
    """Method by method and model by model; what has one point is a point."""
    groups: dict[tuple[str, str], list[tuple[float, Row]]] = {}
    for method, share, row in _shares(table):
        if row.budget:
            groups.setdefault((method, row.model), []).append((share, row))
    curves = []
    for (method, model), points in sorted(groups.items(), key=lambda one: one[0][0]):
        ordered = sorted(points, key=lambda one: one[0])
        rows = [row for _, row in ordered]
        curves.append(
            ModelCurve(
                method=method,
                model=model,
                share=tuple(share for share, _ in ordered),
                mean=tuple(row.mean for row in rows),
                low=tuple(row.low for row in rows),
                high=tuple(row.high for row in rows),
            )
        )
    return curves


def _shares(table: BenchmarkTable) -> Iterator[tuple[str, float, Row]]:
    """Method, share of the tokens, and row of what has a mean."""
    whole = {row.model: row.tokens for row in table.rows if not row.budget}
    for row in table.rows:
        share = row.tokens / whole.get(row.model, np.nan)
        if not np.isnan(row.mean) and not np.isnan(share):
            bare = row.name is not None and row.name.strategy in KEEP_NOTHING
            yield row.name.method(layer=False) if row.name is not None and bare else row.title, float(share), row


def _shared(known: Row, row: Row) -> PointName | None:
    """The name of a row, without a layer where models have others."""
    if known.name is None or row.name is None:
        return known.name
    return known.name if known.name.layer == row.name.layer else replace(known.name, layer="")


def _budget(share: float) -> str:
    return "" if share >= 1 else f"{percent(share)} of the tokens"


def _mean(row: Row, models: tuple[str, ...]) -> float:
    return float(np.mean([row.cells[model].value if model in row.cells else np.nan for model in models]))
