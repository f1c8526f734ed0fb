"""Cells as a tidy table: a row a grid point and sample, with what the point is and what the model answered."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import pandas as pd

from results.analysis.metrics import scores
from results.disk import StoreError, make_folder, write_whole
from results.escaping import csv_text
from results.exchange.point_names import is_chosen, names_of
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

    Args:
        experiment: What to write.
        folder: Made where it is missing.
        patterns: Only grid points of one of these names (`point_names`); none: all.

    Raises:
        StoreError: No grid point has answers, or none matches.
    """
    chosen = [point.key for point in experiment.points if is_chosen(names_of(point), patterns)]
    rows = tidy_cells(experiment, chosen)
    if rows.empty:
        raise StoreError(f"{experiment.path}: nothing to export: no grid point asked for has an answer")
    labels = experiment.samples.set_index("id")["label"]
    rows.insert(list(rows.columns).index("answer"), "right_answer", rows["sample"].map(labels))
    make_folder(folder, below=experiment.path if folder.is_relative_to(experiment.path) else folder)
    file = folder / "cells.csv"
    # A byte-order mark, because spreadsheets otherwise take UTF-8 for Latin-1.
    write_whole(file, csv_text(rows.drop(columns="option_logits")).encode("utf-8-sig"))
    return [file]
