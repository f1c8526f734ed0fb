"""The matrices hold what the long table holds, and take in only what is new."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import results.analysis.matrix
from fake_experiment import fake_points, write_fake_experiment
from results.analysis.costs import costs
from results.analysis.matrix import UNKNOWN, CellMatrix, Matrix, cells_of, image_lengths, stacked
from results.analysis.metrics import answers
from results.axes import Axes
from results.experiment import Experiment
from results.inventory import Ledger
from results.tables import ADDRESS, write_table


def test_matrices_equal_the_long_table(tmp_path: Path) -> None:
    experiment = write_fake_experiment(tmp_path / "e", samples=25, done=20, failed=("s3",))
    matrix = CellMatrix(experiment)
    assert matrix.read()
    cells = experiment.cells()
    rows = [point.key for point in experiment.points]
    columns = experiment.samples["id"].tolist()
    table = cells.pivot(index="point", columns="sample", values="correct").reindex(index=rows, columns=columns)
    np.testing.assert_array_equal(matrix.answered_PS, table.notna())
    np.testing.assert_array_equal(matrix.correct_PS, table.eq(True))
    assert matrix.visual_S[3] == UNKNOWN
    assert set(matrix.visual_S[:20]) == {UNKNOWN, 0, 64}
    assert image_lengths(matrix).tolist() == [
        [104],
        [64],
        [UNKNOWN],
        [UNKNOWN],
        [17],
    ]  # of 20 three have none


def test_whoever_asks_an_open_experiment_for_its_cells_has_each_file_read_once(tmp_path: Path, monkeypatch) -> None:
    experiment = write_fake_experiment(tmp_path / "e", samples=30, done=10)
    read: list[Path] = []
    ours = results.analysis.matrix.read_columns

    def noted(path: Path, *arguments: object, **options: object) -> pa.Table:
        read.append(path)
        return ours(path, *arguments, **options)

    monkeypatch.setattr(results.analysis.matrix, "read_columns", noted)
    first = answers(experiment)
    costs(experiment)
    assert answers(experiment).answered_PS.sum() == first.answered_PS.sum()
    assert sorted(read) == experiment.files("cells")
    write_fake_experiment(tmp_path / "e", samples=30, done=20)
    assert answers(experiment).answered_PS.sum() > first.answered_PS.sum()
    experiment.files("cells")[0].unlink()
    assert answers(experiment).answered_PS.sum() < cells_of(Experiment.open(tmp_path / "e")).answered_PS.size
    assert (answers(experiment).answered_PS == answers(Experiment.open(tmp_path / "e")).answered_PS).all()


def test_only_new_files_are_read_and_damaged_ones_are_tried_again(tmp_path: Path) -> None:
    experiment = write_fake_experiment(tmp_path / "e", samples=30, done=10)
    matrix = CellMatrix(experiment)
    assert matrix.read()
    assert not matrix.read()
    write_fake_experiment(tmp_path / "e", samples=30, done=20)
    hidden = experiment.files("cells")[-1]
    content = hidden.read_bytes()
    hidden.write_bytes(content[:100])
    matrix = CellMatrix(experiment)
    matrix.read()
    assert len(experiment.notes) == 1
    before = matrix.answered_PS.sum()
    hidden.write_bytes(content)
    assert matrix.read()
    assert matrix.answered_PS.sum() > before
    assert not matrix.gone()
    hidden.unlink()
    assert matrix.gone()


def test_all_readers_take_the_same_copy_of_a_cell(tmp_path: Path) -> None:
    """Of two files the first by name, of two rows the first: whoever reads, and in whichever order files appear."""
    experiment = write_fake_experiment(tmp_path / "e", samples=10, shard=10)
    (file,) = experiment.files("cells")
    table = pq.read_table(file)
    other = table.set_column(table.column_names.index("correct"), "correct", pc.invert(table["correct"])).set_column(
        table.column_names.index("answer"), "answer", pa.array(["?"] * len(table))
    )
    written = table["correct"].to_pylist()

    def said() -> list[bool]:
        cells = experiment.cells(["correct"])
        return cells["correct"].tolist()

    matrix = CellMatrix(experiment)
    matrix.read()
    before = said()
    write_table(file.with_name(f"z-{file.name}"), other)  # later by name: does not count
    matrix.read()
    assert said() == before
    assert matrix.correct_PS.sum() == sum(written)
    write_table(file.with_name(f"0-{file.name}"), pa.concat_tables([other, table]))  # earlier, and in it the first row
    assert matrix.read()
    assert said() == [not one for one in before]
    assert matrix.correct_PS.sum() == len(written) - sum(written)
    fresh = CellMatrix(experiment)
    fresh.read()
    np.testing.assert_array_equal(matrix.correct_PS, fresh.correct_PS)
    ledger = Ledger(experiment.axes)
    taken = [ledger.enter(pq.read_table(path)) for path in experiment.files("cells")]
    assert [int(flags.sum()) for flags in taken] == [len(table), 0, 0]
    assert taken[0][: len(table)].all()
    assert (ledger.doubled, len(ledger.conflicts)) == (3 * len(table), 2 * len(table))


def test_cells_of_other_sweeps_are_passed_over(tmp_path: Path) -> None:
    one = write_fake_experiment(tmp_path / "one", samples=10)
    other = write_fake_experiment(tmp_path / "other", samples=10, points=fake_points(layers=4))
    for file in other.files("cells"):
        shutil.copy(file, one.path / "cells" / f"other-{file.name}")
    matrix = CellMatrix(one)
    matrix.read()
    assert matrix.answered_PS.all()
    expected = one.cells(["point", "sample", "correct"])
    assert matrix.correct_PS.sum() == expected["correct"].sum()


def test_who_computed_a_file_is_noted(tmp_path: Path) -> None:
    matrix = CellMatrix(write_fake_experiment(tmp_path / "e", samples=20))
    matrix.read()
    units = matrix.units
    assert [unit.cells for unit in units] == [10 * len(fake_points())] * 2
    assert {unit.worker for unit in units} == {""}  # the made-up experiment states none


@pytest.mark.parametrize("table", ["cells", "kept"])
def test_a_few_cells_can_be_read_alone(tmp_path: Path, table: str) -> None:
    experiment = write_fake_experiment(tmp_path / "e", samples=30)
    key = experiment.points[3].key
    whole = getattr(experiment, table)()
    part = getattr(experiment, table)(points=[key], samples=["s4", "s25"])
    wanted = whole[(whole["point"] == key) & whole["sample"].isin(["s4", "s25"])].reset_index(drop=True)
    assert part.equals(wanted)
    assert len(part) == 2
    assert getattr(Experiment.open(experiment.path), table)(points=[]).empty


def test_scores_between_right_and_wrong_are_kept(tmp_path: Path) -> None:
    experiment = write_fake_experiment(tmp_path / "e", samples=20)
    matrix = CellMatrix(experiment)
    matrix.read()
    assert matrix.score_PS.dtype == np.float32  # nothing but 0 and 1 so far
    np.testing.assert_array_equal(matrix.score_PS, matrix.correct_PS)
    first, last = experiment.files("cells")
    table = pq.read_table(last)
    for name, value in (("score", 0.3), ("correct", False)):
        table = table.set_column(table.column_names.index(name), name, pa.array([value] * len(table)))
    write_table(last, table)
    again = CellMatrix(experiment)
    again.read()
    assert set(np.unique(again.score_PS)) == {0.0, 0.3, 1.0}
    assert (again.score_PS == 0.3).sum() == len(table)
    write_table(first, pq.read_table(first).drop_columns(["score"]))  # as versions before wrote it
    old = CellMatrix(experiment)
    old.read()
    np.testing.assert_array_equal(old.score_PS, again.score_PS)


def test_a_cell_counts_as_it_was_entered_first() -> None:
    matrix = Matrix((2, 3), says=int, mask=(bool, (2,)))
    row, column = np.array([0, 1, 0, -1, 1]), np.array([2, 0, 2, 1, -1])
    masks = np.array([[1, 0], [0, 1], [0, 0], [1, 1], [1, 1]], dtype=bool)
    fresh = matrix.enter(row, column, says=[5, 6, 7, 8, 9], mask=masks)
    assert fresh.tolist() == [True, True, False, False, False]
    assert not matrix.enter(row, column, says=[1] * 5, mask=masks).any()
    np.testing.assert_array_equal(matrix.known_PS, [[False, False, True], [True, False, False]])
    np.testing.assert_array_equal(matrix.values["says"], [[0, 0, 5], [6, 0, 0]])
    np.testing.assert_array_equal(matrix.values["mask"][0, 2], [True, False])


@pytest.mark.parametrize("dictionaries", [False, True])
def test_cells_of_another_context_grid_or_source_have_no_place(dictionaries: bool) -> None:
    axes = Axes(context="c", sources={"p": "one", "q": "two"}, samples=["s", "t"])
    rows = [("c", "two", "q", "t"), ("x", "two", "q", "t"), ("c", "one", "q", "s"), ("c", "one", "r", "s"),
            ("c", "one", "p", "u")]  # fmt: skip
    cells = pa.table(
        [pa.chunked_array([list(column)]) for column in zip(*rows, strict=True)], schema=pa.schema(ADDRESS)
    )
    if dictionaries:
        cells = pa.table({name: cells[name].dictionary_encode() for name in cells.column_names})
    row, column = axes.places(cells)
    assert list(zip(row.tolist(), column.tolist(), strict=True)) == [(1, 1), (-1, 1), (-1, 0), (-1, 0), (0, -1)]


def test_tables_of_several_experiments_are_stacked_by_sample(tmp_path: Path) -> None:
    one = answers(write_fake_experiment(tmp_path / "one", samples=12))
    other = answers(write_fake_experiment(tmp_path / "other", samples=20, points=fake_points(layers=4)))
    both = stacked([other.on(np.arange(20) % 3 > 0), one])
    assert both.samples == (*other.on(np.arange(20) % 3 > 0).samples, "s0", "s3", "s6", "s9")
    own = both.of(range(len(other.points), len(both.points)))
    own = own.on(np.array([name in one.samples for name in own.samples]))
    order = [own.samples.index(name) for name in one.samples]
    np.testing.assert_array_equal(own.correct_PS[:, order], one.correct_PS)
    assert both.score_PS.sum() == one.score_PS.sum() + other.on(np.arange(20) % 3 > 0).score_PS.sum()
