"""Results on disk: whole files, one copy of each cell, and only cells that answer the same question."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
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
from results.description import read_description, write_description
from results.disk import StoreError, write_whole
from results.experiment import Experiment
from results.location import opened
from results.tables import CELLS
from workers.work import GridPoint, ModelSpec, SampleFailure, UnitOutcome, WorkUnit

POINTS = fake_points()


def unit_of(*places: int, points: tuple[GridPoint, ...] = POINTS) -> WorkUnit:
    return WorkUnit(samples=tuple(f"s{place}" for place in places), points=points)


def test_cells_come_back_as_they_were_answered(tmp_path):
    experiment = write_fake_experiment(tmp_path / "x", samples=7, shard=3)
    opened = Experiment.open(tmp_path / "x")
    assert (opened.name, opened.points, opened.spec) == ("fake", POINTS, fake_manifest(POINTS).engine)
    frame = opened.cells()
    assert set(frame.columns) == set(CELLS.names)
    assert list(frame["sample"].unique()) == [f"s{place}" for place in range(7)]
    assert list(frame["point"][: len(POINTS)]) == [point.key for point in POINTS]
    wanted = fake_outcome(unit_of(4)).outcomes[3]
    row = frame[(frame["sample"] == "s4") & (frame["point"] == wanted.point)].iloc[0]
    assert (row["answer"], row["correct"], row["tokens_kept"]) == (wanted.answer, wanted.correct, wanted.tokens_kept)
    assert list(row["option_logits"]) == pytest.approx(wanted.option_logits)
    masks = opened.kept()
    assert masks[(masks["sample"] == "s4") & (masks["point"] == wanted.point)]["kept_mask"].item() == wanted.kept_mask
    assert opened.done() == {f"s{place}": frozenset(p.key for p in POINTS) for place in range(7)}
    assert experiment.notes == opened.notes == ()


def test_a_text_only_sample_keeps_its_missing_values(tmp_path):
    write_fake_experiment(tmp_path / "x", samples=10)
    row = Experiment.open(tmp_path / "x").samples.iloc[9]
    assert pd.isna(row["image"])
    assert list(row["choices"]) == ["red", "green", "blue"]


def test_the_same_cell_twice_is_read_once(tmp_path):
    experiment = write_fake_experiment(tmp_path / "x", samples=6, shard=3)
    before = experiment.cells()
    for unit in (unit_of(0, 1, 2), unit_of(2, 3)):
        experiment.write(unit, fake_outcome(unit))
    assert len(list((tmp_path / "x/cells").iterdir())) == 3  # the first unit took its old place
    pd.testing.assert_frame_equal(experiment.cells(), before)


def test_temporary_and_foreign_files_are_left_out_with_a_note(tmp_path):
    experiment = write_fake_experiment(tmp_path / "x", samples=6, shard=3)
    before = experiment.cells()
    folder = tmp_path / "x/cells"
    whole = next(folder.iterdir()).read_bytes()
    (folder / ".half.parquet.17.tmp").write_bytes(whole[:100])
    (folder / "half.parquet").write_bytes(whole[:100])
    pd.DataFrame({"a": [1]}).to_parquet(folder / "foreign.parquet")
    (folder / "empty.parquet").touch()
    pd.testing.assert_frame_equal(experiment.cells(), before)
    assert len(experiment.notes) == 3
    assert all(": left out: " in note and "`saccade run` computes its cells again" in note for note in experiment.notes)


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_whole(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(StoreError, match="cannot be written: No space left on device"):
            write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_cells_of_a_changed_strategy_are_not_read_and_not_lost(tmp_path):
    experiment = write_fake_experiment(tmp_path / "x", samples=4)
    sources = ["corrected" if point.strategy == "fastv" else experiment.sources[point.key] for point in POINTS]
    changed = Experiment.create(tmp_path / "x", fake_manifest(POINTS, sources=sources), fake_samples(4))
    stale = {point.key for point in POINTS if point.strategy == "fastv"}
    assert all(keys == frozenset(p.key for p in POINTS) - stale for keys in changed.done().values())
    fastv = tuple(point for point in POINTS if point.strategy == "fastv")
    for unit in (unit_of(0, 1, 2, 3, points=fastv),):
        changed.write(unit, fake_outcome(unit))
    assert len(changed.cells()) == len(experiment.cells()) == 4 * len(POINTS)
    assert set(changed.cells()["source"]) == set(sources)
    assert set(experiment.cells()["source"]) == set(experiment.sources.values())  # going back finds the old ones


def test_more_points_and_more_samples_keep_what_is_there(tmp_path):
    write_fake_experiment(tmp_path / "x", samples=4, points=POINTS[:3])
    grown = Experiment.create(tmp_path / "x", fake_manifest(POINTS), fake_samples(9))
    assert len(grown.cells()) == 4 * 3
    shrunk = Experiment.create(tmp_path / "x", fake_manifest(POINTS[:2]), fake_samples(3))
    assert len(shrunk.cells()) == 3 * 2


def test_failures_are_told_until_the_sample_is_answered(tmp_path):
    experiment = write_fake_experiment(tmp_path / "x", samples=12, shard=4, failed=("s2", "s7"))
    assert list(experiment.failures()["sample"]) == ["s2", "s7"]
    again = unit_of(2)
    failure = SampleFailure(sample="s2", kind="OSError", message="newer", traceback="")
    experiment.write(again, UnitOutcome(unit=again.key, outcomes=(), failures=(failure,)))
    assert list(experiment.failures()["message"]) == ["newer", "the image is damaged"]
    experiment.write(again, fake_outcome(again))
    assert list(experiment.failures()["sample"]) == ["s7"]


def test_another_context_is_refused_and_named(tmp_path):
    write_fake_experiment(tmp_path / "x", samples=2)
    with pytest.raises(StoreError) as caught:
        Experiment.create(tmp_path / "x", fake_manifest(POINTS, seed=3), fake_samples(2))
    assert str(caught.value) == (
        f"{tmp_path}/x: holds cells of another sweep (seed was 0, now 3); results of the two must not be mixed: "
        "give --out another directory, or restore the old setting"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not an experiment directory: it has no sweep.yaml"),
        ("model: embedded", "was not written by `saccade run`"),
        ("format: 99", "has format 99, and this version of saccade reads 1 and 2"),
        ("format: 1\nname: x", "is damaged"),
        ("format: [", "is damaged"),
    ],
)
def test_what_is_not_an_experiment_is_said_in_one_line(tmp_path, content, message):
    if content is not None:
        (tmp_path / "sweep.yaml").write_text(content)
    with pytest.raises(StoreError, match=message) as caught:
        Experiment.open(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_damaged_description_is_written_again_and_the_cells_stay(tmp_path):
    experiment = write_fake_experiment(tmp_path / "x", samples=5)
    before = experiment.cells()
    (tmp_path / "x/sweep.yaml").write_text("format: [")
    again = Experiment.create(tmp_path / "x", fake_manifest(POINTS), fake_samples(5))
    pd.testing.assert_frame_equal(again.cells(), before)


def test_a_directory_of_something_else_is_not_written_into(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(StoreError, match="is not empty and not an experiment"):
        Experiment.create(tmp_path, fake_manifest(POINTS), fake_samples(1))
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_no_path_is_part_of_the_address(tmp_path):
    manifest = fake_manifest(POINTS)
    assert fake_manifest(POINTS, engine=fake_engine(model=ModelSpec(path="/elsewhere"))).context == manifest.context
    experiment = write_fake_experiment(tmp_path / "x", samples=2)
    table = pq.read_table(next((tmp_path / "x/cells").iterdir()))
    assert set(table["context"].to_pylist()) == {experiment.context}
    assert yaml.safe_load((tmp_path / "x/sweep.yaml").read_text())["context"] == manifest.context


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_a_name_that_no_file_can_have(name):
    with pytest.raises(StoreError, match=r"File name too long; give another|is not a file name"), opened(Path(name)):
        pass


def test_what_may_not_be_read_is_not_taken_for_missing(tmp_path, monkeypatch):
    write_fake_experiment(tmp_path / "x", samples=3)
    experiment = Experiment.open(tmp_path / "x")
    cells = tmp_path / "x/cells"

    def forbidden(place: Path) -> Iterator[Path]:  # chmod would not keep root out
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))

    monkeypatch.setattr(Path, "iterdir", forbidden)
    with pytest.raises(StoreError, match=re.escape(f"{cells}: cannot be read: Permission denied")):
        experiment.cells()
    monkeypatch.setattr(Path, "stat", forbidden)
    with pytest.raises(StoreError, match="x: Permission denied; give another directory"), opened(tmp_path / "x"):
        pass


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("name",), ["a"]), (("context",), None), (("engine", "seed"), "many"), (("points",), []),
        (("samples",), "many"), (("points", 0, "layer"), "2"), (("points", 1, "key"), "0" * 16),
        (("points", 2), {"strategy": "none", "layer": 8, "rank": 64, "key": "6c62a9e0c78ec036", "source": "none"}),
        (("points", 0), {}), (("model_facts",), 1), (("engine", "model", "path"), 3), (("versions",), 1),
        (("context_parts",), {"a": {}}),
    ],
    ids=str,
)  # fmt: skip
def test_a_changed_manifest_is_not_believed(tmp_path, place, value):
    file = write_fake_experiment(tmp_path / "x", samples=3).path / "sweep.yaml"
    meta = yaml.safe_load(file.read_text())
    inside = meta
    for part in place[:-1]:
        inside = inside[part]
    inside[place[-1]] = value
    file.write_text(yaml.safe_dump(meta))
    with pytest.raises(StoreError, match=r"sweep.yaml: is damaged \([^\n]*\); run the same sweep"):
        Experiment.open(tmp_path / "x")


def test_a_description_is_written_back_as_it_was_read_with_what_a_later_version_added(tmp_path):
    write_fake_experiment(tmp_path / "x", samples=3)
    for folder in (tmp_path / "x", into_format_1(tmp_path / "x").path):
        value = yaml.safe_load((folder / "sweep.yaml").read_text())
        value |= {"later": {"a": [1, None]}, "model_facts": {"layers": 8, "visual_tokens": 64, "pinpoints": [[1, 2]]}}
        value["points"][1] |= {"later": 2}
        (folder / "sweep.yaml").write_text(yaml.safe_dump(value))
        write_description(tmp_path, read_description(folder), "run")
        assert yaml.safe_load((tmp_path / "sweep.yaml").read_text()) == value
