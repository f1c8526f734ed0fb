"""An experiment in Python: its table, its cells, kept tokens, flipped answers and figures."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from strategies.errors import UsageError
from strategies.suggestion import near
from workers.work import UNPRUNED

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from PIL.Image import Image

    from dashboards.figures import Figure
    from results.experiment import Experiment as Stored
    from workers.work import GridPoint


class Experiment:
    """An experiment directory, read when it is asked for: a sweep that runs meanwhile shows its newest cells."""

    def __init__(self, stored: Stored) -> None:
        """Take one that is open; use `saccade.open`."""
        self._stored = stored

    def __repr__(self) -> str:
        return f"<Experiment {self.name}: {len(self._stored.points)} grid points in {self.path}>"

    @property
    def name(self) -> str:
        """The sweep's."""
        return self._stored.name

    @property
    def path(self) -> Path:
        """The directory; of a bucket its working copy."""
        return self._stored.path

    @property
    def samples(self) -> pd.DataFrame:
        """The questions, one a row, in the order of the benchmark's file."""
        return self._stored.samples

    @property
    def failures(self) -> pd.DataFrame:
        """Samples without an answer, and why."""
        return self._stored.failures()

    @property
    def points(self) -> pd.DataFrame:
        """The grid, one point a row: point (its key), strategy, layer, rank, every parameter by its name, label.

        A parameter that a strategy does not have is missing.
        """
        from results.exchange.tidy import tidy_points

        return tidy_points(self._stored)

    def table(self) -> pd.DataFrame:
        """One row a grid point, in the order of the grid: accuracy, its interval, the paired difference, and so on.

        Columns: see `results.analysis.metrics.summarise`.
        """
        from results.analysis.metrics import summary

        return summary(self._stored)

    def cells(self, **chosen: Any) -> pd.DataFrame:
        """The cells, tidy: one row a grid point and sample, with what the point is and what the model answered.

        Args:
            chosen: only of grid points with these values, each one or several: ``strategy="fastv", rank=[64, 128]``.

        Returns:
            Columns of `points`, and sample, answer, parsed, correct, score (0 to 1), margin, tokens_kept,
            visual_tokens and the rest of what a cell holds.
        """
        from results.exchange.tidy import tidy_cells

        return tidy_cells(self._stored, self._chosen(chosen)["point"])

    def mask(self, sample: str, **chosen: Any) -> np.ndarray:
        """Which visual tokens of a sample a grid point keeps.

        Args:
            sample: its id.
            chosen: what tells the point: ``strategy="fastv", layer=2, rank=64``.

        Returns:
            (V,) bool, in the order of the decoder; V = 0 where the sample has no image.

        Raises:
            UsageError: no grid point is like this, or several; or there is no such cell.
        """
        from results.tables import unpacked

        point = self._one(chosen)
        kept = self._stored.kept(points=[point.key], samples=[sample])
        if kept.empty:
            raise UsageError(f"there is no cell of sample '{sample}' at {point.label}")
        row = kept.iloc[0]
        return unpacked(row["kept_mask"], int(row["visual_tokens"]))

    def picture(self, sample: str, **chosen: Any) -> Image:
        """A sample's image as the model saw it, with the patches faded that a grid point drops.

        Args:
            sample: its id.
            chosen: what tells the point, as for `mask`.

        Raises:
            UsageError: as for `mask`; or the run recorded no picture of it (see ``pictures`` of `saccade.run`).
        """
        from dashboards.kept_picture import kept_picture

        return kept_picture(self._stored, sample, self._one(chosen))

    def flips(self, a: dict[str, Any], b: dict[str, Any] | None = None) -> pd.DataFrame:
        """The questions of which two grid points get one right and the other wrong.

        Args:
            a: what tells the one, ``{"strategy": "fastv", "layer": 2, "rank": 64}``.
            b: the other; by default the un-pruned model.

        Returns:
            Columns sample, question, label, answer_a, answer_b, right ("a" or "b").

        Raises:
            UsageError: no grid point is like one of these, or several.
        """
        one, other = (self._right(self._one(chosen)) for chosen in (a, b or {"strategy": UNPRUNED}))
        both = one.merge(other, on="sample", suffixes=("_a", "_b"))
        both = both[both["right_a"] != both["right_b"]]
        both = both.assign(right=both["right_a"].map({True: "a", False: "b"}))
        questions = self.samples[["id", "question", "label"]].rename(columns={"id": "sample"})
        found = questions.merge(both, on="sample")
        return found[["sample", "question", "label", "answer_a", "answer_b", "right"]]

    def figure(self, name: str, panel: str | None = None, **choices: Any) -> Figure:
        """A figure of the dashboard, of plotly.

        Args:
            name: of its page: "layer", "tokens", "heat", "alpha", "pareto", ...
            panel: where the page has several; by default the first.
            choices: filters and settings as the page's address has them: ``strategy=["fastv", "random"], kept=64``.

        Raises:
            UsageError: there is no such page or panel, or nothing to show on it.
        """
        from dashboards.chosen_panel import chosen_panel

        values = {key: [str(one) for one in _several(value)] for key, value in choices.items()}
        figure = chosen_panel(self.path, name, panel, values)[0].figure
        assert figure is not None
        return figure

    def compare(self, *others: Experiment | str | Path, reference: str | None = None) -> pd.DataFrame:
        """Its grid points beside those of other experiments, paired over the questions that all have answered.

        Args:
            others: experiments of the same benchmark, or where they are.
            reference: name of the grid points that others are held against; by default the un-pruned model.

        Returns:
            Columns: see `results.exchange.compare`.
        """
        from results.exchange.compare import compare

        beside = [other if isinstance(other, Experiment) else open(other) for other in others]
        return compare([self.path, *(other.path for other in beside)], reference=reference).rows

    def _chosen(self, chosen: dict[str, Any]) -> pd.DataFrame:
        points = self.points
        for name, value in chosen.items():
            if name not in points.columns:
                known = ", ".join(points.columns)
                raise UsageError(f"{name}: no grid point has such a value{near(name, list(points.columns))} ({known})")
            points = points[points[name].isin(list(_several(value)))]
        if points.empty:
            raise UsageError(f"no grid point has {_text(chosen)}; `points` lists them")
        return points

    def _one(self, chosen: dict[str, Any]) -> GridPoint:
        points = self._chosen(chosen)
        if len(points) > 1:
            some = ", ".join(points["label"].head(3))
            raise UsageError(f"{len(points)} grid points have {_text(chosen)} ({some}, ...); say more of the one")
        key = points["point"].iloc[0]
        return next(point for point in self._stored.points if point.key == key)

    def _right(self, point: GridPoint) -> pd.DataFrame:
        """Columns sample, answer, right, of one grid point."""
        from results.analysis.metrics import scores

        cells = self._stored.cells(points=[point.key])
        return cells.assign(right=scores(cells) >= 0.5)[["sample", "answer", "right"]]


def open(place: str | Path) -> Experiment:
    """Open an experiment for reading.

    Args:
        place: directory, or URI of a bucket, whose files are fetched.

    Raises:
        strategies.errors.SaccadeError: it is not an experiment, or cannot be read.
    """
    from results.location import opened

    with opened(Path(place)) as stored:
        return Experiment(stored)


def _several(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list | tuple | set | range) else (value,)


def _text(chosen: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in chosen.items()) or "anything"
