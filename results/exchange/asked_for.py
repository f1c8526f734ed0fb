"""What every export of cells is asked for, and gives: said once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from results.disk import StoreError, make_folder
from results.exchange.point_names import is_chosen, names_of
from results.experiment import Experiment
from workers.work import GridPoint


class Export(Protocol):
    """Files that somebody else reads, of an experiment's cells."""

    def __call__(self, experiment: Experiment, folder: Path, patterns: Sequence[str] = ()) -> list[Path]:
        """Write them.

        Args:
            experiment: What to write.
            folder: Made where it is missing.
            patterns: Only grid points of one of these names (`point_names`); none: all.

        Returns:
            The files, in the order of the grid.

        Raises:
            StoreError: No grid point has answers, or none matches; or what the export itself says.
        """


def points_asked_for(experiment: Experiment, patterns: Sequence[str]) -> dict[str, GridPoint]:
    """By their keys, in the order of the grid."""
    return {point.key: point for point in experiment.points if is_chosen(names_of(point), patterns)}


def made_for(experiment: Experiment, folder: Path) -> Path:
    """A folder for an export; one inside the experiment is not made where that has gone."""
    make_folder(folder, below=experiment.path if folder.is_relative_to(experiment.path) else folder)
    return folder


def nothing_of(experiment: Experiment, patterns: Sequence[str]) -> StoreError:
    """That there is nothing to write."""
    missing = f"with answers matches {', '.join(patterns)}" if patterns else "has an answer"
    return StoreError(f"{experiment.path}: nothing to export: no grid point {missing}")
