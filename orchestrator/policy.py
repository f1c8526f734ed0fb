"""Which grid points of a sweep go on, decided on the cells: all of them, or those that racing has not stopped.

Nothing here is state that could be lost. What is stopped follows from the cells on disk, so a resumed run stops the
same points, and a run without ``racing`` computes what they lack. `racing.json` only tells readers what was decided.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from orchestrator.sweep.plan import by_image
from orchestrator.tune.rungs import Standing
from results.analysis.clusters import image_names
from results.analysis.racing import Race, RacingRule, shuffled
from results.experiment import Experiment
from results.stops import Stops, read_stops
from workers.tasks.base import Sample
from workers.work import UNPRUNED, GridPoint, UnitOutcome, WorkUnit


class Policy:
    """Follows a sweep's cells and decides what is still asked."""

    def __init__(
        self,
        rule: RacingRule | None,
        points: Sequence[GridPoint],
        samples: Sequence[Sample],
        seed: int,
        cells: pd.DataFrame,
        failed: Iterable[str] = (),
        images: Sequence[str] = (),
    ) -> None:
        """Start from the cells that exist.

        Args:
            rule: Of racing; None: all points go on.
            points: The grid.
            samples: Of the sweep, in the order of the benchmark's file.
            seed: Of the order in which racing asks them.
            cells: That exist already (columns point, sample, correct, score, tokens_kept).
            failed: Samples that have failed so far.
            images: What each sample's image is recognised by, "" for none; empty: each has its own.
        """
        names = images or [""] * len(samples)
        self.images = {sample.id: name for sample, name in zip(samples, names, strict=True)}  # by sample
        # In the order of asking: questions about an image come one after the other.
        self.samples = by_image(samples, names) if rule is None else shuffled(samples, seed, names)
        self.standing = Standing(points, self.samples, together=rule is not None, images=self.images)
        self.skipped = 0  # cells that `units` was given and left out
        self._rule, self._points = rule, tuple(points)
        baseline = next((row for row, point in enumerate(points) if point.strategy == UNPRUNED), 0)
        questions = self.standing.score_PS.shape[1]
        self._race = None if rule is None else Race(rule, len(points), questions, baseline, self.standing.cluster_S)
        self.stopped: dict[str, int] = {}
        self.standing.add_cells(cells)
        self.standing.add_failed(failed)
        self._decide()

    def add(self, outcome: UnitOutcome) -> tuple[str, ...]:
        """Count answers and decide.

        Returns:
            Labels of the points stopped now.
        """
        self.standing.add(outcome)
        return tuple(point.label for point in self._decide())

    def units(self, planned: Iterable[WorkUnit]) -> Iterator[WorkUnit]:
        """The units of a plan, each without the points that are stopped by the time it is asked for."""
        for unit in planned:
            if not self.stopped:
                yield unit
                continue
            points = tuple(point for point in unit.points if point.key not in self.stopped)
            self.skipped += (len(unit.points) - len(points)) * len(unit.samples)
            if points:
                yield replace(unit, points=points)

    def settled(self, done: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
        """``done``, with the cells that need not be computed as if they were there."""
        stopped = frozenset(self.stopped)
        return {sample.id: done.get(sample.id, frozenset()) | stopped for sample in self.samples}

    def stops(self, done: Mapping[str, frozenset[str]]) -> Stops | None:
        """What was decided, for readers; None without racing.

        Args:
            done: Cells that exist.
        """
        if self._rule is None:
            return None
        saved = sum(len(self.stopped.keys() - done.get(sample.id, frozenset())) for sample in self.samples)
        return Stops(rule=self._rule, stopped=self.stopped, cells=len(self._points) * len(self.samples), saved=saved)

    def _decide(self) -> tuple[GridPoint, ...]:
        found: list[GridPoint] = []
        while self._race is not None:
            standing = self.standing
            new = self._race.decide(standing.score_PS, standing.answered_PS, standing.common_prefix)
            if not new:
                break
            keys = {self._points[row].key: samples for row, samples in new.items()}
            self.stopped |= keys
            self.standing.stop(keys)
            found += [self._points[row] for row in sorted(new)]
        return tuple(found)


def policy_of(experiment: Experiment) -> Policy:
    """As the run of an experiment left it, from its directory alone."""
    frame = experiment.samples
    samples = [
        Sample(id=id, question="", choices=(), label="", image=None if pd.isna(image) else Path(image))
        for id, image in zip(frame["id"], frame["image"], strict=True)
    ]
    stops = read_stops(experiment)
    cells = experiment.cells(["correct", "score", "tokens_kept"])
    failed = experiment.failures()["sample"]
    rule, images = stops.rule if stops else None, image_names(frame)[0]
    return Policy(rule, experiment.points, samples, experiment.spec.seed, cells, failed, images)
