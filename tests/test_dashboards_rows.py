"""The rows behind the figures, as numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from answer_matrix import MISSING, write_matrix
from dashboards.rows import (
    ACCURACY,
    DROP,
    axis_range,
    curves,
    failure_groups,
    flipped,
    focus,
    forest,
    heat,
    leftovers,
    measures,
    reference,
    slices,
    value_range,
    with_series,
)
from fake_experiment import write_fake_experiment
from results.analysis.metrics import answers, summary
from workers.work import GridPoint, unpruned_point

BASE = unpruned_point(8, 64)


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return summary(write_fake_experiment(tmp_path_factory.mktemp("rows") / "e", samples=40))


def grid(strategies: tuple[str, ...], ranks: tuple[int, ...], layers: tuple[int, ...] = (2,)) -> tuple[GridPoint, ...]:
    points = [GridPoint(strategy=s, layer=k, rank=r) for s in strategies for r in ranks for k in layers]
    return (BASE, *points)


def test_slices_are_the_axes_that_vary_within_a_series(fake: pd.DataFrame) -> None:
    (layers,) = slices(fake, "layer")
    assert (layers.fixed, layers.value, layers.title) == ("rank", 0, "no token kept")
    assert layers.rows["layer"].tolist() == [2, 3, 4, 5, 6, 7, 8]
    (ranks,) = slices(fake, "rank")
    assert (ranks.fixed, ranks.value, ranks.title) == ("layer", 2, "layer 2")
    assert set(ranks.rows["series"]) == {"fastv", "random"}
    assert leftovers(fake)["alpha"].tolist() == [0.3, 0.5, 0.7]


def test_two_positions_of_a_method_are_two_curves_with_telling_names(tmp_path: Path) -> None:
    points = grid(("fastv",), (8, 32))
    points += tuple(replace(point, positions="compact") for point in points[1:])
    rows = summary(write_matrix(tmp_path / "e", points, np.ones((5, 6), dtype=int)))
    (ranks,) = slices(rows, "rank")
    assert ranks.rows["series"].tolist() == ["fastv", "fastv", "fastv compact", "fastv compact"]


def test_parameters_that_go_with_the_rank_are_one_curve(tmp_path: Path) -> None:
    """As a method's authors list them; another value at one of these ranks tells curves apart again."""
    lists = ((48, 0.3), (32, 0.25), (28, 0.05), (28, 0.5))
    points = [GridPoint(strategy="v2drop", layer=3, rank=r, params=(("second_share", s),)) for r, s in lists]
    for some, names in ((points[:3], ["v2drop"]), (points, [f"second_share={share}" for _, share in lists])):
        matrix = write_matrix(tmp_path / str(len(some)), (BASE, *some), np.ones((len(some) + 1, 6), dtype=int))
        assert with_series(summary(matrix))["series"].unique().tolist() == names


def test_curves_are_the_summary_in_percent_from_left_to_right(fake: pd.DataFrame) -> None:
    (layers,) = slices(fake, "layer")
    rows = curves(layers, ACCURACY)
    scan = fake[fake["strategy"] == "cutoff"]
    np.testing.assert_allclose(rows["y"], 100 * scan["accuracy"])
    np.testing.assert_allclose(rows["low"], 100 * scan["ci_low"])
    np.testing.assert_allclose(curves(layers, DROP)["y"], scan["relative_drop"])
    (ranks,) = slices(fake, "rank")
    assert curves(ranks, ACCURACY)["x"].tolist() == [32, 8, 32, 8]  # tokens run from many to few
    assert axis_range(pd.Series([8, 32]), "rank")[0] > 32


def test_a_grid_point_without_answers_leaves_a_gap(tmp_path: Path) -> None:
    right = np.array([[1, 0, 1], [1, 0, 0], [MISSING] * 3, [1, 0, 1]])
    points = (BASE, *(GridPoint(strategy="cutoff", layer=layer, rank=0) for layer in (2, 3, 4)))
    rows = summary(write_matrix(tmp_path / "e", points, right))
    (part,) = slices(rows, "layer")
    np.testing.assert_allclose(curves(part, ACCURACY)["y"], [100 / 3, np.nan, 200 / 3])


def test_nothing_answered_gives_no_slice(tmp_path: Path) -> None:
    rows = summary(write_matrix(tmp_path / "e", grid(("fastv",), (8, 16)), np.full((3, 4), MISSING)))
    assert slices(rows, "rank") == []
    assert reference(rows, ACCURACY) is None
    assert forest(leftovers(rows)).empty


def test_there_is_no_relative_drop_to_draw_from_nothing(tmp_path: Path, fake: pd.DataFrame) -> None:
    assert measures(slices(fake, "layer")[0]) == (ACCURACY, DROP)
    rows = summary(write_matrix(tmp_path / "e", grid(("fastv",), (8, 16)), np.zeros((3, 4), dtype=int)))
    assert measures(slices(rows, "rank")[0]) == (ACCURACY,)


def test_the_reference_is_the_baseline_with_its_interval_and_zero_for_a_comparison(fake: pd.DataFrame) -> None:
    base = reference(fake, ACCURACY)
    assert base is not None
    assert base.value == pytest.approx(100 * fake["accuracy"][0])
    assert base.low < base.value < base.high
    drop = reference(fake, DROP)
    assert drop is not None
    assert (drop.value, np.isnan(drop.low)) == (0, True)


def test_focus_is_all_of_a_few_and_else_the_best_and_the_control(tmp_path: Path) -> None:
    names = ("a", "random", "b", "c", "d")
    right = np.ones((11, 20), dtype=int)
    for place, lost in enumerate((5, 5, 9, 9, 1, 2, 7, 7, 3, 3)):
        right[place + 1, :lost] = 0
    rows = summary(write_matrix(tmp_path / "e", grid(names, (8, 16)), right))
    (part,) = slices(rows, "rank")
    assert focus(part.rows) == ("b", "random")
    assert focus(part.rows[part.rows["strategy"] != "random"]) == ("b", "d")
    assert focus(part.rows[part.rows["strategy"].isin(["a", "b"])]) == ("a", "b")


def test_heat_has_points_significance_and_blanks(tmp_path: Path) -> None:
    right = np.ones((7, 30), dtype=int)
    right[1, :20] = 0  # fastv, rank 8
    right[6, 10:] = MISSING  # random, rank 32
    right[5] = MISSING  # random, rank 16
    rows = summary(write_matrix(tmp_path / "e", grid(("fastv", "random"), (8, 16, 32)), right))
    (part,) = slices(rows, "rank")
    cells = heat(part)
    assert cells is not None
    assert (cells.series, cells.xs) == (("fastv", "random"), (8, 16, 32))
    np.testing.assert_allclose(cells.points, [[-200 / 3, 0, 0], [0, np.nan, 0]])
    assert cells.significant.tolist() == [[True, False, False], [False, False, False]]
    assert cells.partial.tolist() == [[False, False, False], [False, False, True]]


def test_no_heat_of_one_series(fake: pd.DataFrame) -> None:
    assert heat(slices(fake, "layer")[0]) is None


def test_forest_runs_from_gain_to_loss(fake: pd.DataFrame) -> None:
    rows = forest(leftovers(fake))
    assert rows["x"].is_monotonic_decreasing
    np.testing.assert_allclose(rows["x"], 100 * rows["difference"])
    assert (rows["low"] <= rows["x"]).all()
    assert (rows["x"] <= rows["high"]).all()


def test_value_range_holds_what_is_drawn_and_not_the_bands_of_the_context(fake: pd.DataFrame) -> None:
    (part,) = slices(fake, "layer")
    rows, base = curves(part, ACCURACY), reference(fake, ACCURACY)
    low, high = value_range(rows, base, ("cutoff",), ACCURACY)
    assert low < rows["low"].min()
    assert rows["high"].max() < high <= 101
    assert value_range(rows, None, (), ACCURACY)[0] > low


def test_flipped_names_the_samples(tmp_path: Path) -> None:
    right = np.array([[1, 1, 0, 0, 1, 1], [1, 0, 1, 0, MISSING, 0]])
    points = (BASE, GridPoint(strategy="cutoff", layer=2, rank=0))
    table = answers(write_matrix(tmp_path / "e", points, right, text_only=(5,)))
    assert flipped(table, points[1].key) == (["s1"], ["s2"])


def test_failures_are_grouped_by_what_went_wrong() -> None:
    failures = pd.DataFrame(
        {"sample": ["a", "b", "c"], "kind": ["OSError", "ValueError", "OSError"], "message": ["x", "y", "x"]}
    )
    assert failure_groups(failures).to_dict("records") == [
        {"kind": "OSError", "message": "x", "samples": ["a", "c"]},
        {"kind": "ValueError", "message": "y", "samples": ["b"]},
    ]
