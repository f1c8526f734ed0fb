"""Pareto: accuracy against what a configuration costs."""

from __future__ import annotations

import pandas as pd

from dashboards.charts import pareto_figure
from dashboards.pages.base import Control, Page, Panel, faceted
from dashboards.pages.parts import numbers
from dashboards.pareto import COSTS, pareto_rows
from dashboards.rows import labels, with_series
from dashboards.view import View
from results.wording import count, plural

UNKNOWN = {
    "latency": "nobody has measured latencies here: `saccade latency SWEEP --out EXPERIMENT` does",
    "": "the experiment does not state its model's sizes, so that nothing can be counted",
}


def controls(view: View) -> list[Control]:
    return [Control(name="cost", label="cost", kind="choice", values=[axis.name for axis in COSTS])]


def panels(view: View) -> list[Panel]:
    axis = next((axis for axis in COSTS if axis.name == view.state.get("cost")), COSTS[0])
    rows = with_costs(view)
    shown = pareto_rows(rows, axis, {source.name: (source.answers, source.summary["key"]) for source in view.sources})
    if shown.empty:
        finished = view.pruned["state"].eq("complete").any()
        why = UNKNOWN.get(axis.name, UNKNOWN[""]) if finished else "nothing is finished"
        return [Panel(name="pareto", figure=None, rows=shown, title=f"Accuracy against {axis.name}", note=why)]
    shown = with_series(shown)
    shown["short"] = labels(shown)
    front = shown[shown["front"]]
    near = int(shown["near"].sum())
    finding = (
        f"{count(len(front))} of {plural(len(shown), 'finished configuration')} on the front, {count(near)} more "
        "cannot be told from it."
    )
    note = "The front was chosen on these very questions, so it looks better than it is."
    figure = pareto_figure(shown, axis, rows[rows["baseline"]], view.methods)
    return [Panel(name="pareto", figure=figure, rows=shown, finding=finding, note=note, below=numbers(front, view))]


def with_costs(view: View) -> pd.DataFrame:
    """The rows in view with what they cost."""
    parts = []
    for source in view.sources:
        rows = view.rows[view.rows["experiment"] == source.name]
        counted = source.costed()
        if counted is not None:
            rows = rows.merge(counted, on="key", how="left")
            rows["kv_mb"] = rows["kv_bytes"] / 1e6
        parts.append(rows.assign(latency_ms=1000 * rows["key"].map(source.latency).astype(float)))
    return pd.concat(parts, ignore_index=True)


PAGE = Page(name="Pareto", path="/pareto", panels=faceted(panels), controls=controls)
