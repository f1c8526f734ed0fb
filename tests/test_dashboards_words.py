"""Labels, number formats, and the sentence that is written from the numbers."""

from __future__ import annotations

from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from answer_matrix import MISSING, write_matrix
from dashboards.gallery import Gallery
from dashboards.labels import end_labels, push_apart
from dashboards.pages.overview import table_rows
from dashboards.reading import reading
from dashboards.rows import ACCURACY, curves, reference, slices
from dashboards.view import State, view
from results.analysis.metrics import summary
from results.experiment import Experiment
from results.owners import owners_of
from results.suites import SuiteMember, write_suite
from results.wording import figures, p_value, percent, percent_span, points, points_span, shortened, told_apart
from workers.work import GridPoint, unpruned_point

BASE = unpruned_point(8, 64)
SCAN = tuple(GridPoint(strategy="cutoff", layer=layer, rank=0) for layer in (2, 3, 4, 5))


@given(st.lists(st.floats(0, 100), max_size=12))
def test_labels_keep_their_distance_their_order_and_their_place(wanted: list[float]) -> None:
    placed = push_apart(wanted, gap=5, low=0, high=100)
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    for below, above in pairwise(order):
        assert placed[above] - placed[below] >= 5 - 1e-9
    assert all(-1e-9 <= y <= 100 + 1e-9 for y in placed)


def test_labels_with_room_stay_where_they_are_and_a_pair_moves_by_half() -> None:
    assert push_apart([10, 50, 90], gap=5, low=0, high=100) == [10, 50, 90]
    assert push_apart([50, 50], gap=4, low=0, high=100) == [48, 52]
    assert push_apart([100, 99], gap=4, low=0, high=100) == [100, 96]


def test_too_many_labels_begin_at_the_bottom() -> None:
    assert push_apart([1, 1, 1], gap=5, low=0, high=8) == [0, 5, 10]


def test_numbers_are_written_with_a_real_minus_and_missing_as_a_dash() -> None:
    nan = float("nan")
    assert percent(0.679226) == "67.9\u00a0%"
    assert percent_span(0.6586, 0.6992) == "65.9 to 69.9\u00a0%"
    assert (points(-0.0352), points(0.012), points(-0.0001)) == ("−3.5", "+1.2", "0.0")
    assert points_span(-0.0578, 0.0) == "−5.8 to 0.0"
    assert (p_value(0.0004), p_value(0.03), p_value(1.0)) == ("< 0.001", "0.030", "1.000")
    assert (figures(0.012345), figures(-12.345), figures(1234.5)) == ("0.0123", "−12.3", "1,234")
    assert {figures(nan), percent(nan), percent_span(nan, nan), points(nan), points_span(nan, nan), p_value(nan)} == {
        "–"
    }
    assert shortened("a  b\nc" + "d" * 30, 10) == "a b cdddd…"


def test_names_are_cut_in_what_they_have_in_common() -> None:
    rules = [f"ablation layer=2 rank=64 head={head} heads_kept=8" for head in ("sum", "entropy")]
    assert told_apart([*rules, "fastv layer=2 rank=64"], 38) == [
        "ablation layer=2 rank=64 head=sum …", "ablation layer=2 … head=entropy …", "fastv layer=2 rank=64",
    ]  # fmt: skip
    assert told_apart(rules, 25) == ["ablation … head=sum …", "ablation … head=entropy …"]
    assert told_apart(["x" * 9 + str(place) for place in range(2)], 6) == ["xx…xx0", "xx…xx1"]
    long = [
        f"weighted_combination layer=2 tokens=192 alpha={alpha} head={head}" for alpha, head in ((0.1, "a"), (0.2, "b"))
    ]
    assert [name.split()[-2:] for name in told_apart(long, 12)] == [["alpha=0.1", "head=a"], ["alpha=0.2", "head=b"]]
    alike = ["x" * 9 + str(place) + "y" * 9 for place in range(2)]
    assert told_apart(alike, 6) == alike  # a long name before a wrong one


def test_the_table_writes_a_number_as_the_rest_of_the_page(tmp_path: Path) -> None:
    """A share half way between two texts, which a browser would round up."""
    right = np.ones((2, 400), dtype=int)
    right[1, :3] = 0
    write_matrix(tmp_path / "e", (BASE, SCAN[0]), right)
    row = table_rows(view(Gallery([tmp_path / "e"]).snapshot, State()))[1]
    assert (row["accuracy"], row["accuracy_text"], percent(row["accuracy"])) == (0.9925, "99.2", "99.2\u00a0%")
    scripts = [path.read_text() for path in Path(str(files("dashboards") / "assets")).rglob("*.js")]
    assert row["difference_text"] == points(row["difference"])
    assert scripts
    assert not any("toFixed" in text or "toPrecision" in text for text in scripts)


def test_models_and_benchmarks_are_called_apart_where_they_are_others(tmp_path: Path) -> None:
    """Two folders of weights of one name are two models; the same ones of two sweeps are one."""
    right = np.ones((2, 4), dtype=int)
    made = [
        write_matrix(tmp_path / name, (BASE, SCAN[0]), right, model=model, name=name)
        for name, model in (("a", "1" * 16), ("b", "2" * 16), ("c", "1" * 16))
    ]
    first, second, third = owners_of(made)
    assert first.model == third.model != second.model
    assert len({owner.benchmark for owner in (first, second, third)}) == 1


def test_a_suite_is_looked_at_as_its_experiments_under_its_own_names(tmp_path: Path) -> None:
    members = [SuiteMember(model="7b", benchmark=name) for name in ("pope", "gqa", "mme")]
    write_suite(tmp_path, "table", members)
    for member in members[:2]:
        write_matrix(tmp_path / member.folder, (BASE, SCAN[0]), np.ones((2, 4), dtype=int))
    begun = [Experiment.open(tmp_path / member.folder) for member in members[:2]]
    owners = [(owner.model, owner.benchmark) for owner in owners_of(begun)]
    assert owners == [("7b", "pope"), ("7b", "gqa")]


def test_end_labels_say_how_far_an_unfinished_curve_got(tmp_path: Path) -> None:
    right = np.ones((5, 6), dtype=int)
    right[3:] = MISSING
    rows = summary(write_matrix(tmp_path / "e", (BASE, *SCAN), right))
    (part,) = slices(rows, "layer")
    labels = end_labels(
        curves(part, ACCURACY), "layer", reference(rows, ACCURACY), ACCURACY, ("cutoff",), 2.0, (0.0, 101.0)
    )
    assert [(label.text, label.y, label.reaches) for label in labels] == [
        ("cutoff (partial, to 3)", 100, False),
        ("un-pruned 100.0\u00a0%", 100, True),
    ]
    assert labels[1].placed - labels[0].placed == pytest.approx(2)


def test_where_not_all_labels_fit_only_the_focused_series_are_named(tmp_path: Path) -> None:
    points_ = (BASE, *(GridPoint(strategy=f"s{i}", layer=2, rank=r) for i in range(9) for r in (8, 32)))
    rows = summary(write_matrix(tmp_path / "e", points_, np.ones((19, 4), dtype=int)))
    drawn = curves(slices(rows, "rank")[0], ACCURACY)
    few = end_labels(drawn, "rank", None, ACCURACY, ("s1", "s2"), 20.0, (0.0, 101.0))
    assert [label.series for label in few] == ["s1", "s2"]
    assert len(end_labels(drawn, "rank", None, ACCURACY, ("s1", "s2"), 10.0, (0.0, 101.0))) == 9


def scan_of(tmp_path: Path, lost: tuple[int, ...], samples: int = 100) -> str:
    """The reading of a layer scan in which each layer loses so many of the answers, all of them right at first."""
    right = np.ones((5, samples), dtype=int)
    right[0, -10:] = 0
    for row, count in enumerate(lost, start=1):
        right[row] = right[0]
        right[row, :count] = 0
    return reading(summary(write_matrix(tmp_path / "e", (BASE, *SCAN), right)))


def test_a_scan_reads_as_its_cost_and_where_it_ends(tmp_path: Path) -> None:
    text = scan_of(tmp_path, (41, 30, 2, 0))
    assert text.startswith("Removing every visual token from layer 2 on costs 41.0 percentage points of accuracy (95")
    assert "49.0\u00a0% right instead of 90.0\u00a0%" in text
    assert "; from layer 4 on no difference to the un-pruned model is significant (all intervals lie within" in text


def test_a_scan_without_an_effect_claims_none(tmp_path: Path) -> None:
    text = scan_of(tmp_path, (2, 1, 0, 0))
    assert "changes accuracy by −2.0 percentage points" in text
    assert "not significant" in text
    assert "none of 4 grid points differs significantly" in text


def test_a_scan_that_never_recovers_says_so(tmp_path: Path) -> None:
    assert scan_of(tmp_path, (41, 41, 41, 40)).endswith(
        "; even at layer 5 the difference to the un-pruned model is significant."
    )


def test_several_strategies_read_as_counts_and_the_cheapest_without_a_loss(tmp_path: Path) -> None:
    points_ = (BASE, *(GridPoint(strategy=s, layer=2, rank=r) for s in ("fastv", "random") for r in (8, 32)))
    right = np.ones((5, 100), dtype=int)
    right[1, :40] = 0
    right[3, :60] = 0
    right[4, :30] = 0
    text = reading(summary(write_matrix(tmp_path / "e", points_, right)))
    assert text.startswith("3 of 4 configurations answer significantly worse than the un-pruned model; ")
    assert "fastv layer=2 rank=32, which keeps 40 of 64 visual tokens in the mean over layers" in text  # (2*64+6*32)/8
    assert "of the 1 that lose at most 1 percentage point of accuracy the cheapest is" in text  # as `compare` says


def test_too_few_questions_are_said_to_show_nothing(tmp_path: Path) -> None:
    points_ = (BASE, *(GridPoint(strategy=s, layer=2, rank=8) for s in ("fastv", "random")))
    right = np.array([[1, 1, 0, 0, 1, 0], [1, 0, 1, 0, 1, 0], [0, 1, 0, 1, 1, 0]])
    text = reading(summary(write_matrix(tmp_path / "e", points_, right)))
    assert text.startswith("None of 2 configurations differs significantly from the un-pruned model; with 6 questions")


def test_nothing_changed_and_nothing_to_lose_are_said_plainly(tmp_path: Path) -> None:
    points_ = (BASE, *(GridPoint(strategy=s, layer=2, rank=8) for s in ("fastv", "random")))
    same = reading(summary(write_matrix(tmp_path / "same", points_, np.ones((3, 6), dtype=int))))
    assert same == "None of 2 configurations changes the verdict on any of 6 questions."
    wrong = reading(summary(write_matrix(tmp_path / "wrong", points_, np.zeros((3, 6), dtype=int))))
    assert wrong == "The un-pruned model answers none of 6 questions right: nothing can be lost."


def test_readings_before_there_is_anything_to_read(tmp_path: Path) -> None:
    nothing = np.full((5, 4), MISSING)
    assert (
        reading(summary(write_matrix(tmp_path / "a", (BASE, *SCAN), nothing))) == "No question has been answered yet."
    )
    only = nothing.copy()
    only[0] = 1
    assert "no grid point has been answered yet" in reading(summary(write_matrix(tmp_path / "b", (BASE, *SCAN), only)))
    without = nothing.copy()
    without[1] = 1
    assert "has not been run yet" in reading(summary(write_matrix(tmp_path / "c", (BASE, *SCAN), without)))
