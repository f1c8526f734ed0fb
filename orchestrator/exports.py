"""The files an experiment promises besides its cells: the layer cut-off JSON, and the summary as CSV.

Source of the JSON's schema: HiMAP's ``fastv_layer_cutoff_results.json`` (semantics 5.1). It is kept exact; what else is
known stands in summary.csv and sweep.yaml beside it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypedDict

from orchestrator.metrics import Answers, answers, summarise
from orchestrator.store import Experiment, write_whole

CUTOFF = "cutoff"  # the strategy that keeps nothing
LAYER_CUTOFF_FILE = "fastv_layer_cutoff_results.json"


class LayerCutoff(TypedDict):
    """Accuracy of the model that sees no image from a layer on, by that layer."""

    layers: list[int]
    accuracies: list[float]  # 0 to 1
    correct_counts: list[int]
    total_samples: int
    baseline_acc: float
    baseline_correct: int


def layer_cutoff(table: Answers) -> LayerCutoff | None:
    """The layer cut-off scan in the original's shape, or None where the grid has no such scan or it has not begun.

    The original has one sample count for all layers. So a layer counts as soon as it has as many answers as the
    un-pruned model, and all numbers are over the image questions that the model and every such layer have answered.
    """
    images = table.of_images(True)
    if images.baseline is None or not images.answered_PS[images.baseline].any():
        return None
    answered = images.answered_PS[images.baseline]
    scan = {
        point.layer: row
        for row, point in reversed(list(enumerate(images.points)))  # the first of equal layers stays
        if point.strategy == CUTOFF
    }
    finished = {
        layer: row for layer, row in sorted(scan.items()) if (images.answered_PS[row] | images.failed_S)[answered].all()
    }
    if len(finished) < 2:
        return None
    shared = answered & images.answered_PS[list(finished.values())].all(axis=0)
    total = int(shared.sum())
    if not total:
        return None
    counts = [int(images.correct_PS[row, shared].sum()) for row in finished.values()]
    baseline = int(images.correct_PS[images.baseline, shared].sum())
    return LayerCutoff(
        layers=list(finished),
        accuracies=[count / total for count in counts],
        correct_counts=counts,
        total_samples=total,
        baseline_acc=baseline / total,
        baseline_correct=baseline,
    )


def write_exports(experiment: Experiment) -> list[Path]:
    """Write EXPERIMENT/exports/.

    Returns:
        The files written: summary.csv always, the layer cut-off JSON where the grid holds that scan.
    """
    folder = experiment.path / "exports"
    folder.mkdir(exist_ok=True)
    table = answers(experiment)
    written = [folder / "summary.csv"]
    # A byte-order mark, because spreadsheets otherwise take UTF-8 for Latin-1.
    write_whole(written[0], summarise(table).to_csv(index=False, lineterminator="\n").encode("utf-8-sig"))
    if (scan := layer_cutoff(table)) is not None:
        written.append(folder / LAYER_CUTOFF_FILE)
        write_whole(written[1], (json.dumps(scan, indent=2) + "\n").encode())
    return written
