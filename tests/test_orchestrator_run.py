"""Whole sweeps with an engine that needs no model: the same table, whatever happened on the way."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from rich.console import Console

import stub_engine
from fake_experiment import fake_outcome, fake_points, fake_samples
from orchestrator.run import RunOptions, RunResult, plan_and_stops, run_sweep
from orchestrator.sweep.prepare import Prepared, prepare
from orchestrator.sweep.spec import SpecError, load_sweep
from orchestrator.tune.rungs import Standing, rung_sizes
from ray_cluster import local_cluster
from results.analysis.metrics import summary
from results.durations import duration
from results.experiment import Experiment
from workers.work import UnitOutcome, WorkUnit

SWEEP = """
model: embedded
data: embedded
grid:
  - {strategy: cutoff, layer: 2..4}
  - {strategy: [fastv, random], layer: 2, rank: 16}
"""
CELLS = 24 * 6


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    path = tmp_path_factory.mktemp("sweep") / "sweep.yaml"
    path.write_text(SWEEP)
    return replace(prepare(load_sweep(path)), samples=fake_samples(24))  # the stub engines answer these


def run(prepared: Prepared, out: Path, engine: type = stub_engine.StubEngine) -> RunResult:
    return run_sweep(prepared, out, RunOptions(local=True, engine=engine), Console(file=io.StringIO()))


def test_running_again_computes_nothing(prepared, tmp_path):
    first = run(prepared, tmp_path / "x")
    assert (first.computed, first.failed, first.plan.missing) == (CELLS, 0, CELLS)
    assert plan_and_stops(prepared, tmp_path / "x", 1)[0].missing == 0
    again = run(prepared, tmp_path / "x", stub_engine.BrokenModel)  # which is not even built
    assert again.computed == 0
    pd.testing.assert_frame_equal(again.experiment.cells(), first.experiment.cells())


def test_half_of_the_files_deleted_gives_the_same_table(prepared, tmp_path):
    before = run(prepared, tmp_path / "x").experiment
    cells, table = before.cells(), summary(before)
    files = sorted((tmp_path / "x/cells").iterdir())
    assert len(files) >= 4
    for file in files[::2]:
        file.unlink()
    missing = CELLS - len(before.cells())
    again = run(prepared, tmp_path / "x")
    assert again.computed == missing > 0
    pd.testing.assert_frame_equal(again.experiment.cells(), cells)
    pd.testing.assert_frame_equal(summary(again.experiment), table)


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_cells_without_their_masks_are_computed_again(prepared, tmp_path, damage):
    before = run(prepared, tmp_path / "x").experiment
    kept = before.kept()
    masks = min((tmp_path / "x/kept").iterdir())
    lost = pq.read_metadata(masks).num_rows
    if damage == "cut":
        masks.write_bytes(masks.read_bytes()[:-20])
    else:
        masks.unlink()
    plan = plan_and_stops(prepared, tmp_path / "x", 1)[0]
    assert plan.missing == lost
    assert [note.split(": ")[:2] for note in plan.notes] == [[str(masks), "left out"]]
    again = run(prepared, tmp_path / "x")
    assert again.computed == lost
    (warning,) = again.warnings
    assert warning.startswith(f"{masks}: ")
    assert warning.endswith(": set aside, its cells count as missing")
    pd.testing.assert_frame_equal(again.experiment.kept(), kept)
    pd.testing.assert_frame_equal(again.experiment.cells(), before.cells())
    assert plan_and_stops(prepared, tmp_path / "x", 1)[0].missing == 0


def test_more_grid_points_and_more_samples_compute_only_what_is_missing(prepared, tmp_path):
    out = tmp_path / "x"
    small = replace(
        prepared,
        samples=prepared.samples[:10],
        spec=replace(prepared.spec, points=prepared.spec.points[:4]),
        manifest=prepared.manifest.changed(points=prepared.manifest.points[:4]),
    )
    assert run(small, out).computed == 40
    assert plan_and_stops(prepared, out, 1)[0].missing == CELLS - 40
    text = io.StringIO()
    options = RunOptions(local=True, engine=stub_engine.StubEngine)
    grown = run_sweep(prepared, out, options, Console(file=text, width=200))
    assert grown.computed == CELLS - 40
    assert f"cells: 40 of {CELLS} are there already; {CELLS - 40} to be computed, in " in text.getvalue()
    pd.testing.assert_frame_equal(grown.experiment.cells(), run(prepared, tmp_path / "whole").experiment.cells())
    # A smaller sweep on top hides the others' cells, and neither plan nor run forgets them.
    assert run(small, out).computed == 0
    assert len(Experiment.open(out).cells()) == 40
    assert plan_and_stops(prepared, out, 1)[0].missing == 0
    assert run(prepared, out).computed == 0


def test_what_was_answered_before_a_crash_is_kept(prepared, tmp_path):
    class Interrupted(stub_engine.StubEngine):
        left = 3

        def run(self, unit: WorkUnit) -> UnitOutcome:
            Interrupted.left -= 1
            if not Interrupted.left:
                raise KeyboardInterrupt
            return super().run(unit)

    with pytest.raises(KeyboardInterrupt):
        run(prepared, tmp_path / "x", Interrupted)
    have = len(Experiment.open(tmp_path / "x").cells())
    assert 0 < have < CELLS
    assert run(prepared, tmp_path / "x").computed == CELLS - have


def test_progress_without_a_terminal_is_lines(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr("orchestrator.followers.progress.LINE_EVERY_S", 0.0)
    out = io.StringIO()
    options = RunOptions(local=True, engine=stub_engine.StubEngine)
    run_sweep(prepared, tmp_path / "x", options, Console(file=out, width=200))
    lines = out.getvalue().splitlines()
    said = rf"{CELLS} of {CELLS} cells, \S+ samples/s x 6 points, 0 s left"
    assert re.fullmatch(said, lines[-1])
    first = min((tmp_path / "x/cells").glob("*.parquet"))
    lost = pq.read_metadata(first).num_rows
    first.unlink()
    run_sweep(prepared, tmp_path / "x", options, Console(file=out, width=200))
    assert re.fullmatch(
        rf"{CELLS} of {CELLS} cells, \S+ samples/s x 6 points, 0 s left", out.getvalue().splitlines()[-1]
    )
    assert f"{CELLS - lost} of {CELLS} are there already" in out.getvalue()


def test_progress_on_a_terminal_leaves_nothing_behind(prepared, tmp_path):
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    run_sweep(prepared, tmp_path / "x", RunOptions(local=True, engine=stub_engine.StubEngine), console)
    assert "samples/s" in out.getvalue()
    assert out.getvalue().endswith("\x1b[2K")  # the line is erased


def test_a_job_on_a_cluster_needs_a_lasting_place(prepared, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(SpecError, match="give an absolute path"):
        run(prepared, Path("experiments/x"))


def test_rungs_count_the_first_questions_with_an_image_whoever_answered_when():
    points, samples = fake_points()[:2], fake_samples(20)  # two of them without an image
    assert rung_sizes(18) == (1, 2, 3, 5, 9, 18)
    late, early = (WorkUnit(samples=tuple(s.id for s in part), points=points) for part in (samples[8:], samples[:8]))
    standing = Standing(points, samples)
    standing.add(fake_outcome(late))
    assert standing.news() == []
    standing.add(fake_outcome(early))
    for point in points:
        rows = standing.reports()[point.key]
        assert [row["n"] for row in rows] == [1, 2, 3, 5, 9, 18]
        right = [cell.correct for unit in (early, late) for cell in fake_outcome(unit).outcomes
                 if cell.point == point.key and cell.visual_tokens]  # fmt: skip
        assert [row["correct"] for row in rows] == [sum(right[:size]) for size in (1, 2, 3, 5, 9, 18)]


def test_rungs_of_questions_without_an_image_count_nothing():
    points, samples = fake_points()[:2], [sample for sample in fake_samples(20) if sample.image is None]
    standing = Standing(points, samples)
    standing.add(fake_outcome(WorkUnit(samples=tuple(sample.id for sample in samples), points=points)))
    assert [[row["n"] for row in rows] for rows in standing.reports().values()] == [[0], [0]]


def test_durations():
    assert [duration(s) for s in (0.4, 59.4, 200, 7500)] == ["0 s", "59 s", "3 min 20 s", "2 h 05 min"]


@pytest.fixture
def cluster() -> Iterator[None]:
    with local_cluster():
        yield


@pytest.mark.ray
@pytest.mark.system
def test_a_worker_killed_in_the_middle_changes_nothing(prepared, cluster, tmp_path):
    from ray.tune import ExperimentAnalysis

    expected = run(prepared, tmp_path / "local").experiment
    out = io.StringIO()
    options = RunOptions(workers=2, engine="stub_engine:KilledOnce")
    result = run_sweep(prepared, tmp_path / "ray", options, Console(file=out, width=200))
    assert (result.computed, result.failed, result.warnings) == (CELLS, 0, ())
    assert "a worker was lost" in out.getvalue()
    pd.testing.assert_frame_equal(result.experiment.cells(), expected.cells())
    pd.testing.assert_frame_equal(summary(result.experiment), summary(expected))
    trials = ExperimentAnalysis(str(tmp_path / "ray")).dataframe().set_index("config/key")
    table = summary(expected).set_index("key")
    assert trials["accuracy"].sub(table["accuracy"]).abs().max() < 1e-12
    broken = RunOptions(workers=2, engine="stub_engine:BrokenModel")  # which is not even built
    assert run_sweep(prepared, tmp_path / "ray", broken, Console(file=out)).computed == 0
