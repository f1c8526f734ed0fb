"""The files an experiment promises besides its cells: tables as CSV, and the JSON files of the user's documents.

    summary.csv          one row per grid point: accuracy, comparison with the un-pruned model, cost
    task_metrics.csv     the benchmark's own figures, such as POPE's F1 or MME's acc+
    measures.csv         what was measured on the forward, mean per grid point
    token_quality.csv    do the kept tokens hold the answer?
    agreement.csv        do two methods keep the same tokens? (Jaccard)
    rescued.csv          what each method gets right where a control is wrong, see `results.analysis.rescue`
    ablation_summary.csv   the runs of an ablation side by side
    *.json               the originals' schemas, see `originals.py`; each with a sidecar, NAME.provenance.json

Source of the layer cut-off's schema: HiMAP's ``fastv_layer_cutoff_results.json`` (semantics 5.1).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypedDict

import pandas as pd

from results.analysis.costs import costs
from results.analysis.kept_quality import agreement, kept_masks, overlap
from results.analysis.matrix import Answers
from results.analysis.measured import measure_summary
from results.analysis.metrics import answers, summarise
from results.analysis.rescue import CONTROLS, controls_of, rescue
from results.analysis.task_metrics import task_metrics
from results.disk import make_folder, write_whole
from results.escaping import csv_text
from results.exchange.originals import Found, PromisedFile, ablation_table, accuracies, promised_files
from results.experiment import Experiment
from results.latencies import latencies
from strategies.listed import KEEP_NOTHING

LAYER_CUTOFF_FILE = "fastv_layer_cutoff_results.json"


class LayerCutoff(TypedDict):
    """Accuracy of the model that sees no image from a layer on, by that layer."""

    layers: list[int]
    accuracies: list[float]  # 0 to 1: mean scores
    correct_counts: list[int]  # scores of at least half
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
        if point.strategy in KEEP_NOTHING and point.positions is None
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
    rows = [images.baseline, *finished.values()]
    baseline_acc, *shares = accuracies(images, rows, shared)
    baseline, *counts = (int(images.correct_PS[row, shared].sum()) for row in rows)
    return LayerCutoff(
        layers=list(finished),
        accuracies=shares,
        correct_counts=counts,
        total_samples=total,
        baseline_acc=baseline_acc,
        baseline_correct=baseline,
    )


def full_summary(experiment: Experiment) -> pd.DataFrame:
    """`metrics.summary`, with the columns of `costs.costs` where the cost is known."""
    return _with_costs(summarise(answers(experiment)), costs(experiment))


def original_files(experiment: Experiment) -> list[PromisedFile]:
    """The files of the user's documents that the grid of this experiment gives, apart from the layer cut-off."""
    return promised_files(
        Found(
            answers=answers(experiment).of_images(True),
            measures=measure_summary(experiment),
            costs=costs(experiment),
            latency=latencies(experiment),
            layers=experiment.config.layers,
            visual_tokens=experiment.config.visual_tokens,
        )
    )


def write_exports(experiment: Experiment) -> list[Path]:
    """Write EXPERIMENT/exports/.

    Returns:
        The files written: summary.csv always, the others where the experiment has what they tell. Sidecars and the many
        single runs of an ablation are written too, but not listed.
    """
    folder = experiment.path / "exports"
    make_folder(folder, below=experiment.path)
    table = answers(experiment)
    rows = full_summary(experiment)
    written = [_csv(folder / "summary.csv", rows)]
    if len(figures := task_metrics(experiment)):
        written.append(_csv(folder / "task_metrics.csv", figures.drop(columns="text")))
    measured = measure_summary(experiment)
    if len(measured):
        written.append(_csv(folder / "measures.csv", measured))
    masks = kept_masks(experiment)
    if masks is not None:
        written.append(_csv(folder / "token_quality.csv", overlap(masks)))
        if len(alike := agreement(masks)):
            written.append(_csv(folder / "agreement.csv", alike))
    if (control := next(iter(controls_of(experiment.points)), "")) in CONTROLS:
        written.append(_csv(folder / "rescued.csv", rescue(table, control)))
    if (runs := ablation_table(rows, experiment.points)) is not None:
        written.append(_csv(folder / "ablation_summary.csv", runs))
    if (scan := layer_cutoff(table)) is not None:
        written.append(_json(folder / LAYER_CUTOFF_FILE, dict(scan)))
    for file in original_files(experiment):
        make_folder((folder / file.name).parent, below=experiment.path)
        path = _json(folder / file.name, file.content)
        if file.provenance:
            known = {**file.provenance, "experiment": experiment.name, "context": experiment.manifest.context_parts}
            _json(path.with_suffix(".provenance.json"), {**known, "versions": experiment.manifest.versions})
            written.append(path)
    return written


def _with_costs(rows: pd.DataFrame, counted: pd.DataFrame | None) -> pd.DataFrame:
    return rows if counted is None else rows.merge(counted, on="key", how="left", validate="one_to_one")


def _csv(path: Path, table: pd.DataFrame) -> Path:
    # A byte-order mark, because spreadsheets otherwise take UTF-8 for Latin-1.
    write_whole(path, csv_text(table).encode("utf-8-sig"))
    return path


def _json(path: Path, content: dict[str, Any]) -> Path:
    write_whole(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
    return path
