"""Rows of the run page: how fast cells come, from whom, and when the rest will be there; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from results.analysis.matrix import Answers, UnitFile
from results.timeline import FIRST, LAST, Record

BINS = 40  # of the picture of speeds
PAUSE_S = 600.0  # so long without a file: the sweep was stopped and went on later
RECENT = 0.2  # share of the cells that the time left is told from


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a sweep is. A cell counts as settled when it exists, or its sample has failed."""

    cells: int
    answered: int
    failed: int
    per_s: float  # sample equivalents: cells over the points of the grid; NaN where nothing is known
    left_s: float  # NaN likewise; 0 when nothing is missing

    @property
    def missing(self) -> int:
        return self.cells - self.answered - self.failed


def progress(answers: Answers, units: Sequence[UnitFile]) -> Progress:
    """Counts, and the speed of the most recent part."""
    cells = answers.answered_PS.size
    answered = int(answers.answered_PS.sum())
    failed = int((~answers.answered_PS & answers.failed_S).sum())
    rate = _recent_rate(units) / max(len(answers.points), 1)
    missing = cells - answered - failed
    left = 0.0 if not missing else missing / len(answers.points) / rate if rate > 0 else float("nan")
    return Progress(cells=cells, answered=answered, failed=failed, per_s=rate or float("nan"), left_s=left)


def state_rows(summary: pd.DataFrame) -> pd.DataFrame:
    """Cells of image questions by strategy: columns strategy, answered, failed, missing, points, complete."""
    rows = summary.assign(
        missing=summary["n_expected"] - summary["n"] - summary["failed"], complete=summary["state"] == "complete"
    )
    groups = rows.groupby(["experiment", "strategy"], sort=False)
    found = groups.agg(
        answered=("n", "sum"), failed=("failed", "sum"), missing=("missing", "sum"), points=("key", "count"),
        complete=("complete", "sum"),
    )  # fmt: skip
    return found.reset_index()


def phase_rows(record: Record) -> pd.DataFrame:
    """Phases of a run in order of beginning: columns what, from_s, to_s; "cells" lie from the first to the last."""
    spans: list[tuple[str, float, float]] = [(span.what, span.from_s, span.to_s) for span in record.spans]
    if {FIRST, LAST} <= set(record.moments):
        spans.append(("cells", record.moments[FIRST], record.moments[LAST]))
    found = pd.DataFrame(spans, columns=["what", "from_s", "to_s"])
    return found.sort_values("from_s", kind="stable", ignore_index=True)


def rate_rows(units: Sequence[UnitFile], points: int) -> pd.DataFrame:
    """Samples per second over time, by worker; pauses are cut out.

    Args:
        units: Files of cells, oldest first.
        points: Of the grid.

    Returns:
        worker, minute (of work, from the first file on), per_s (sample equivalents), written (epoch seconds).
    """
    if len(units) < 2:
        return pd.DataFrame({"worker": [], "minute": [], "per_s": [], "written": []})
    table = pd.DataFrame([{"written": u.written, "cells": u.cells, "worker": u.worker or "a worker"} for u in units])
    steps = np.minimum(np.diff(table["written"], prepend=table["written"].iloc[0]), PAUSE_S)
    steps[np.diff(table["written"], prepend=table["written"].iloc[0]) > PAUSE_S] = 0.0
    table["at"] = np.cumsum(steps)
    total = max(float(table["at"].iloc[-1]), 1e-9)
    bins = min(BINS, max(len(units) // 3, 1))
    width = total / bins
    table["bin"] = np.minimum((table["at"] / width).astype(int), bins - 1)
    table = table.iloc[1:]  # the first file's own time of work is not known
    sums = table.groupby(["worker", "bin"]).agg(cells=("cells", "sum"), written=("written", "max")).reset_index()
    grid = pd.MultiIndex.from_product([table["worker"].unique(), range(bins)], names=["worker", "bin"])
    sums = sums.set_index(["worker", "bin"]).reindex(grid).reset_index()
    return pd.DataFrame(
        {
            "worker": sums["worker"], "minute": (sums["bin"] + 0.5) * width / 60,
            "per_s": sums["cells"].fillna(0) / max(points, 1) / width, "written": sums["written"],
        }
    )  # fmt: skip


def worker_rows(units: Sequence[UnitFile]) -> pd.DataFrame:
    """Each worker's part: cells, last answer, memory of its device at most, and how busy that was.

    Returns:
        worker, cells, written (epoch seconds), peak_gib, device_gib, busy (0 to 1, by time of work); NaN: not known.
    """
    names = dict.fromkeys(unit.worker for unit in units if unit.worker)
    rows = []
    for name in names:
        mine = [unit for unit in units if unit.worker == name]
        watched = [unit for unit in mine if unit.busy and unit.seconds]
        seconds = sum(unit.seconds for unit in watched)
        rows.append(
            {
                "worker": name, "cells": sum(unit.cells for unit in mine), "written": mine[-1].written,
                "peak_gib": max(unit.peak_bytes for unit in mine) / 2**30 or np.nan,
                "device_gib": max(unit.device_bytes for unit in mine) / 2**30 or np.nan,
                "busy": sum(unit.busy * unit.seconds for unit in watched) / seconds if seconds else np.nan,
            }
        )  # fmt: skip
    return pd.DataFrame(rows, columns=["worker", "cells", "written", "peak_gib", "device_gib", "busy"])


def _recent_rate(units: Sequence[UnitFile]) -> float:
    """Cells per second over the last part of the work, pauses left out; 0 where nothing is known."""
    if len(units) < 2:
        return 0.0
    first = max(int(len(units) * (1 - RECENT)) - 1, 0)
    part = units[min(first, len(units) - 2) :]
    seconds = sum(
        after.written - before.written for before, after in pairwise(part) if after.written - before.written <= PAUSE_S
    )
    return sum(unit.cells for unit in part[1:]) / seconds if seconds > 0 else 0.0
