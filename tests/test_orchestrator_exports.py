"""The promised files: the layer cut-off JSON has the original's keys and types, and numbers that agree."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from answer_matrix import MISSING, write_matrix
from dashboards.plots import stem
from dashboards.rows import slices
from fake_experiment import fake_points, write_fake_experiment
from results.analysis.metrics import answers, summary
from results.exchange.exports import layer_cutoff, write_exports
from workers.work import GridPoint, unpruned_point

# Keys and types of HiMAP's src/HiMAP/analysis/fastv_layer_cutoff_results.json at 7b0b71f, in its order.
ORIGINAL_TYPES = {
    "layers": [int],
    "accuracies": [float],
    "correct_counts": [int],
    "total_samples": int,
    "baseline_acc": float,
    "baseline_correct": int,
}
BASE = unpruned_point(4, 64)
SCAN = tuple(GridPoint(strategy="cutoff", layer=layer, rank=0) for layer in (2, 3, 4))


def types(content: dict) -> dict:
    return {
        name: [type(value[0])] if isinstance(value, list) else type(value) for name, value in content.items()
    }  # fmt: skip


def test_json_has_the_keys_and_types_of_the_original_file(tmp_path: Path) -> None:
    experiment = write_fake_experiment(tmp_path / "e", samples=40)
    written = write_exports(experiment)
    path = experiment.path / "exports" / "fastv_layer_cutoff_results.json"
    assert path in written
    content = json.loads(path.read_text())
    assert types(content) == ORIGINAL_TYPES
    assert list(content) == list(ORIGINAL_TYPES)
    assert content["layers"] == [2, 3, 4, 5, 6, 7, 8]
    assert content["total_samples"] == 36  # four of forty have no image
    assert content["accuracies"] == [count / 36 for count in content["correct_counts"]]
    assert content["baseline_acc"] == content["baseline_correct"] / 36
    rows = summary(experiment)
    assert content["correct_counts"] == rows[rows["strategy"] == "cutoff"]["correct"].tolist()
    assert content["baseline_correct"] == rows["correct"][0]
    assert not list(path.parent.glob(".*"))  # no temporary file is left


def test_layers_that_lag_behind_are_left_out_and_all_numbers_are_over_the_same_samples(tmp_path: Path) -> None:
    right = np.array(
        [
            [1, 1, 1, 0, MISSING, 1],
            [1, 0, 1, 0, MISSING, MISSING],  # s5 failed here
            [1, 1, MISSING, MISSING, MISSING, 1],
            [0, 1, 1, 0, MISSING, 1],
        ]
    )
    experiment = write_matrix(tmp_path / "e", (BASE, *SCAN), right, failed=(5,))
    assert layer_cutoff(answers(experiment)) == {
        "layers": [2, 4],
        "accuracies": [0.5, 0.5],
        "correct_counts": [2, 2],
        "total_samples": 4,
        "baseline_acc": 0.75,
        "baseline_correct": 3,
    }


def test_the_scan_is_one_by_whichever_name(tmp_path: Path) -> None:
    """VTW is the layer cut-off by the name of the field's tables, and is shown under it."""
    files = {}
    for name in ("cutoff", "vtw"):
        scan = tuple(GridPoint(strategy=name, layer=layer, rank=0) for layer in (2, 3, 4))
        experiment = write_matrix(tmp_path / name, (BASE, *scan), np.array([[1, 1], [0, 1], [1, 0], [1, 1]]))
        files[name] = layer_cutoff(answers(experiment))
        (part,) = slices(summary(experiment), "layer")
        assert stem(part) == "fastv_layer_cutoff_plot"
        assert set(part.rows["strategy"]) == {name}
    assert files["vtw"] == files["cutoff"] is not None


def test_the_originals_kept_position_ids_and_so_do_the_points_of_their_files(tmp_path: Path) -> None:
    renumbered = tuple(replace(point, positions="compact") for point in SCAN)
    right = np.array([[1, 1, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0], [1, 1, 1], [1, 1, 1], [1, 1, 1]])
    experiment = write_matrix(tmp_path / "e", (BASE, *renumbered, *SCAN), right)
    found = layer_cutoff(answers(experiment))
    assert found is not None
    assert found["accuracies"] == [1.0, 1.0, 1.0]


def test_no_json_without_two_layers_or_without_answers(tmp_path: Path) -> None:
    one = write_matrix(tmp_path / "one", (BASE, SCAN[0]), np.ones((2, 3), dtype=int))
    assert layer_cutoff(answers(one)) is None
    none = write_matrix(tmp_path / "none", (BASE, *SCAN), np.full((4, 3), MISSING))
    assert layer_cutoff(answers(none)) is None
    assert [path.name for path in write_exports(none)] == ["summary.csv"]


def test_summary_csv_holds_the_summary(tmp_path: Path) -> None:
    experiment = write_fake_experiment(tmp_path / "e", samples=30)
    write_exports(experiment)
    table = pd.read_csv(experiment.path / "exports" / "summary.csv")
    expected = summary(experiment)
    assert table.columns.tolist() == expected.columns.tolist()
    assert len(table) == len(fake_points())
    np.testing.assert_array_max_ulp(
        table["accuracy"], expected["accuracy"], maxulp=1
    )  # every digit; pandas 3.0 reads one off
    assert table["lost"].isna().tolist() == [True] + [False] * (len(table) - 1)
