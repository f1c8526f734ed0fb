"""Racing: the test is fair, errs as rarely as it says, and a raced sweep has the same cells as another, only fewer."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

import stub_engine
from dashboards.report import write_report
from fake_experiment import fake_outcome, fake_samples
from orchestrator.policy import policy_of
from orchestrator.run import RunOptions, RunResult, plan_and_stops, run_sweep
from orchestrator.show import cells_text
from orchestrator.sweep.prepare import Prepared, prepare
from orchestrator.sweep.spec import load_sweep
from racing_simulation import null, simulate, spread
from results.analysis.metrics import summary
from results.analysis.racing import LEADERS, Race, RacingRule, looks, shuffled, stakes_on_the_way
from results.experiment import Experiment
from results.stops import read_stops
from workers.work import SampleFailure, UnitOutcome, WorkUnit

SAMPLES = 200


def orders(changes: list[float]) -> np.ndarray:
    return np.array(list(itertools.permutations(changes)))


@pytest.mark.parametrize(
    ("changes", "margin"),
    [
        ([-1, -1, 0, 0, 1, 1], 0.0),
        ([-0.3, 0.3, -0.6, 0.9, -0.3, 0], 0.0),
        ([0] * 6, 0.0),
        ([-1, -1, -1, 0, 0, 1, 0], 2 / 7),
        ([-1, 0, 0, 0, 0], 0.2),
    ],
)
def test_a_bet_is_fair_where_the_point_is_just_as_good_as_it_must_be(changes: list[float], margin: float):
    """Over all orders of the questions the mean stake is exactly 1 after each of them."""
    stakes = stakes_on_the_way(orders(changes), len(changes), margin)
    assert stakes.mean(axis=0) == pytest.approx(np.ones(len(changes)), abs=1e-9)


def test_a_bet_loses_where_the_point_is_better_and_wins_where_it_is_worse():
    better = stakes_on_the_way(orders([1, 1, 0, 0, -1, 0]), 6, 0.0).mean(axis=0)
    worse = stakes_on_the_way(orders([-1, -1, 0, 0, 1, 0])[:, :4], 6, 0.0).mean(axis=0)
    assert (np.diff(better) < 0).all()
    assert (np.diff(worse) > 0).all()


def test_what_cannot_be_made_up_for_is_decided():
    stakes = stakes_on_the_way(np.array([[-1, -1, -1, -1, 0]]), 8, 0.0)[0]
    assert np.isfinite(stakes[:4]).all()  # four lost, four left: a tie is possible
    assert stakes[4] == np.inf


@pytest.mark.parametrize("against", ["best", "baseline"])
@pytest.mark.parametrize("margin", [0.0, 0.05])
def test_wrong_stops_are_as_rare_as_asked(against, margin):
    rule = RacingRule(against=against, margin=margin, alpha=0.2)  # larger, so that errors happen and the test can fail
    result = simulate(rule, null(6, 100, rule), sweeps=300)
    assert result.interval[0] <= rule.alpha, result
    assert result.best_kept >= 1 - rule.alpha


def test_clear_losers_stop_soon_and_the_best_goes_on():
    result = simulate(RacingRule(), spread(20, 400, 0.5, 0.95), sweeps=10)
    assert result.saved > 0.4
    assert result.best_kept == 1.0


@pytest.mark.parametrize("racers", [2, 6])
def test_evidence_against_a_rival_counts_as_one_of_all(racers):
    """The stakes against single rivals are averaged over the racers: with more of them, one defeat decides less.

    All points but the last are right on every question. Its stakes against each leader (and itself, where it is one)
    are known; their sum over the number of racers is held against Holm's bound for the first of them.
    """
    rule, total, look = RacingRule(alpha=0.5), 200, 16
    decisions = set()
    for lost in range(1, look + 1):
        score_PS = np.ones((racers + 1, look))
        score_PS[-1, :lost] = 0
        leaders = score_PS[1:][:LEADERS]
        stake = sum(stakes_on_the_way(score_PS[[-1]] - leader, total, 0.0)[0] for leader in leaders).max()
        decided = Race(rule, racers + 1, total).decide(score_PS, np.ones(score_PS.shape, dtype=bool), look)
        decisions.add(bool(decided))
        assert (racers in decided) == (stake / racers >= racers / rule.alpha), lost
    assert decisions == {True, False}  # the bound lies between


def test_decisions_do_not_depend_on_when_one_looks():
    draw = np.random.default_rng(0)
    right_PS = spread(20, 300, 0.5, 0.95)(draw).astype(float)
    answered_PS = np.ones(right_PS.shape, dtype=bool)
    once, often = (Race(RacingRule(), len(right_PS), 300) for _ in range(2))
    once.decide(right_PS, answered_PS, 300)
    for settled in range(0, 301, 7):
        often.decide(right_PS * (np.arange(300) < settled), answered_PS & (np.arange(300) < settled), settled)
    often.decide(right_PS, answered_PS, 300)
    assert once.stopped == often.stopped != {}
    assert 0 not in once.stopped  # the un-pruned model


def test_looks_and_order():
    assert looks(100) == (16, 24, 32, 48, 64)
    assert looks(20) == ()
    samples = fake_samples(50)
    order = [sample.id for sample in shuffled(samples, 0)]
    assert order == [sample.id for sample in shuffled(samples[::-1], 0)]
    assert order != [sample.id for sample in samples]
    assert order != [sample.id for sample in shuffled(samples, 1)]


# -- whole sweeps ----------------------------------------------------------------------------------------------------


class Planted(stub_engine.StubEngine):
    """The later the cut-off, the better: spread over the benchmark, so that every stretch of it says so."""

    def run(self, unit: WorkUnit) -> UnitOutcome:
        outcome = fake_outcome(unit)
        layer = {point.key: point.layer for point in unit.points}
        cells = tuple(
            replace(cell, correct=int(cell.sample[1:]) * 37 % 100 < 8 * layer[cell.point] + 3)
            for cell in outcome.outcomes
        )
        return replace(outcome, outcomes=cells)


class Limping(Planted):
    """One of the first samples never has an answer."""

    def run(self, unit: WorkUnit) -> UnitOutcome:
        outcome = super().run(unit)
        lame = [sample for sample in unit.samples if sample == "s3"]
        failures = tuple(SampleFailure(sample=name, kind="ValueError", message="lame", traceback="") for name in lame)
        cells = tuple(cell for cell in outcome.outcomes if cell.sample not in lame)
        return replace(outcome, outcomes=cells, failures=failures)


SWEEP = "model: embedded\ndata: embedded\ngrid:\n  - {strategy: cutoff, layer: 2..L}\n"


@pytest.fixture(scope="module")
def prepare_with(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Prepared]:
    def made(racing: str) -> Prepared:
        path = tmp_path_factory.mktemp("sweep") / "sweep.yaml"
        path.write_text(SWEEP + racing)
        return replace(prepare(load_sweep(path)), samples=fake_samples(SAMPLES))  # the stub engines answer these

    return made


def run(prepared: Prepared, out: Path, engine: type[Planted] = Planted) -> tuple[RunResult, str]:
    text = io.StringIO()
    result = run_sweep(prepared, out, RunOptions(local=True, engine=engine), Console(file=text, width=200))
    return result, text.getvalue()


def test_a_raced_sweep_saves_cells_and_ranks_the_rest_the_same(prepare_with, tmp_path):
    plain, _ = run(prepare_with(""), tmp_path / "plain")
    raced, said = run(prepare_with("racing: true\n"), tmp_path / "raced")
    stops = raced.stops
    assert stops is not None
    assert stops == read_stops(raced.experiment)
    assert raced.computed + stops.saved == plain.computed == 12 * SAMPLES
    assert stops.saved / stops.cells > 0.3
    assert "racing stopped cutoff layer=2 rank=0" in said
    table, full = summary(raced.experiment).set_index("key"), summary(plain.experiment).set_index("key")
    early = table["state"] == "stopped early"
    assert set(table.index[early]) == set(stops.stopped)
    assert set(table["state"]) == {"stopped early", "complete"}
    survivors = table.index[~early]
    columns = ["accuracy", "ci_low", "n", "correct"]
    pd.testing.assert_frame_equal(table.loc[survivors, columns], full.loc[survivors, columns])
    page = write_report(raced.experiment).read_text()
    assert f"stopped {early.sum()} of 11 configurations early" in page
    assert full.loc[survivors, "accuracy"].min() > full.loc[table.index[early], "accuracy"].max()


def test_a_raced_sweep_resumes_to_the_same_and_racing_can_be_undone(prepare_with, tmp_path):
    out, raced = tmp_path / "x", prepare_with("racing: {alpha: 0.05}\n")
    first, _ = run(raced, out)
    assert first.stops is not None
    again, _ = run(raced, out)
    assert (again.computed, again.stops) == (0, first.stops)
    plan, stops = plan_and_stops(raced, out, 1)
    assert cells_text(plan, stops) == (
        f"{first.computed} of {12 * SAMPLES} are there already; {first.stops.saved} not needed, of the "
        f"{len(first.stops.stopped)} points that racing stopped; 0 to be computed"
    )
    plan, stops = plan_and_stops(prepare_with("racing: false\n"), out, 1)
    assert (plan.missing, stops) == (first.stops.saved, None)
    undone, said = run(prepare_with(""), out)
    assert undone.computed == first.stops.saved
    assert f"{first.computed} of {12 * SAMPLES} are there already; {undone.computed} to be computed" in said
    assert read_stops(undone.experiment) is None
    plain, _ = run(prepare_with(""), tmp_path / "plain")
    pd.testing.assert_frame_equal(undone.experiment.cells(), plain.experiment.cells())
    assert set(summary(undone.experiment)["state"]) == {"complete"}


def test_half_a_raced_sweep_comes_to_the_decisions_of_a_whole_one(prepare_with, tmp_path):
    whole, _ = run(prepare_with("racing: true\n"), tmp_path / "whole")
    broken, _ = run(prepare_with("racing: true\n"), tmp_path / "broken")
    for file in sorted((tmp_path / "broken/cells").iterdir())[::2]:
        file.unlink()
    again, _ = run(prepare_with("racing: true\n"), tmp_path / "broken")
    assert again.stops is not None
    assert whole.stops is not None
    assert again.stops.stopped == whole.stops.stopped
    assert broken.computed >= again.computed > 0


def test_a_damaged_note_of_racing_harms_nobody(prepare_with, tmp_path):
    out = tmp_path / "x"
    run(prepare_with("racing: true\n"), out)
    (out / "racing.json").write_text(json.dumps({"rule": 3}))
    assert read_stops(Experiment.open(out)) is None
    assert "partial" in set(summary(Experiment.open(out))["state"])


def test_a_failed_sample_does_not_undo_what_was_decided(prepare_with, tmp_path):
    prepared = prepare_with("racing: true\n")
    first, _ = run(prepared, tmp_path / "x", Limping)
    again, _ = run(prepared, tmp_path / "x", Limping)
    assert first.stops is not None
    assert again.stops is not None
    assert len(first.stops.stopped) > 3
    assert again.stops.stopped == first.stops.stopped
    assert policy_of(first.experiment).stopped == first.stops.stopped
    assert again.computed == 0
