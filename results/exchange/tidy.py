"""Cells as a tidy table: a row a grid point and sample, with what the point is and what the model answered."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import pandas as pd

from results.analysis.metrics import scores
from results.disk import write_whole
from results.escaping import csv_text
from results.exchange.asked_for import made_for, nothing_of, points_asked_for
from results.experiment import Experiment


def tidy_points(experiment: Experiment) -> pd.DataFrame:
    """The grid, a row a point: point (its key), strategy, layer, rank, every parameter by its name, label.

    A parameter that a strategy does not have is missing.
    """
    return pd.DataFrame(
        [
            {"point": point.key, "strategy": point.strategy, "layer": point.layer, "rank": point.rank}
            | dict(point.settings)
            | {"label": point.label}
            for point in experiment.points
        ]
    )


def tidy_cells(experiment: Experiment, points: Collection[str] | None = None) -> pd.DataFrame:
    """The cells of some points (keys; None: all), ordered by point, then by sample, as grid and benchmark have them.

    Columns are those of `tidy_points` and of a cell, and score, which is never missing.
    """
    grid = tidy_points(experiment)
    if points is not None:
        grid = grid[grid["point"].isin(list(points))]
    cells = experiment.cells(points=list(grid["point"]))
    return grid.merge(cells.assign(score=scores(cells)), on="point", how="inner")


def write_tidy(experiment: Experiment, folder: Path, patterns: Sequence[str] = ()) -> list[Path]:
    """Write `tidy_cells` as cells.csv, beside each question's right answer.

    As `asked_for.Export`.
    """
    rows = tidy_cells(experiment, points_asked_for(experiment, patterns).keys())
    if rows.empty:
        raise nothing_of(experiment, patterns)
    labels = experiment.samples.set_index("id")["label"]
    rows.insert(list(rows.columns).index("answer"), "right_answer", rows["sample"].map(labels))
    file = made_for(experiment, folder) / "cells.csv"
    # A byte-order mark, because spreadsheets otherwise take UTF-8 for Latin-1.
    write_whole(file, csv_text(rows.drop(columns="option_logits")).encode("utf-8-sig"))
    return [file]
