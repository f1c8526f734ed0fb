"""How every grid point stands at a few fixed numbers of samples: what a policy or a live curve looks at; pure.

A rung counts the first n image questions in the order in which the sweep asks them, so its numbers do not depend on who
answered when. A sample that failed is passed over. As in `metrics`, questions without an image are left out: nothing is
pruned there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from results.analysis.clusters import clusters_of
from results.analysis.matrix import Matrix
from results.analysis.metrics import scores
from results.analysis.significance import Bools, Floats, Ints, wilson_mean
from workers.tasks.base import Sample
from workers.work import GridPoint, UnitOutcome

RUNGS = 7  # reports of a trial

Metrics = dict[str, float | int | bool | None]
News = list[tuple[str, Metrics]]  # (GridPoint.key, what it reports)


def rung_sizes(samples: int, rungs: int = RUNGS) -> tuple[int, ...]:
    """Sample counts from small to all, doubling: 7, 14, 28, ... samples."""
    return tuple(sorted({max(1, -(-samples // 2**step)) for step in range(rungs)})) if samples else (0,)


class Standing:
    """Scores so far, by (grid point, image question)."""

    def __init__(
        self,
        points: Sequence[GridPoint],
        samples: Sequence[Sample],
        together: bool = False,
        images: Mapping[str, str] | None = None,
    ) -> None:
        """Start without an answer.

        Args:
            points: The grid.
            samples: In the order in which they are asked.
            together: A rung is reached when all points that go on have reached it, so that none is ahead of the policy.
            images: By sample what its image is recognised by; by default each has its own.
        """
        asked = [sample.id for sample in samples if sample.image is not None]
        self.cluster_S: Ints = clusters_of([(images or {}).get(id, "") for id in asked], asked)
        self.sizes = rung_sizes(len(asked))
        self.keys = [point.key for point in points]
        self._points, self._samples = pd.Index(self.keys), pd.Index(asked)
        self._cells = Matrix((len(points), len(asked)), correct=bool, score=float, kept=np.int32)
        self._failed_S: Bools = np.zeros(len(asked), dtype=bool)
        self._together = together
        self._stop_P = np.zeros(len(points), dtype=int)  # samples after which a point was stopped early; 0: it goes on
        self._told_P = np.zeros(len(points), dtype=int)  # reports that `news` has given

    def add(self, outcome: UnitOutcome) -> None:
        """Count what an engine has answered."""
        cells = outcome.outcomes
        self._cells.enter(
            self._points.get_indexer(pd.Index([cell.point for cell in cells])),
            self._samples.get_indexer(pd.Index([cell.sample for cell in cells])),
            correct=[cell.correct for cell in cells],
            score=[cell.correct if cell.score is None else cell.score for cell in cells],
            kept=[cell.tokens_kept for cell in cells],
        )
        self.add_failed(failure.sample for failure in outcome.failures)

    def add_failed(self, samples: Iterable[str]) -> None:
        """Count samples that have no answers because they failed."""
        self._failed_S |= self._samples.isin(list(samples))

    def add_cells(self, cells: pd.DataFrame) -> None:
        """Count cells from disk (columns point, sample, correct, score, tokens_kept)."""
        self._cells.enter(
            self._points.get_indexer(pd.Index(cells["point"])),
            self._samples.get_indexer(pd.Index(cells["sample"])),
            correct=cells["correct"],
            score=scores(cells),
            kept=cells["tokens_kept"],
        )

    def stop(self, stopped: Mapping[str, int]) -> None:
        """Say which points were stopped early, and after how many image questions: their reports end there."""
        for key, samples in stopped.items():
            self._stop_P[self._points.get_loc(key)] = samples

    @property
    def answered_PS(self) -> Bools:
        return self._cells.known_PS

    @property
    def score_PS(self) -> Floats:
        """0 to 1; 0 where not answered."""
        return self._cells.values["score"]

    @property
    def prefix_P(self) -> Ints:
        """(P,) how many of the first image questions are settled: answered by the point, or failed."""
        settled_PS = self.answered_PS | self._failed_S
        total = settled_PS.shape[1]
        if not total:
            return np.zeros(len(self.keys), dtype=int)
        return np.where(settled_PS.all(axis=1), total, settled_PS.argmin(axis=1))

    @property
    def common_prefix(self) -> int:
        """How many of the first image questions are settled for every point that goes on."""
        return int(self.prefix_P[self._stop_P == 0].min(initial=self.answered_PS.shape[1]))

    def news(self) -> News:
        """What the points report since the last call: a row for each rung newly reached, smallest first.

        A row is cumulative over the rung's samples. ``done`` ends a point's reports: ``complete`` at the last rung, or
        ``stopped_early``.
        """
        prefix_P = np.full(len(self.keys), self.common_prefix) if self._together else self.prefix_P
        reached_P = np.searchsorted(np.array(self.sizes), prefix_P, side="right")
        reached_P = np.where(self._stop_P > 0, np.searchsorted(self.sizes, self._stop_P) + 1, reached_P)
        found: News = []
        for told in range(int(self._told_P.min(initial=len(self.sizes))), int(reached_P.max(initial=0))):
            rows = np.flatnonzero((self._told_P <= told) & (told < reached_P))
            ends = (self._stop_P[rows] > 0) & (reached_P[rows] == told + 1)
            for stop in np.unique(self._stop_P[rows[ends]]):
                found += self._reports(rows[ends & (self._stop_P[rows] == stop)], int(stop), stopped=True)
            found += self._reports(rows[~ends], self.sizes[told] if told < len(self.sizes) else 0, stopped=False)
        self._told_P = np.maximum(self._told_P, reached_P)
        return found

    def reports(self) -> dict[str, list[Metrics]]:
        """Of each point all its reports so far, whatever was told before."""
        self._told_P[:] = 0
        result: dict[str, list[Metrics]] = {key: [] for key in self.keys}
        for key, row in self.news():
            result[key].append(row)
        return result

    def _reports(self, rows: Ints, size: int, stopped: bool) -> News:
        """What some points report of their first ``size`` samples."""
        answered = self.answered_PS[rows, :size]
        n = answered.sum(axis=1)
        correct, total, kept = (
            self._cells.values[name][rows, :size].sum(axis=1) for name in ("correct", "score", "kept")
        )
        interval = wilson_mean(self.score_PS[rows, :size], answered, self.cluster_S[:size])
        complete = not stopped and size == self.sizes[-1]
        return [
            (
                self.keys[row],
                {
                    "samples": size,
                    "n": int(n[place]),
                    "correct": int(correct[place]),
                    "accuracy": float(total[place] / n[place]) if n[place] else None,
                    "ci_low": float(interval.low[place]) if n[place] else None,
                    "ci_high": float(interval.high[place]) if n[place] else None,
                    "tokens_kept": float(kept[place] / n[place]) if n[place] else None,
                    "complete": complete,
                    "stopped_early": stopped,
                    "done": complete or stopped,
                },
            )
            for place, row in enumerate(rows.tolist())
        ]
