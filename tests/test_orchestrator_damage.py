"""What was damaged is not believed: not by a bit, not in a column, not beside the cells. It is computed again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from dashboards.gallery import Gallery
from fake_experiment import fake_outcome, into_format_1, write_fake_experiment
from orchestrator.tune.trial_files import RESULTS, told
from results.analysis.matrix import CellMatrix
from results.analysis.metrics import answers, summary
from results.disk import StoreError
from results.exchange.compare import compare
from results.exchange.imports import imported_summary
from results.experiment import Experiment
from results.inventory import verify
from results.latencies import LATENCY_FILE, latencies
from results.pictures import Pictures, write_pictures
from results.seals import DamagedError, check_seal, sealed
from results.stops import RACING, read_stops
from results.tables import CELLS, KEPT, check_file, contradiction, write_table
from workers.work import SampleOutcome, UnitOutcome, WorkUnit, unpruned_point

POINTS = (unpruned_point(8, 64),)
READERS: dict[str, Callable[[Experiment], Any]] = {
    "cells": lambda experiment: experiment.cells().to_csv(),
    "kept": lambda experiment: experiment.kept().to_csv(),
    "measures": lambda experiment: experiment.measures().to_csv(),
    "failures": lambda experiment: experiment.failures().to_csv(),
    "pictures": lambda experiment: {name: Pictures(experiment).get(name) for name in ("s0", "s1")},
    "samples": lambda experiment: experiment.samples.to_csv(),
}


def small_experiment(path: Path) -> Experiment:
    """Every kind of file, each with little in it."""
    experiment = write_fake_experiment(path, samples=3, points=POINTS, failed=("s2",))
    unit = WorkUnit(samples=("s0", "s1"), points=POINTS)
    cells = [measured(cell) for cell in fake_outcome(unit).outcomes]
    for file in (*experiment.files("cells"), *experiment.files("kept")):
        file.unlink()
    experiment.write(unit, UnitOutcome(unit=unit.key, outcomes=tuple(cells)))
    write_pictures(experiment, {"s0": b"webp of s0", "s1": b"webp of s1"})
    return experiment


def measured(cell: SampleOutcome) -> SampleOutcome:
    return replace(cell, score=float(cell.correct), measures=(("rank", 2.0),))


@pytest.mark.parametrize("folder", READERS)
def test_no_flipped_bit_changes_a_value_in_silence(tmp_path, folder):
    experiment = small_experiment(tmp_path / "x")
    file = experiment.files(folder)[0] if folder != "samples" else tmp_path / "x/samples.parquet"
    whole, before = file.read_bytes(), READERS[folder](experiment)
    silent = 0
    for place in range(0, len(whole), max(1, len(whole) // 400)):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        file.write_bytes(changed)
        again = Experiment.open(experiment.path)
        try:
            after = READERS[folder](again)
        except StoreError:
            continue
        if not again.notes:
            silent += 1
            assert after == before, f"bit {place % 8} of byte {place}"
    assert silent == 0  # the digest is of every byte


def test_a_file_is_hashed_once_and_again_when_it_has_changed(tmp_path, monkeypatch):
    file = tmp_path / "x.parquet"
    table = pa.table({"context": ["c"], "sample": ["s"], "webp": [b"x"]})
    write_table(file, table)
    reads: list[Path] = []
    from results import tables

    read_bytes = tables.read_bytes
    monkeypatch.setattr(tables, "read_bytes", lambda path, most: reads.append(path) or read_bytes(path, most))
    for _ in range(3):
        check_file(file, table.schema, seals=True)
    assert len(reads) == 1
    file.write_bytes(file.read_bytes()[:-1])
    for _ in range(2):
        with pytest.raises(DamagedError):
            check_file(file, table.schema, seals=True)
    assert len(reads) == 2


def test_a_sealed_file_is_parquet_for_everybody_and_may_hold_what_looks_like_a_seal(tmp_path):
    table = pa.table({"a": ["sha256 of this file with noughts here: " + "0" * 64] * 3}, metadata={"worker": "me"})
    content = sealed(table)
    assert check_seal(content)
    read = pq.read_table(pa.BufferReader(content))
    assert read.equals(table)
    assert read.schema.metadata == {b"worker": b"me"}  # a copy of the table carries no seal along
    sink = pa.BufferOutputStream()
    pq.write_table(table.slice(0, 0), sink)
    assert not check_seal(sink.getvalue().to_pybytes())


def cells_of(**values: Any) -> pa.Table:
    fine = {"correct": True, "score": 1.0, "tokens_kept": 2, "visual_tokens": 9, "prompt_tokens": 20}
    row = {name: None for name in CELLS.names} | fine | values
    return pa.Table.from_pylist([row], schema=CELLS)


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        (cells_of(), None),
        (cells_of(score=None, correct=False), None),
        (cells_of(score=0.3, correct=False), None),
        (cells_of(score=1.5), "a score lies outside 0 to 1"),
        (cells_of(score=-1e-9, correct=False), "a score lies outside 0 to 1"),
        (cells_of(score=float("nan")), "a score lies outside 0 to 1"),
        (cells_of(score=0.2), "a score and its verdict contradict each other"),
        (cells_of(tokens_kept=10), "a cell keeps more visual tokens than there are"),
        (cells_of(tokens_kept=-1), "a cell keeps more visual tokens than there are"),
        (cells_of(visual_tokens=21), "a cell has more visual tokens than tokens"),
        (pa.table({"visual_tokens": [9], "kept_mask": [b"\xff\x80"]}), None),
        (pa.table({"visual_tokens": [9], "kept_mask": [b"\xff"]}), "a mask has another length than its visual tokens"),
        (pa.table({"visual_tokens": [9], "kept_mask": [b"\xff\xff"]}), "a mask keeps more visual tokens than"),
    ],
)  # fmt: skip
def test_what_cannot_be_true_is_damage(table, complaint):
    found = contradiction(table)
    assert found is None if complaint is None else str(found).startswith(complaint)


def test_of_format_1_every_column_is_read_once_and_masks_are_held_against_cells(tmp_path):
    write_fake_experiment(tmp_path / "x", samples=40)
    experiment = into_format_1(tmp_path / "x")
    total = len(experiment.whole())
    assert len(experiment.cells()) == total == 40 * len(experiment.points)
    assert experiment.notes == ()
    first, second, third, _ = experiment.files("cells")
    make_hole(first, "margin")
    table = pq.read_table(second)
    pq.write_table(table.append_column("score", pa.array([7.0] * len(table))), second)
    kept = pq.read_table(tmp_path / "x/kept" / third.name)
    none = [b"\x00" * len(mask) for mask in kept["kept_mask"].to_pylist()]
    pq.write_table(kept.set_column(5, KEPT.field("kept_mask"), [none]), tmp_path / "x/kept" / third.name)
    again = Experiment.open(tmp_path / "x")
    assert len(again.whole()) == total // 4
    assert sorted(note.split(":")[0] for note in again.notes) == sorted(
        map(str, (first, second, tmp_path / "x/kept" / third.name))
    )


def make_hole(file: Path, name: str) -> None:
    """Noughts in place of a column, as after a power cut."""
    content, metadata = bytearray(file.read_bytes()), pq.read_metadata(file)
    columns = [metadata.row_group(0).column(place) for place in range(metadata.num_columns)]
    column = next(column for column in columns if column.path_in_schema == name)
    start = min(place for place in (column.dictionary_page_offset, column.data_page_offset) if place)
    content[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    file.write_bytes(content)


@pytest.mark.parametrize(("folder", "name"), [("cells", "correct"), ("kept", "kept_mask")])
def test_a_hole_in_a_column_is_noticed_by_all_and_computed_again(tmp_path, folder, name):
    before = write_fake_experiment(tmp_path / "x", samples=40).cells()
    damaged = Experiment.open(tmp_path / "x").files(folder)[1]
    make_hole(damaged, name)
    experiment = Experiment.open(tmp_path / "x")
    missing = {f"s{place}" for place in range(40)} - set(experiment.done())
    assert len(missing) == 10
    assert [note.split(":")[0] for note in experiment.notes] == [str(damaged)]
    assert next(finding.text.split(":")[0] for finding in verify(experiment) if not finding.well) == str(damaged)
    if folder == "cells":
        matrix = CellMatrix(Experiment.open(tmp_path / "x"))
        matrix.read()
        assert matrix.answered_PS.mean() == 0.75
        assert len(matrix.experiment.notes) == 1
    (line,) = experiment.set_damaged_aside()
    assert line.startswith(f"{damaged}: ")
    assert line.endswith("set aside, its cells count as missing")
    unit = WorkUnit(samples=tuple(sorted(missing)), points=experiment.points)
    experiment.write(unit, fake_outcome(unit))
    again = Experiment.open(tmp_path / "x")
    assert again.cells().equals(before)
    assert all(finding.well for finding in verify(again))
    assert again.set_damaged_aside() == ()


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("name", ["point", "correct"])
def test_a_missing_value_is_damage(tmp_path, name, old):
    experiment = small_experiment(tmp_path / "x")
    experiment = into_format_1(experiment.path) if old else experiment
    (file,) = experiment.files("cells")
    table = pq.read_table(file)
    place = table.schema.get_field_index(name)
    values = [None, *table[name].to_pylist()[1:]]
    table = table.set_column(place, name, pa.array(values, CELLS.field(name).type))
    pq.write_table(table, file) if old else write_table(file, table)
    matrix = CellMatrix(Experiment.open(experiment.path))
    matrix.read()
    assert not matrix.answered_PS.any()
    (note,) = matrix.experiment.notes
    assert f"a value is missing in column {name}" in note
    assert Experiment.open(experiment.path).cells().empty


def test_a_sample_that_stands_twice_is_damage(tmp_path):
    place = small_experiment(tmp_path / "x").path / "samples.parquet"
    table = pq.read_table(place)
    write_table(place, pa.concat_tables([table, table]))
    with pytest.raises(StoreError, match=r"samples\.parquet: cannot be read; run the same sweep"):
        answers(Experiment.open(tmp_path / "x"))


def test_what_may_not_be_read_is_not_set_aside(tmp_path, monkeypatch):
    experiment = write_fake_experiment(tmp_path / "x", samples=10)

    def refuse(path: Path, most: int) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("results.tables._content", lambda path: refuse(path, 0))
    assert experiment.set_damaged_aside() == ()
    assert len(experiment.files("cells")) == 1


# -- beside the cells ------------------------------------------------------------------------------------------------

DAMAGE = {
    "cut": b'{"a": ',
    "another type": b"[]",
    "no rows": b'{"how": {}}',
    "rows of another type": b'{"how": {}, "rows": {"a": 1}}',
    "rows of text": b'{"how": {}, "rows": ["a"]}',
    "a mean of text": b'{"how": {}, "rows": [{"key": "a", "total_ms": {"mean": "1"}}]}',
    "no number": b'{"how": {}, "rows": [{"key": "a", "total_ms": {"mean": NaN}}]}',
    "a null": b"null",
    "no text": b"\xff\xfe\x00",
    "nested": b"[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_latencies_are_left_out_with_a_note(tmp_path, damage):
    experiment = write_fake_experiment(tmp_path / "x", samples=10)
    (tmp_path / "x" / LATENCY_FILE).write_bytes(DAMAGE[damage])
    assert latencies(experiment) == {}
    (note,) = experiment.notes
    assert note.startswith(f"{tmp_path}/x/latency.json: left out: ")
    assert "\n" not in note
    assert note.endswith("; `saccade latency` measures again")
    assert compare([tmp_path / "x"]).notes == (note,)
    assert [finding.text for finding in verify(experiment) if not finding.well] == [note]


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"rule": {"against": "worst"}}', b'{"rule": {}, "stopped": {"a": -1}}', b"{", b"7"]
)
def test_damaged_decisions_of_racing_are_left_out_with_a_note(tmp_path, content):
    experiment = write_fake_experiment(tmp_path / "x", samples=10)
    (tmp_path / "x" / RACING).write_bytes(content)
    assert read_stops(experiment) is None
    assert len(experiment.notes) == 1
    assert "stopped early" not in set(summary(experiment)["state"])
    (tmp_path / "x" / RACING).write_bytes(b"{}")  # nothing is stopped
    assert read_stops(experiment) is None
    assert experiment.notes == ()


def test_damaged_reports_of_a_trial_are_none(tmp_path):
    for content in (b'{"a": 1}\n[' + b"[" * 100_000, b'{"a": 1}\n7', b"\xff"):
        (tmp_path / RESULTS).write_bytes(content)
        assert told(tmp_path) == []
    (tmp_path / RESULTS).write_bytes(b'{"a": 1}\n')
    assert told(tmp_path) == [{"a": 1}]


@pytest.mark.parametrize(
    "change",
    [
        {"samples": "many"},
        {"samples": -1},
        {"points": []},
        {"points": [{"key": "a"}]},
        {"model_facts": {"layers": "lots"}},
        {"model_facts": []},
        {"engine": {"model": {"path": "x"}}},
        {"context_parts": {"data": {}}},
        {"context": "another"},
        {"versions": 1},
    ],
    ids=str,
)
def test_a_damaged_description_is_one_line(tmp_path, change):
    write_fake_experiment(tmp_path / "x", samples=2)
    place = tmp_path / "x/sweep.yaml"
    place.write_text(yaml.safe_dump(yaml.safe_load(place.read_text()) | change))
    with pytest.raises(StoreError, match=r"sweep\.yaml: is damaged") as caught:
        Experiment.open(tmp_path / "x")
    assert "\n" not in str(caught.value)


def test_a_description_that_grows_or_says_another_point_is_damaged(tmp_path):
    write_fake_experiment(tmp_path / "x", samples=2)
    place = tmp_path / "x/sweep.yaml"
    whole = place.read_text()
    bomb = "a0: &a0 [1,1]\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1},' * 9}]\n" for n in range(1, 9)) + whole
    for text in (whole.replace("rank: 8", "rank: 9", 1), "[" * 3000, "- " * 3000 + "1", bomb, whole.replace(":", "\0")):
        place.write_text(text)
        with pytest.raises(StoreError, match="is damaged") as caught:
            Experiment.open(tmp_path / "x")
        assert "\n" not in str(caught.value)


def test_damaged_imported_figures_are_one_line(tmp_path):
    from results.exchange.imports import IMPORTED_FILE

    for content in ("[" * 100_000, "[]", '{"rows": [1]}', '{"rows": [{"value": "x", "measures": {}}]}'):
        (tmp_path / IMPORTED_FILE).write_text(content)
        with pytest.raises(StoreError, match="import the files again") as caught:
            imported_summary(tmp_path)
        assert "\n" not in str(caught.value)


def test_a_running_dashboard_shows_the_note_and_goes_on(tmp_path):
    experiment = write_fake_experiment(tmp_path / "x", samples=40)
    gallery = Gallery([tmp_path / "x"])
    (tmp_path / "x" / LATENCY_FILE).write_bytes(b'{"a": ')
    (note,) = gallery.refresh().sources[0].notes
    assert "latency.json: left out" in note
    samples = tmp_path / "x/samples.parquet"
    shutil.copy(samples, tmp_path / "samples")
    samples.write_bytes(samples.read_bytes()[:-40])
    seen = gallery.refresh()
    assert "samples.parquet: cannot be read" in seen.sources[0].notes[0]
    assert (seen.sources[0].summary["n"] > 0).all()
    shutil.copy(tmp_path / "samples", samples)
    (tmp_path / "x" / LATENCY_FILE).unlink()
    assert gallery.refresh().sources[0].notes == ()
    assert answers(experiment).answered_PS.all()
