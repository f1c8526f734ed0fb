"""Cells of a finished sweep once more by transformers alone: true ones pass, forged and stale ones are found."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from rich.console import Console
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.recompute import found_with, recompute
from orchestrator.run import RunOptions, run_sweep
from orchestrator.sweep.prepare import prepare
from orchestrator.sweep.spec import load_sweep
from results.experiment import Experiment, StoreError
from results.tables import CELLS, KEPT, read_whole, write_table

SWEEP = """
model: {{path: {model}, dtype: float32}}
data: {data}
task: scienceqa
max_new_tokens: 3
grid:
  - {{strategy: cutoff, layer: [1]}}
  - {{strategy: fastv, layer: 1, rank: [3, 8]}}
  - {{strategy: random, layer: 1, rank: [3, 8], positions: compact}}
  - {{strategy: l2_norm, layer: 0, rank: 6, positions: keep}}
  - {{strategy: random_per_image, layer: 0, rank: 6}}
"""


@pytest.fixture(scope="module")
def computed(tmp_path_factory, small_checkpoint, small_scienceqa) -> Path:
    root = tmp_path_factory.mktemp("recompute")
    (root / "sweep.yaml").write_text(SWEEP.format(model=small_checkpoint, data=small_scienceqa))
    prepared = prepare(load_sweep(root / "sweep.yaml"))
    run_sweep(prepared, root / "x", RunOptions(local=True, pictures=0), Console(file=io.StringIO()))
    return root / "x"


@pytest.fixture
def copied(computed, tmp_path) -> Path:
    return Path(shutil.copytree(computed, tmp_path / "x"))


def rewrite(experiment: Path, folder: str, schema, change) -> None:
    """Forge one file as somebody would who knows the format: it is as whole as it was."""
    file = max((experiment / folder).iterdir(), key=lambda path: path.stat().st_size)
    table = read_whole(file, schema, seals=True)
    frame = table.to_pandas()
    change(frame)
    write_table(file, pa.Table.from_pandas(frame, schema=table.schema, preserve_index=False))


def test_true_cells_are_what_transformers_answers(computed):
    """Every cell of six questions, one of them without an image, and eight points."""
    experiment = Experiment.open(computed)
    found = recompute(experiment, 10_000, seed=0)
    assert (found.drawn, found.cells) == (48, 48)
    assert (found.wrong, found.other_choices, found.near_ties) == ((), (), 0)
    (finding,) = found.findings()
    assert finding.well
    assert "48 of 48 cells" in finding.text
    assert "was 100.0\u00a0%" in finding.text


def forge_verdicts(frame: pd.DataFrame) -> None:
    frame["correct"] = ~frame["correct"]
    frame["score"] = 1 - frame["score"]


def forge_logits(frame: pd.DataFrame) -> None:
    frame["option_logits"] = [np.asarray(one) + 0.5 for one in frame["option_logits"]]


def forge_answers(frame: pd.DataFrame) -> None:
    frame["answer"], frame["correct"], frame["score"] = "nonsense", False, 0.0


def forge_masks(frame: pd.DataFrame) -> None:
    pruned = [mask != b"\xff\xff" and any(mask or b"") for mask in frame["kept_mask"]]
    frame.loc[pruned, "kept_mask"] = [bytes(255 - byte for byte in mask) for mask in frame.loc[pruned, "kept_mask"]]


@pytest.mark.parametrize(
    ("folder", "schema", "forge", "words"),
    [
        ("cells", CELLS, forge_verdicts, "is judged"),
        ("cells", CELLS, forge_logits, "a first-token logit is off by 0.5"),
        ("cells", CELLS, forge_answers, "the answer is 'nonsense', computed"),
        ("kept", KEPT, forge_masks, "kept tokens differ (allowed: 1)"),
    ],
)
def test_forged_cells_are_found(copied, folder, schema, forge, words):
    rewrite(copied, folder, schema, forge)
    found = recompute(Experiment.open(copied), 42, seed=1)
    lines = found.wrong + found.other_choices
    assert lines
    assert any(words in line for line in lines)
    assert not any(finding.well for finding in found.findings())


def test_random_draws_that_an_earlier_version_called_fastv_are_left_aside_and_named(computed):
    experiment = Experiment.open(computed)
    experiment.points = tuple(replace(p, layer=0) if p.strategy == "fastv" else p for p in experiment.points)
    found = recompute(experiment, 10_000, seed=0)
    assert (found.drawn, found.cells, found.refused) == (36, 36, ("fastv layer=0 rank=3", "fastv layer=0 rank=8"))
    assert any("not checked: fastv layer=0 rank=3 and 1 others" in finding.text for finding in found.findings())


def test_cells_of_another_model_are_not_compared_but_refused(copied, small_checkpoint, tmp_path):
    other = Path(shutil.copytree(small_checkpoint, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    config["text_config"]["rope_theta"] = 5.0
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(StoreError, match=r"model .*other: is not what the cells of .* give the right one with --model"):
        recompute(Experiment.open(copied), 3, model=str(other))


def test_the_command_says_what_it_drew_and_with_what_chance_it_finds(computed, copied):
    runner = CliRunner()
    good = runner.invoke(app, ["verify", str(computed), "--recompute", "5", "--seed", "7"])
    assert good.exit_code == 0, good.output
    assert "5 of 5 cells drawn at random (--seed 7) are what transformers answers" in good.output
    assert "if 1 of the 48 cells were forged or stale, the chance to draw one of them was 10.4\u00a0%" in good.output
    rewrite(copied, "cells", CELLS, forge_answers)
    bad = runner.invoke(app, ["verify", str(copied), "--recompute", "42"])
    assert bad.exit_code == 2
    assert "question" in bad.output


def test_the_printed_probability_is_counted_right():
    for cells, forged, drawn in ((6, 2, 3), (7, 1, 2), (5, 5, 1), (6, 3, 4)):
        draws = list(combinations(range(cells), drawn))
        share = sum(any(one < forged for one in draw) for draw in draws) / len(draws)
        assert found_with(drawn, cells, forged) == pytest.approx(share)
