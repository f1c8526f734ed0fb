"""Ray Tune's view: one trial per grid point, telling what the cells tell."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_experiment import fake_manifest, fake_outcome, fake_points, fake_samples
from orchestrator.metrics import summary
from orchestrator.rungs import Standing
from orchestrator.store import Experiment
from orchestrator.tune_store import TuneMirror, remove_trials, trial_config, trial_name
from ray_cluster import local_cluster
from workers.work import GridPoint, UnitOutcome, WorkUnit, baseline_point

SAMPLES = 40


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with local_cluster():
        yield


def follow(
    folder: Path, points: tuple[GridPoint, ...], until: int, finish: bool = True
) -> tuple[Experiment, str | None]:
    """Feed shards of ten samples up to ``until``."""
    samples = fake_samples(SAMPLES)
    experiment = Experiment.create(folder, fake_manifest(points), samples)
    standing = Standing(points, samples)
    standing.add_cells(experiment.cells(["correct", "tokens_kept"]))
    mirror = TuneMirror(experiment, standing.sizes)
    mirror.start(standing.reached())
    for first in range(0, until, 10):
        unit = WorkUnit(samples=tuple(f"s{place}" for place in range(first, first + 10)), points=points)
        outcome: UnitOutcome = fake_outcome(unit)
        experiment.write(unit, outcome)
        standing.add(outcome)
        mirror.publish(standing.reached())
        time.sleep(0.3)
    if finish:
        warning = mirror.finish()
        assert mirror.is_complete(standing.reached())
        return experiment, warning
    mirror.abandon()
    assert not mirror.is_complete(standing.reached())
    return experiment, None


@pytest.mark.ray
def test_broken_off_then_grown_the_trials_tell_the_final_accuracies(cluster: None, tmp_path: Path):
    from ray.tune import ExperimentAnalysis

    folder = tmp_path / "experiment"
    points = fake_points()
    follow(folder, points[:6], until=20, finish=False)
    experiment, warning = follow(folder, points, until=SAMPLES)  # two more strategies, all samples
    assert warning is None
    frame = ExperimentAnalysis(str(folder)).dataframe().set_index("config/point/key")
    assert sorted(frame.index) == sorted(point.key for point in points)
    assert frame["complete"].all()
    expected = summary(experiment).set_index("key")
    for name in ("accuracy", "ci_low", "ci_high", "n", "correct"):
        assert frame[name].sub(expected[name]).abs().max() < 1e-12, name
    assert len(experiment.cells()) == SAMPLES * len(points)  # trials are removed and told again, cells are not


@pytest.mark.parametrize(
    ("point", "name"),
    [
        (baseline_point(32, 576), "unpruned"),
        (GridPoint(strategy="fastv", layer=2, rank=128), "fastv_2_128"),
        (
            GridPoint(strategy="x", layer=2, rank=8, params=(("alpha", 0.5), ("mode", "a/b"))),
            "x_2_8_alpha=0.5_mode=a-b",
        ),
    ],
)
def test_trials_have_names_to_read_and_to_use_as_directories(point, name):
    assert trial_name(trial_config(point)) == name


def test_only_tune_files_are_removed(tmp_path: Path):
    kept = ["cells/a.parquet", "sweep.yaml", "report/index.html"]
    gone = ["fastv_2_8/params.json", "fastv_2_8/result.json", "tuner.pkl", "experiment_state-2026.json"]
    for name in kept + gone:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    remove_trials(tmp_path)
    assert sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()) == sorted(kept)
