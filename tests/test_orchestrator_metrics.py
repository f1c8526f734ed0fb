"""Statistics against hand-computed and brute-force values, and the summary of small known matrices."""

from __future__ import annotations

import io
from fractions import Fraction
from itertools import product
from math import comb

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from answer_matrix import MISSING, write_matrix
from fake_experiment import write_fake_experiment
from orchestrator.show import show_warnings
from results.analysis.metrics import answers, reachable, summarise, summary, suspicions
from results.analysis.significance import holm, mcnemar, paired_bootstrap, resample_counts, wilson
from workers.work import GridPoint, unpruned_point

BASE = unpruned_point(8, 64)


def cutoff(layer: int) -> GridPoint:
    return GridPoint(strategy="cutoff", layer=layer, rank=0)


# -- statistics ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [
        (8, 10, 0.4901625, 0.9433178),
        (0, 10, 0.0, 0.2775328),
        (10, 10, 0.7224672, 1.0),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I
        (15, 148, 0.0624, 0.1605),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_published_intervals(correct: int, n: int, low: float, high: float) -> None:
    interval = wilson(np.array([correct]), np.array([n]))
    assert interval.low[0] == pytest.approx(low, abs=5e-5)
    assert interval.high[0] == pytest.approx(high, abs=5e-5)


def test_wilson_of_nothing_is_missing() -> None:
    interval = wilson(np.array([0]), np.array([0]))
    assert np.isnan(interval.low).all()
    assert np.isnan(interval.high).all()


def test_mcnemar_equals_enumeration_of_all_coin_tosses() -> None:
    cases = [(lost, flips - lost) for flips in range(11) for lost in range(flips + 1)]
    expected = []
    for lost, gained in cases:
        flips = lost + gained
        tosses = [abs(2 * sum(toss) - flips) >= abs(lost - gained) for toss in product((0, 1), repeat=flips)]
        expected.append(sum(tosses) / len(tosses))
    lost, gained = np.array(cases).T
    np.testing.assert_allclose(mcnemar(lost, gained), expected, rtol=1e-12)


def test_mcnemar_is_exact_where_powers_of_two_underflow() -> None:
    tail = sum(comb(2000, k) for k in range(901))
    assert mcnemar(np.array([1100]), np.array([900]))[0] == pytest.approx(float(Fraction(2 * tail, 2**2000)), rel=1e-9)


def test_holm_on_a_worked_example_leaves_tests_that_were_not_made_alone() -> None:
    corrected = holm(np.array([0.01, np.nan, 0.04, 0.03, 0.005]))
    np.testing.assert_allclose(corrected, [0.03, np.nan, 0.06, 0.06, 0.02])


def test_holm_never_exceeds_one() -> None:
    np.testing.assert_array_equal(holm(np.array([0.6, 0.9, 0.5])), [1, 1, 1])


def test_resampling_draws_as_many_as_there_are_and_is_seeded() -> None:
    counts = resample_counts(samples=50, replicates=20, seed=3)
    assert (counts.sum(axis=1) == 50).all()
    np.testing.assert_array_equal(counts, resample_counts(50, 20, 3))
    assert (counts != resample_counts(50, 20, 4)).any()


def test_bootstrap_equals_the_slow_way_on_incomplete_answers() -> None:
    rng = np.random.default_rng(0)
    answered = rng.random((5, 40)) < 0.8
    answered[3] = answered[0]  # as far as the baseline
    correct = answered & (rng.random((5, 40)) < 0.6)
    bands = paired_bootstrap(correct, answered, baseline=0, replicates=200, seed=5)

    columns = np.flatnonzero(answered[0])
    counts = resample_counts(columns.size, 200, 5)
    for row in range(1, 5):  # the reference itself does not change: the rule of three
        differences, drops = [], []
        for drawn in counts:
            picked = np.repeat(columns, drawn.astype(int))
            picked = picked[answered[row, picked]]
            base, accuracy = correct[0, picked].mean(), correct[row, picked].mean()
            differences.append(accuracy - base)
            drops.append(100 * (base - accuracy) / base)
        expected = np.quantile(differences, [0.025, 0.975])
        np.testing.assert_allclose([bands.difference.low[row], bands.difference.high[row]], expected, atol=1e-6)
        expected = np.quantile(drops, [0.025, 0.975])
        np.testing.assert_allclose([bands.drop.low[row], bands.drop.high[row]], expected, atol=1e-4)


def test_bootstrap_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    truth = 0.7 * -0.15 + 0.3 * 0.10  # right with 0.7; a right answer is lost with 0.15, a wrong one gained with 0.1
    covered = 0
    for seed in range(300):
        base = rng.random(250) < 0.7
        pruned = np.where(base, rng.random(250) >= 0.15, rng.random(250) < 0.10)
        correct = np.stack([base, pruned])
        interval = paired_bootstrap(correct, np.ones_like(correct), 0, replicates=500, seed=seed).difference
        covered += interval.low[1] <= truth <= interval.high[1]
    assert 0.91 <= covered / 300 <= 0.985


def test_bootstrap_without_shared_answers_is_missing() -> None:
    answered = np.array([[True, False], [False, True]])
    bands = paired_bootstrap(answered, answered, baseline=0)
    assert np.isnan(bands.difference.low[1])
    assert np.isnan(bands.drop.high[1])


# -- summary -------------------------------------------------------------------------------------------------------


def test_summary_of_a_small_matrix_is_what_a_pencil_says(tmp_path) -> None:
    right = np.array(
        [
            [1, 1, 1, 0, 0, 1, 1],  # un-pruned; s5 is text-only
            [1, 0, 0, 1, 0, 1, 1],
            [1, 0, MISSING, MISSING, MISSING, 0, MISSING],
            [MISSING] * 7,
        ]
    )
    points = (BASE, cutoff(2), cutoff(3), cutoff(4))
    rows = summary(write_matrix(tmp_path / "e", points, right, text_only=(5,)))

    assert rows["label"].tolist()[:2] == ["un-pruned", "cutoff layer=2 rank=0"]
    assert rows["n"].tolist() == [6, 6, 2, 0]
    assert rows["n_expected"].tolist() == [6, 6, 6, 6]
    assert rows["correct"].tolist() == [4, 3, 1, 0]
    assert rows["state"].tolist() == ["complete", "complete", "partial", "missing"]
    np.testing.assert_allclose(rows["accuracy"], [4 / 6, 3 / 6, 1 / 2, np.nan])
    assert rows["n_paired"].tolist() == [pd.NA, 6, 2, pd.NA]
    assert rows["lost"].tolist() == [pd.NA, 2, 1, pd.NA]
    assert rows["gained"].tolist() == [pd.NA, 1, 0, pd.NA]
    np.testing.assert_allclose(rows["difference"], [np.nan, -1 / 6, -1 / 2, np.nan])
    np.testing.assert_allclose(rows["relative_drop"], [np.nan, 25, 50, np.nan])
    np.testing.assert_allclose(rows["p"], [np.nan, 1, 1, np.nan])
    assert rows["n_text_only"].tolist() == [1, 1, 1, 0]
    np.testing.assert_allclose(rows["accuracy_text_only"], [1, 1, 0, np.nan])
    assert (rows["ci_low"] <= rows["accuracy"])[:3].all()
    assert rows.loc[3, ["ci_low", "diff_low", "drop_low", "p", "p_holm"]].isna().all()


def test_failed_samples_complete_a_point_and_are_counted(tmp_path) -> None:
    right = np.array([[1, 0, MISSING, 1], [1, 1, MISSING, 0]])
    rows = summary(write_matrix(tmp_path / "e", (BASE, cutoff(2)), right, failed=(2,)))
    assert rows["failed"].tolist() == [1, 1]
    assert rows["n"].tolist() == [3, 3]
    assert rows["state"].tolist() == ["complete", "complete"]


def test_relative_drop_is_missing_where_the_baseline_has_no_right_answer(tmp_path) -> None:
    rows = summary(write_matrix(tmp_path / "e", (BASE, cutoff(2)), np.array([[0, 0, 0], [1, 0, 0]])))
    assert np.isnan(rows.loc[1, "relative_drop"])
    assert np.isnan(rows.loc[1, "drop_low"])
    assert rows.loc[1, "difference"] == pytest.approx(1 / 3)


def test_a_run_without_its_baseline_has_accuracies_and_no_comparison(tmp_path) -> None:
    rows = summary(write_matrix(tmp_path / "e", (BASE, cutoff(2)), np.array([[MISSING] * 3, [1, 0, 1]])))
    assert rows.loc[1, "accuracy"] == pytest.approx(2 / 3)
    assert rows.loc[1, ["difference", "p", "p_holm", "relative_drop"]].isna().all()
    rows = summary(write_matrix(tmp_path / "f", (cutoff(2), cutoff(3)), np.array([[1, 1], [0, 1]])))
    assert rows["difference"].isna().all()
    assert rows["lost"].isna().all()


def test_summary_agrees_with_the_cells_of_a_fake_experiment(tmp_path) -> None:
    experiment = write_fake_experiment(tmp_path / "e", samples=40)
    rows = summary(experiment).set_index("key")
    cells = experiment.cells()
    of_images = cells[cells["visual_tokens"] > 0].groupby("point")["correct"]
    pd.testing.assert_series_equal(
        rows["accuracy"].sort_index(), of_images.mean().astype(float), check_names=False, check_index_type=False
    )
    assert (rows["n"] == 36).all()
    assert (rows["n_text_only"] == 4).all()
    assert rows["alpha"].dropna().tolist() == [0.3, 0.5, 0.7]


def test_summary_repeats_itself(tmp_path) -> None:
    table = answers(write_fake_experiment(tmp_path / "e", samples=30))
    pd.testing.assert_frame_equal(summarise(table), summarise(table))


# -- suspicions ----------------------------------------------------------------------------------------------------


def test_a_curve_that_is_flat_to_the_last_digit_is_flagged(tmp_path) -> None:
    rng = np.random.default_rng(0)
    flat = np.stack([rng.permutation([1] * 12 + [0] * 8) for _ in range(5)])
    points = (BASE, *(cutoff(layer) for layer in range(2, 6)))
    rows = summary(write_matrix(tmp_path / "flat", points, flat))
    assert rows["flags"].tolist() == ["", *["the same accuracy to the last digit at 4 settings"] * 4]

    flat[4] = rng.permutation([1] * 13 + [0] * 7)
    rows = summary(write_matrix(tmp_path / "not", points, flat))
    assert (rows["flags"] == "").all()


def test_all_wrong_is_flagged_from_ten_answers_on(tmp_path) -> None:
    zeros = np.zeros((2, 10), dtype=int)
    zeros[0, :5] = 1
    rows = summary(write_matrix(tmp_path / "e", (BASE, cutoff(2)), zeros))
    assert rows["flags"].tolist() == ["", "none of 10 answers is right"]
    rows = summary(write_matrix(tmp_path / "f", (BASE, cutoff(2)), zeros[:, :9]))
    assert rows["flags"].tolist() == ["", ""]


def test_what_hardly_can_be_is_said_in_the_output_of_a_run(tmp_path) -> None:
    """Answers without an option are a column, and a warning; so are curves that are constant or all wrong."""
    random = GridPoint(strategy="random", layer=2, rank=8)
    right = np.zeros((6, 20), dtype=int)
    right[0] = 1
    right[5, 1:] = 1
    experiment = write_matrix(tmp_path / "e", (BASE, *(cutoff(layer) for layer in (2, 3, 4, 5)), random), right)
    rows = summary(experiment)
    np.testing.assert_allclose(rows["no_option"], [0, 1, 1, 1, 1, 0.05])
    console = Console(width=300, file=io.StringIO())
    show_warnings(console, rows)
    assert console.file.getvalue().splitlines() == [
        "warning suspicious: none of 20 answers is right; the same accuracy to the last digit at 4 settings "
        "(cutoff layer=2 rank=0 and 3 more)",
        "warning no option was found in 100.0\u00a0% of the answers, which count as wrong "
        "(cutoff layer=2 rank=0 and 4 more)",
    ]
    show_warnings(quiet := Console(file=io.StringIO()), rows[:1])
    assert quiet.file.getvalue() == ""


@pytest.mark.parametrize("point", [cutoff(8), GridPoint(strategy="fastv", layer=2, rank=64)])
def test_a_point_that_prunes_nothing_must_answer_as_the_model_does(tmp_path, point: GridPoint) -> None:
    rows = summary(write_matrix(tmp_path / "e", (BASE, point), np.array([[1, 1, 0], [1, 0, 1]])))
    assert rows.loc[1, "flags"] == "nothing is pruned here, yet 2 answers differ from the un-pruned model"
    rows = summary(write_matrix(tmp_path / "f", (BASE, point), np.array([[1, 1, 0], [1, 1, 0]])))
    assert rows.loc[1, "flags"] == ""


def test_an_accuracy_that_no_count_can_give_is_flagged(tmp_path) -> None:
    assert reachable(1299 / 2017, 2017)
    assert reachable(0.0, 7)
    assert not reachable(0.123, 50)
    assert not reachable(1.02, 50)
    rows = summary(write_matrix(tmp_path / "e", (BASE, cutoff(2)), np.array([[1, 1, 0], [1, 0, 1]])))
    rows["accuracy"] = [2 / 3, 0.6]
    assert suspicions(rows) == ["", "no 3 answers give this accuracy"]


def test_accuracy_that_rises_as_tokens_are_dropped_is_flagged(tmp_path) -> None:
    right = np.zeros((4, 100), dtype=int)
    for row, share in enumerate((95, 50, 90, 55)):  # un-pruned; 48, 32 and 16 tokens
        right[row, :share] = 1
    points = (unpruned_point(8, 64), *(GridPoint(strategy="fastv", layer=2, rank=r) for r in (48, 32, 16)))
    flags = summary(write_matrix(tmp_path / "e", points, right))["flags"].tolist()
    assert flags[:2] == ["", ""]
    assert flags[2] == (
        "accuracy rises as tokens are dropped, beyond chance: 90.0\u00a0% with 32 tokens, but only 50.0\u00a0% with 48"
    )
    assert flags[3] == ""  # 55 instead of 50 is chance
