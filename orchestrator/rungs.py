"""How every grid point stands at a few fixed numbers of samples: what a scheduler or a live curve looks at; pure.

A rung counts the first n image questions of the benchmark's file, so its numbers do not depend on who answered when. A
sample that failed is passed over. As in `metrics`, questions without an image are left out: nothing is pruned there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from orchestrator.metrics import scores
from orchestrator.significance import wilson
from workers.tasks.base import Sample
from workers.work import GridPoint, SampleOutcome, UnitOutcome

RUNGS = 7  # reports of a trial; each costs Ray Tune some tens of milliseconds

Metrics = dict[str, float | int | None]


def rung_sizes(samples: int, rungs: int = RUNGS) -> tuple[int, ...]:
    """Sample counts from small to all, doubling: 7, 14, 28, ... samples."""
    return tuple(sorted({max(1, -(-samples // 2**step)) for step in range(rungs)})) if samples else (0,)


class Standing:
    """Scores so far, by (grid point, image question)."""

    def __init__(self, points: Sequence[GridPoint], samples: Sequence[Sample]) -> None:
        asked = [sample.id for sample in samples if sample.image is not None]
        self.sizes = rung_sizes(len(asked))
        self._points = {point.key: row for row, point in enumerate(points)}
        self._samples = {name: column for column, name in enumerate(asked)}
        shape = (len(points), len(asked))
        self._answered_PS = np.zeros(shape, dtype=bool)
        self._correct_PS = np.zeros(shape, dtype=bool)
        self._score_PS = np.zeros(shape)
        self._failed_S = np.zeros(len(asked), dtype=bool)
        self._kept_PS = np.zeros(shape, dtype=np.int32)

    def add(self, outcome: UnitOutcome) -> None:
        """Count what an engine has answered."""
        for cell in outcome.outcomes:
            if (column := self._samples.get(cell.sample)) is not None:
                self._set(self._points[cell.point], column, cell)
        for failure in outcome.failures:
            if (column := self._samples.get(failure.sample)) is not None:
                self._failed_S[column] = True

    def add_cells(self, cells: pd.DataFrame) -> None:
        """Count cells from disk (columns point, sample, correct, score, tokens_kept)."""
        rows = cells["point"].map(self._points)
        columns = cells["sample"].map(self._samples)
        known = rows.notna() & columns.notna()
        at = rows[known].astype(int).to_numpy(), columns[known].astype(int).to_numpy()
        self._answered_PS[at] = True
        self._correct_PS[at] = cells["correct"][known].to_numpy(dtype=bool)
        self._score_PS[at] = scores(cells[known])
        self._kept_PS[at] = cells["tokens_kept"][known].to_numpy()

    def reached(self) -> dict[str, list[Metrics]]:
        """Of each point key, the metrics of all rungs reached, smallest first: cumulative over the rung's samples."""
        settled_PS = self._answered_PS | self._failed_S
        total = settled_PS.shape[1]
        prefix_P = np.where(settled_PS.all(axis=1), total, settled_PS.argmin(axis=1)) if total else None
        result: dict[str, list[Metrics]] = {key: [] for key in self._points}
        for size in self.sizes:
            n_P = self._answered_PS[:, :size].sum(axis=1)
            correct_P = self._correct_PS[:, :size].sum(axis=1)
            kept_P = (self._kept_PS[:, :size] * self._answered_PS[:, :size]).sum(axis=1)
            total_P = self._score_PS[:, :size].sum(axis=1)
            interval = wilson(total_P, n_P)  # of soft scores too wide, never too narrow: 0 and 1 vary most
            for key, row in self._points.items():
                if prefix_P is None or prefix_P[row] >= size:
                    n = int(n_P[row])
                    result[key].append(
                        {
                            "samples": size,
                            "n": n,
                            "correct": int(correct_P[row]),
                            "accuracy": total_P[row] / n if n else None,
                            "ci_low": float(interval.low[row]) if n else None,
                            "ci_high": float(interval.high[row]) if n else None,
                            "tokens_kept": kept_P[row] / n if n else None,
                        }
                    )
        return result

    def _set(self, row: int, column: int, cell: SampleOutcome) -> None:
        self._answered_PS[row, column] = True
        self._correct_PS[row, column] = cell.correct
        self._score_PS[row, column] = cell.correct if cell.score is None else cell.score
        self._kept_PS[row, column] = cell.tokens_kept
