"""What a benchmark publishes besides the mean of its scores (POPE's F1, MME's acc+, MMBench's circular accuracy).

Computed from the cells, over all questions that a grid point has answered; the benchmark says how
(`workers.tasks.base`). They have no interval: paired statistics are on the scores of single questions.
"""

from __future__ import annotations

import math

import pandas as pd

from results.analysis.metrics import scores
from results.experiment import Experiment
from workers.tasks.base import Metric, Task
from workers.tasks.catalog import find

COLUMNS = ("point", "label", "name", "value", "n", "unit", "text")


def task_metrics(experiment: Experiment) -> pd.DataFrame:
    """The benchmark's own figures of every grid point that has answers.

    Returns:
        One row per grid point and figure, in the order of the grid: point (key), label, name, value (NaN where it is
        undefined), n (questions, or groups of them, behind it), unit ("share", 0 to 1, or "points"), text (the value
        for people; "" where it is undefined). Empty where the benchmark has no such figures.
    """
    task = known_task(experiment)
    rows: list[tuple[str, str, str, float, int, str, str]] = []
    if task is not None and task.metrics is not None:
        parts = dict(list(answered(experiment).groupby("point", sort=False)))
        for point in experiment.points:
            if point.key in parts:
                rows += [(point.key, point.label, *metric, _text(metric)) for metric in task.metrics(parts[point.key])]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def answered(experiment: Experiment) -> pd.DataFrame:
    """All cells with what their questions are: the columns that `Task.metrics` is promised, and point."""
    cells = experiment.cells(["point", "sample", "parsed", "correct", "score", "visual_tokens"])
    cells["score"] = scores(cells)
    cells["image"] = cells["visual_tokens"] > 0
    asked = experiment.samples[["id", "group", "category", "subject", "label", "options"]]
    asked = asked.fillna({"group": "", "category": "", "subject": ""})
    return cells.drop(columns="visual_tokens").merge(asked, left_on="sample", right_on="id", validate="many_to_one")


def headline(table: pd.DataFrame, experiment: Experiment) -> pd.DataFrame:
    """Of `task_metrics`, the figure that papers quote alone; empty where there is none."""
    task = known_task(experiment)
    wanted = task.headline if task is not None else ""
    # A sum over part of its categories says so in its name: "total (3 of 14)".
    chosen = [name.partition(" (")[0] == wanted for name in table["name"]]
    return table[pd.Series(chosen, index=table.index, dtype=bool)]


def known_task(experiment: Experiment) -> Task | None:
    """The benchmark; None where it is not known here, or is a user's own that has been edited since."""
    task = find(experiment.spec.task.name)
    return task if task and task.source_hash == experiment.manifest.context_parts.get("task_source", "") else None


def _text(metric: Metric) -> str:
    if math.isnan(metric.value):
        return ""
    return f"{100 * metric.value:.1f} %" if metric.unit == "share" else f"{metric.value:.1f}"
