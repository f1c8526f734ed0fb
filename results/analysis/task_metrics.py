"""What a benchmark publishes besides the mean of its scores (POPE's F1, MME's acc+, MMBench's circular accuracy).

Computed from the cells, over all questions that a grid point has answered; the benchmark says how
(`workers.tasks.base`). Of a benchmark that this process does not know - a user's own, a package's, lmms-eval's - they
are those that `saccade run` wrote when it ended. They have no interval: paired statistics are on the scores of single
questions.
"""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from results.analysis.metrics import scores
from results.experiment import Experiment
from results.wording import number, percent
from workers.tasks.base import Metric, Task
from workers.tasks.catalog import find

COLUMNS = ("point", "label", "name", "value", "n", "unit", "quoted", "text")
WRITTEN = Path("exports/task_metrics.csv")  # all columns but the last


def task_metrics(experiment: Experiment) -> pd.DataFrame:
    """The benchmark's own figures of every grid point that has answers.

    Returns:
        One row per grid point and figure, in the order of the grid: point (key), label, name, value (NaN where it is
        undefined), n (questions, or groups of them, behind it), unit ("share", 0 to 1, or "points"), text (the value
        for people; "" where it is undefined), and before it quoted (whether papers quote it alone). Empty where the
        benchmark has no such figures.
    """
    task = known_task(experiment)
    if task is None:
        return _written(experiment)
    rows: list[tuple[str, str, str, float, int, str, bool, str]] = []
    if task.metrics is not None:
        parts = dict(list(answered(experiment).groupby("point", sort=False)))
        for point in experiment.points:
            if point.key in parts:
                # A sum over part of its categories says so in its name: "total (3 of 14)".
                rows += [
                    (point.key, point.label, *metric, metric.name.partition(" (")[0] == task.headline, _text(metric))
                    for metric in task.metrics(parts[point.key])
                ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def answered(experiment: Experiment) -> pd.DataFrame:
    """All cells with what their questions are: the columns that `Task.metrics` is promised, and point."""
    cells = experiment.cells(["point", "sample", "parsed", "correct", "score", "visual_tokens"])
    cells["score"] = scores(cells)
    cells["image"] = cells["visual_tokens"] > 0
    asked = experiment.samples[["id", "group", "category", "subject", "label", "options"]]
    asked = asked.fillna({"group": "", "category": "", "subject": ""})
    return cells.drop(columns="visual_tokens").merge(asked, left_on="sample", right_on="id", validate="many_to_one")


def headline(table: pd.DataFrame) -> pd.DataFrame:
    """Of `task_metrics`, the figure that papers quote alone; empty where there is none."""
    return table[table["quoted"].astype(bool)]


def _written(experiment: Experiment) -> pd.DataFrame:
    """The figures that were written when a run ended; none where that has not been, or the file is damaged."""
    path = experiment.path / WRITTEN
    try:
        found = pd.read_csv(path, encoding="utf-8-sig", dtype={"point": str, "label": str, "name": str, "unit": str})
        table = found.assign(text=[_text(Metric(*one)) for one in found[list(Metric._fields)].itertuples(index=False)])
        return table[list(COLUMNS)].astype({"value": float, "n": int, "quoted": bool})
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError) as error:
        experiment.note(path, error, "`saccade run` writes it again when it ends")
    return pd.DataFrame([], columns=list(COLUMNS))


def known_task(experiment: Experiment) -> Task | None:
    """The benchmark; None where it is not known here, or is a user's own that has been edited since."""
    task = find(experiment.spec.task.name)
    return task if task and task.source_hash == experiment.manifest.context_parts.get("task_source", "") else None


def _text(metric: Metric) -> str:
    if math.isnan(metric.value):
        return ""
    return percent(metric.value) if metric.unit == "share" else number(metric.value)
