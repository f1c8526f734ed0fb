"""Merging directories and checking them, file by file."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from fake_experiment import (
    fake_engine,
    fake_manifest,
    fake_outcome,
    fake_points,
    fake_samples,
    into_format_1,
    write_fake_experiment,
)
from orchestrator.tune.trials import tell_all
from results.analysis.metrics import summary
from results.disk import StoreError
from results.experiment import Experiment
from results.inventory import merge, verify
from results.manifest import Manifest
from results.pictures import Pictures, write_pictures
from results.provenance import ways
from results.tables import write_table
from workers.families.catalog import open_checkpoint
from workers.fingerprint import model_fingerprint
from workers.work import UNPRUNED, GridPoint, ModelSpec, WorkUnit

POINTS = fake_points()


def write(
    path: Path,
    points: tuple[GridPoint, ...],
    first: int,
    last: int,
    samples: int = 60,
    manifest: Manifest | None = None,
) -> Experiment:
    """The samples ``first`` to ``last`` of ``samples``, answered by ``points``."""
    experiment = Experiment.create(path, manifest or fake_manifest(points), fake_samples(samples))
    for begin in range(first, last, 10):
        unit = WorkUnit(samples=tuple(f"s{place}" for place in range(begin, min(last, begin + 10))), points=points)
        experiment.write(unit, fake_outcome(unit))
    return experiment


def rows_on_disk(path: Path, folder: str) -> int:
    return sum(pq.read_table(file).num_rows for file in (path / folder).glob("*.parquet"))


def bad(experiment: Experiment) -> list[str]:
    return [finding.text for finding in verify(experiment) if not finding.well]


def test_two_halves_of_a_grid_and_of_the_samples_make_the_whole(tmp_path):
    whole = write_fake_experiment(tmp_path / "whole", samples=60)
    a = write(tmp_path / "a", POINTS[:8], 0, 60)
    b = write(tmp_path / "b", (POINTS[0], *POINTS[6:]), 25, 60)  # overlaps in points and in samples
    c = write(tmp_path / "c", (POINTS[0], *POINTS[8:]), 0, 30, samples=30)
    result = merge([a.path, b.path, c.path], tmp_path / "out")
    assert result.cells == len(POINTS) * 60
    assert result.doubled == 35 * 3 + 30 + 5 * len(POINTS[8:])
    assert result.conflicts == ()
    order = {point.key: place for place, point in enumerate(POINTS)}
    assert [point.key for point in result.experiment.points] == list(order)
    pd.testing.assert_frame_equal(result.experiment.cells(), whole.cells())
    pd.testing.assert_frame_equal(result.experiment.kept(), whole.kept())
    pd.testing.assert_frame_equal(result.experiment.samples, whole.samples)
    pd.testing.assert_frame_equal(summary(result.experiment), summary(whole))
    for folder in ("cells", "kept"):  # none doubled on disk either
        assert rows_on_disk(tmp_path / "out", folder) == len(POINTS) * 60
    assert bad(result.experiment) == []
    assert len(a.cells()) == 8 * 60  # the originals stay


def test_measures_and_failures_come_along(tmp_path):
    a = write_fake_experiment(tmp_path / "a", samples=20, failed=("s3",))
    b = Experiment.create(tmp_path / "b", fake_manifest(POINTS), fake_samples(40))
    unit = WorkUnit(samples=("s25",), points=POINTS)
    outcome = fake_outcome(unit)
    b.write(
        unit, replace(outcome, outcomes=tuple(replace(cell, measures=(("rank", 2.0),)) for cell in outcome.outcomes))
    )
    merged = merge([a.path, b.path], tmp_path / "out").experiment
    assert list(merged.failures()["sample"]) == ["s3"]
    assert list(merged.measures()["value"]) == [2.0] * len(POINTS)


def test_cells_that_differ_are_counted_and_the_first_is_taken(tmp_path):
    a = write(tmp_path / "a", POINTS[:3], 0, 20)
    b = Experiment.create(tmp_path / "b", fake_manifest(POINTS[:3]), fake_samples(60))
    unit = WorkUnit(samples=("s4", "s30"), points=POINTS[:3])
    outcome = fake_outcome(unit)
    b.write(unit, replace(outcome, outcomes=tuple(replace(cell, answer="other") for cell in outcome.outcomes)))
    result = merge([a.path, b.path], tmp_path / "out")
    assert set(result.conflicts) == {(point.key, "s4") for point in POINTS[:3]}
    cells = result.experiment.cells().set_index(["sample", "point"])
    assert (cells.loc["s4", "answer"] != "other").all()
    assert (cells.loc["s30", "answer"] == "other").all()


def test_what_does_not_belong_together_is_refused_by_name(tmp_path):
    a = write(tmp_path / "a", POINTS, 0, 10)
    others = {
        "seed is 0 and 1": fake_manifest(POINTS, seed=1),
        "model is 0123456789abcdef and another": fake_manifest(POINTS, model_fingerprint="another"),
        "the strategy fastv was changed between them": fake_manifest(
            POINTS, sources=["new" if point.strategy == "fastv" else a.sources[point.key] for point in POINTS]
        ),
        "scoring is 5c0e5c0e5c0e5c0e and new": fake_manifest(POINTS, scorer_fingerprint="new"),
    }  # fmt: skip
    for number, (complaint, other) in enumerate(others.items()):
        b = write(tmp_path / f"b{number}", POINTS, 10, 20, manifest=other)
        with pytest.raises(StoreError) as error:
            merge([a.path, b.path], tmp_path / "out")
        assert complaint in str(error.value)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "out").exists()
    with pytest.raises(StoreError, match="is there already"):
        merge([a.path, a.path], a.path)
    with pytest.raises(StoreError, match="two experiment directories"):
        merge([a.path], tmp_path / "new")


def test_of_format_1_the_sources_must_be_the_same_because_its_addresses_say_little(tmp_path):
    for name, first, sources in (("a", 0, "5eed"), ("b", 10, "0dd"), ("c", 20, "0dd")):
        manifest = fake_manifest(POINTS, sources_hash=sources)
        write(tmp_path / name, POINTS, first, first + 10, manifest=manifest)
    with pytest.raises(StoreError, match="have different formats; `saccade migrate"):
        merge([into_format_1(tmp_path / "a").path, tmp_path / "b"], tmp_path / "out")
    folders = [tmp_path / "a", into_format_1(tmp_path / "b").path]
    with pytest.raises(StoreError, match=r"different sources of strategies/ and workers/ \(5eed and 0dd\)"):
        merge(folders, tmp_path / "out")
    merged = merge(folders, tmp_path / "out", other_sources=True)
    assert merged.cells == len(merged.experiment.cells()) == 20 * len(POINTS)


def test_a_merged_directory_is_gone_on_with(tmp_path):
    a = write(tmp_path / "a", POINTS[:4], 0, 20)
    b = write(tmp_path / "b", POINTS[:4], 20, 40)
    merged = merge([a.path, b.path], tmp_path / "out").experiment
    again = Experiment.create(tmp_path / "out", fake_manifest(POINTS[:4]), fake_samples(60))  # as `saccade run` does
    assert sum(map(len, again.done().values())) == len(merged.cells()) == 4 * 40


# -- verify ----------------------------------------------------------------------------------------------------------


def test_a_sound_directory(tmp_path):
    experiment = write_fake_experiment(tmp_path / "x", samples=20)
    assert bad(experiment) == []
    text = "\n".join(finding.text for finding in verify(experiment))
    assert f"{20 * len(POINTS)} of {20 * len(POINTS)} cells are there" in text
    assert "model /nowhere/model is not on this machine: not compared" in text


def test_missing_cells_and_failed_samples(tmp_path):
    experiment = write_fake_experiment(tmp_path / "x", samples=20, done=10, failed=("s2",))
    (text,) = bad(experiment)
    assert f"{11 * len(POINTS)} missing (1 samples failed; `saccade status" in text


def test_damage_is_found_and_mended_by_what_it_says(tmp_path):
    experiment = write_fake_experiment(tmp_path / "x", samples=40)
    first, second, third, _ = sorted((tmp_path / "x/cells").iterdir())
    first.write_bytes(first.read_bytes()[:100])
    (tmp_path / "x/kept" / second.name).unlink()
    (tmp_path / "x/cells" / f".{third.name}.7.tmp").write_bytes(b"half")
    texts = bad(experiment)
    assert len(texts) == 4
    again = "the same `saccade run` sets it aside and computes its cells again"
    assert texts[0] == f"{first}: has no digest: cut off, changed by hand, or written by an earlier version: {again}"
    assert texts[1] == f"{tmp_path}/x/kept/{second.name}: is missing: {again}"
    assert "1 half-written files" in texts[2]
    assert f"{20 * len(POINTS)} missing: the same `saccade run` computes them" in texts[3]
    assert len(experiment.set_damaged_aside()) == 2  # as `saccade run` does
    for unit in (WorkUnit(samples=tuple(f"s{place}" for place in range(40)), points=POINTS),):
        experiment.write(unit, fake_outcome(unit))
    (tmp_path / "x/cells" / f".{third.name}.7.tmp").unlink()
    assert bad(experiment) == []
    assert any("3 damaged files set aside" in finding.text for finding in verify(experiment))


def test_changed_masks_and_contradicting_cells(tmp_path):
    experiment = write_fake_experiment(tmp_path / "x", samples=20)
    file = sorted((tmp_path / "x/kept").iterdir())[0]
    table = pq.read_table(file)
    masks = [b"\xff" * -(-visual // 8) for visual in table["visual_tokens"].to_pylist()]
    write_table(file, table.set_column(5, table.schema.field(5), [masks]))
    assert any("keep another number of tokens" in text for text in bad(experiment))
    shutil.rmtree(tmp_path / "x")
    experiment = write(tmp_path / "x", POINTS[:2], 0, 60)
    unit = WorkUnit(samples=("s5",), points=POINTS[:2])
    outcome = fake_outcome(unit)
    experiment.write(unit, replace(outcome, outcomes=tuple(replace(cell, first_token=9) for cell in outcome.outcomes)))
    (text,) = bad(experiment)
    assert "2 cells are there twice and say different things" in text


def test_a_mixture_of_versions_and_devices_can_be_told_apart(tmp_path):
    from test_orchestrator_cli import call

    experiment = Experiment.create(tmp_path / "x", fake_manifest(POINTS), fake_samples(20))
    for first, torch, worker in ((0, "2.5", "a"), (10, "2.6", "b")):
        unit = WorkUnit(samples=tuple(f"s{place}" for place in range(first, first + 10)), points=POINTS)
        made_by = (("device", "CPU"), ("torch", torch))
        experiment.write(unit, replace(fake_outcome(unit), worker=worker, made_by=made_by))
        mixed = first > 0
        text = f"cells were computed in 2 ways, whose last digits may differ: {10 * len(POINTS)} by torch 2.5; "
        assert any(finding.text.startswith(text) for finding in verify(experiment)) == mixed
        assert (text in call("status", tmp_path / "x")[1]) == mixed
    assert bad(experiment) == []  # it is no fault
    assert sorted(ways(experiment)) == [(("device", "CPU"), ("torch", version)) for version in ("2.5", "2.6")]
    write(tmp_path / "y", POINTS, 20, 30)
    merged = merge([tmp_path / "x", tmp_path / "y"], tmp_path / "out").experiment
    assert "torch unknown" in "".join(finding.text for finding in verify(merged))  # what files state comes along


def test_a_changed_model_is_noticed(tmp_path, small_checkpoint: Path):
    model = tmp_path / "model"
    shutil.copytree(small_checkpoint, model)
    engine = fake_engine(model=ModelSpec(path=str(model)))
    manifest = fake_manifest(POINTS, engine=engine, model_fingerprint=model_fingerprint(open_checkpoint(engine.model)))
    experiment = write(tmp_path / "x", POINTS, 0, 60, manifest=manifest)
    assert bad(experiment) == []
    config = model / "config.json"
    config.write_text(config.read_text() + " ")
    (text,) = bad(experiment)
    assert "is not the one used: it was changed after the run" in text


@pytest.mark.system
def test_merging_keeps_pictures_and_the_tune_view(tmp_path):
    """Each sample's picture once; a trial for each grid point, where one of the directories had trials."""
    from ray.tune import ExperimentAnalysis

    from test_orchestrator_cli import call

    a, b = write(tmp_path / "a", POINTS[:2], 0, 60), write(tmp_path / "b", POINTS, 0, 60)
    write_pictures(a, {"s1": b"one", "s2": b"two"})
    write_pictures(b, {"s2": b"another", "s3": b"three"})
    tell_all(a)
    code, _, _ = call("merge", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "out")
    merged = Experiment.open(tmp_path / "out")
    pictures = Pictures(merged)
    assert (code, {name: pictures.get(name) for name in pictures.samples}) == (
        0, {"s1": b"one", "s2": b"two", "s3": b"three"},
    )  # fmt: skip
    assert bad(merged) == []
    trials = ExperimentAnalysis(str(tmp_path / "out")).dataframe()
    assert sorted(trials["config/key"]) == sorted(point.key for point in POINTS)
    call("merge", tmp_path / "b", write(tmp_path / "c", POINTS, 30, 40).path, "--out", tmp_path / "plain")
    assert not list((tmp_path / "plain").glob("experiment_state*"))


def test_the_command_line(tmp_path):
    from test_orchestrator_cli import call, refuse

    write(tmp_path / "a", POINTS, 0, 30)
    write(tmp_path / "b", POINTS, 30, 60)
    code, text, _ = call("merge", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "out")
    assert code == 0
    total = 60 * len(POINTS)
    assert f"{total} of {total} cells in {tmp_path / 'out'}: {len(POINTS)} grid points x 60 samples; 0 were in" in text
    assert yaml.safe_load((tmp_path / "out/sweep.yaml").read_text())["merged_from"] == [
        f"{tmp_path}/a",
        f"{tmp_path}/b",
    ]
    assert (tmp_path / "out/report/index.html").is_file()
    assert call("verify", tmp_path / "out")[0] == 0
    os.unlink(sorted((tmp_path / "out/cells").iterdir())[0])  # noqa: PTH108
    code, text, _ = call("verify", tmp_path / "out")
    assert code == 2
    assert "bad" in text
    assert "no such" not in refuse("merge", tmp_path / "a", tmp_path / "nowhere", "--out", tmp_path / "new")
    assert UNPRUNED == "none"
