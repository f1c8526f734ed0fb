"""The rows behind the pages of single questions, as numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from answer_matrix import MISSING, write_matrix
from dashboards.charts import LINES, pareto_figure, rate_figure, state_figure, token_figure
from dashboards.contrasts import ablations, contrast_rows
from dashboards.explorer import index_document
from dashboards.gallery import Gallery
from dashboards.looks import method_look
from dashboards.pages.catalog import asked
from dashboards.pareto import COSTS, _at_no_more_cost, front, pareto_rows
from dashboards.progress import progress, rate_rows, state_rows, worker_rows
from dashboards.rows import ACCURACY as MEASURED_ACCURACY
from dashboards.rows import baselines, labels, reference, with_series
from dashboards.spectra import KINDS, impossible_ranks, kinds_of, spoken, token_rows
from dashboards.versus import versus_rows, with_mean_tokens
from measured_experiment import write_measured
from results.analysis.matrix import UnitFile
from results.analysis.metrics import answers, contrast, summarise
from results.analysis.significance import mcnemar
from results.provenance import ways
from results.tables import stated_by, write_table
from workers.work import GridPoint, UnitOutcome, unpruned_point

BASE = unpruned_point(8, 64)
QUANTITY = "hidden_states.7.effective_rank"


# -- tokens kept ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def curve(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    right = np.zeros((5, 40), dtype=int)
    for row, share in enumerate((40, 30, 25, 20, 10)):
        right[row, :share] = 1
    points = (BASE, *(GridPoint(strategy="fastv", layer=2, rank=r) for r in (48, 32, 16, 8)))
    return summarise(answers(write_matrix(tmp_path_factory.mktemp("curve") / "e", points, right)))


def measured(curve: pd.DataFrame, means: list[float], name: str = QUANTITY) -> pd.DataFrame:
    return pd.DataFrame(
        {"point": curve["key"].iloc[1:], "label": "", "name": name, "mean": means, "se": 0.5, "n": 8}
    ).reset_index(drop=True)


def test_token_rows_run_from_many_to_few_and_from_0_to_1(curve: pd.DataFrame) -> None:
    rows = token_rows(curve.iloc[1:], measured(curve, [20.0, 16.0, 9.0, 4.0]))
    accuracy, rank = (rows[rows["quantity"] == name] for name in ("accuracy", QUANTITY))
    assert accuracy["x"].tolist() == [48, 32, 16, 8]
    np.testing.assert_allclose(accuracy["raw"], [75, 62.5, 50, 25])
    np.testing.assert_allclose(accuracy["y"], [1, 0.75, 0.5, 0])
    np.testing.assert_allclose(rank["y"], [1, 0.75, 0.3125, 0])
    np.testing.assert_allclose(rank["raw_high"] - rank["raw"], 1.96 * 0.5)
    assert set(rank["n"]) == {8}
    assert token_rows(curve.iloc[1:], measured(curve, [5.0] * 4)).query("kind == 'effective_rank'")["y"].eq(0).all()


def test_what_is_drawn_of_a_spectrum_is_chosen(curve: pd.DataFrame) -> None:
    names = ("hidden_states.7.effective_rank", "hidden_states.7.log10_condition", "hidden_states.7.stable_rank")
    tables = [measured(curve, [20.0, 16.0, 9.0, 4.0], name) for name in names]
    table = pd.concat([*tables, measured(curve, [1.0] * 4, "concentration.top_mass")])
    assert set(LINES) == {"accuracy", *KINDS}
    assert kinds_of(table) == ["effective_rank", "stable_rank", "log10_condition"]
    assert set(token_rows(curve.iloc[1:], table)["quantity"]) == {"accuracy", names[0]}
    rows = token_rows(curve.iloc[1:], table, names[1].rpartition(".")[2:])
    assert set(rows["quantity"]) == {"accuracy", names[1]}
    lines = [trace.name for trace in token_figure(rows, "fastv", raw=True).data if trace.mode == "lines+markers"]
    assert lines == ["accuracy", "log10 condition of hidden states, layer 7"]


def test_the_token_figure_draws_those_rows(curve: pd.DataFrame) -> None:
    rows = token_rows(curve.iloc[1:], measured(curve, [20.0, 16.0, 9.0, 4.0]))
    for raw, column in ((False, "y"), (True, "raw")):
        figure = token_figure(rows, "fastv", raw)
        lines = {trace.name: trace for trace in figure.data if trace.mode == "lines+markers"}
        assert set(lines) == {"accuracy", spoken(QUANTITY)}
        np.testing.assert_allclose(lines["accuracy"].y, rows[rows["quantity"] == "accuracy"][column])
        assert figure.layout.xaxis.range[0] > figure.layout.xaxis.range[1]  # 64 stands left of 8
        assert figure.layout.hovermode == "x unified"
    assert len({trace.yaxis for trace in figure.data}) == 2  # raw: each kind has an axis of its own


def test_ranks_that_cannot_be_are_named(curve: pd.DataFrame) -> None:
    assert impossible_ranks(measured(curve, [20.0, 16.0, 9.0, 4.0]), curve) == []
    (above,) = impossible_ranks(measured(curve, [20.0, 16.0, 17.0, 9.0]), curve)
    assert (
        above
        == "effective rank of hidden states, layer 7: above the number of kept tokens at 2 settings, which cannot be"
    )
    (constant,) = impossible_ranks(measured(curve, [7.5] * 4), curve)
    assert "one and the same at 4 numbers of kept tokens" in constant
    before = measured(curve, [60.0] * 4, "hidden_states.1.effective_rank")  # layer 1 still sees all 64 tokens
    assert impossible_ranks(before, curve) == []


# -- pareto -----------------------------------------------------------------------------------------------------------


def test_front_by_hand() -> None:
    cost = np.array([1.0, 2.0, 2.0, 3.0, 4.0, 5.0])
    accuracy = np.array([0.5, 0.6, 0.7, 0.65, 0.7, 0.9])
    assert front(cost, accuracy).tolist() == [True, False, True, False, False, True]
    assert front(np.empty(0), np.empty(0)).tolist() == []


def test_a_point_is_held_against_the_front_at_its_own_cost() -> None:
    """Of equal cost the better one leads; a dearer point of the front does not."""
    x, on_front = np.array([1.0, 2.0, 2.0, 2.5, 3.0, 0.5]), np.array([True, True, False, False, True, False])
    assert _at_no_more_cost(x, on_front).tolist() == [0, 1, 1, 1, 4, -1]
    assert _at_no_more_cost(x, np.zeros(6, dtype=bool)).tolist() == [-1] * 6


def test_points_that_cannot_be_told_from_the_front_are_marked(tmp_path: Path) -> None:
    right = np.zeros((5, 100), dtype=int)
    for row, share in enumerate((90, 50, 80, 78, 40)):
        right[row, :share] = 1
    points = (BASE, *(GridPoint(strategy=s, layer=2, rank=8) for s in ("a", "b", "c", "d")))
    table = answers(write_matrix(tmp_path / "e", points, right))
    rows = summarise(table).assign(experiment="e", flops_ratio=[1.0, 0.2, 0.4, 0.5, 0.5])
    found = pareto_rows(rows, COSTS[1], {"e": (table, rows["key"])}).set_index("strategy")
    assert found["x"].tolist() == [20, 40, 50, 50]
    assert found["front"].to_dict() == {"a": True, "b": True, "c": False, "d": False}
    assert found["near"].to_dict() == {"a": False, "b": False, "c": True, "d": False}
    assert mcnemar(np.array([2]), np.array([0]))[0] == 0.5  # what c is judged by
    named = with_series(found.reset_index())
    figure = pareto_figure(named.assign(short=labels(named)), COSTS[1], rows[rows["baseline"]])
    dots = {trace.name: trace.marker.color for trace in figure.data if trace.name}
    assert dots == {name: method_look(name, "abcd")[0] for name in "abcd"}
    steps = [trace for trace in figure.data if trace.line.shape == "hv"]
    assert [list(step.x) for step in steps] == [[20, 40]]
    (star,) = [trace for trace in figure.data if trace.marker.symbol == "star"]
    np.testing.assert_allclose((star.x[0], star.y[0]), (100, 90))
    assert star.error_y.array[0] > 0


def test_the_front_of_soft_scores_is_not_one_of_right_and_wrong(tmp_path: Path) -> None:
    """Every question loses 0.2 of its score, and all scores stay above a half: a loss all the same."""
    points = (BASE, *(GridPoint(strategy=s, layer=2, rank=8) for s in ("a", "b")))
    table = answers(write_matrix(tmp_path / "e", points, np.ones((3, 50), dtype=int)))
    table = replace(table, score_PS=np.array([[0.9] * 50, [0.8] * 50, [0.6] * 50]))
    rows = summarise(table).assign(experiment="e", flops_ratio=[1.0, 0.4, 0.5])
    found = pareto_rows(rows, COSTS[1], {"e": (table, rows["key"])}).set_index("strategy")
    assert found["front"].to_dict() == {"a": True, "b": False}
    assert not found["near"].any()
    assert found["front_test"].unique().tolist() == ["paired bootstrap"]


def test_without_a_cost_there_is_no_point(tmp_path: Path) -> None:
    table = answers(
        write_matrix(tmp_path / "e", (BASE, GridPoint(strategy="a", layer=2, rank=8)), np.ones((2, 4), int))
    )
    rows = summarise(table).assign(experiment="e")
    assert pareto_rows(rows, COSTS[1], {"e": (table, rows["key"])}).empty


# -- comparisons with a rule ------------------------------------------------------------------------------------------


def rule(head: str, query: str = "last_token", heads: int = 8) -> GridPoint:
    return GridPoint(strategy="ablation", layer=2, rank=16,
                     params=(("head", head), ("heads_kept", heads), ("query", query)))  # fmt: skip


def test_rules_are_compared_with_the_originals_reference_on_the_same_questions(tmp_path: Path) -> None:
    points = (BASE, rule("sum"), rule("entropy"), rule("variance"), rule("sum", "last_n_tokens"), rule("sum", heads=4))
    right = np.zeros((6, 40), dtype=int)
    right[0] = 1
    right[1, :20] = 1
    right[2, 5:35] = 1  # loses 5 and gains 15
    right[3, :20] = 1
    right[3, 30:] = MISSING
    table = answers(write_matrix(tmp_path / "e", points, right))
    rows = summarise(table)
    heads, queries = ablations(rows)
    assert (heads.factor, heads.heads_kept, heads.rank, heads.other) == ("head", "8", 16, "last_token")
    assert heads.rows["rule"].tolist() == ["sum", "entropy", "variance"]
    assert (queries.factor, queries.other) == ("query", "sum")
    found = contrast_rows(heads.rows, points[1].key, table, rows["key"]).set_index("rule")
    assert found.index.tolist() == ["entropy", "variance"]
    assert found.loc["entropy", ["lost", "gained", "n_paired"]].tolist() == [5, 15, 40]
    assert found.at["entropy", "x"] == pytest.approx(25)
    assert found.at["entropy", "low"] < 25 < found.at["entropy", "high"]
    assert found.at["entropy", "p"] == pytest.approx(mcnemar(np.array([5]), np.array([15]))[0])
    assert found.at["entropy", "p_holm"] == pytest.approx(2 * found.at["entropy", "p"])  # two rules are compared
    assert found.loc["variance", ["lost", "gained", "n_paired"]].tolist() == [0, 0, 30]


def test_contrast_with_the_unpruned_model_is_the_summarys(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    points = (BASE, *(GridPoint(strategy="fastv", layer=2, rank=r) for r in (4, 8, 16)))
    table = answers(write_matrix(tmp_path / "e", points, (rng.random((4, 50)) < 0.7).astype(int), text_only=(3,)))
    rows = summarise(table)
    names = ["n_paired", "lost", "gained", "difference", "diff_low", "diff_high", "p", "p_holm"]
    pd.testing.assert_frame_equal(contrast(table, [1, 2, 3], 0)[names], rows[names].iloc[1:].reset_index(drop=True))


# -- several experiments ----------------------------------------------------------------------------------------------


def test_unpruned_models_that_differ_have_a_line_each() -> None:
    base = {"baseline": True, "n": 50, "ci_low": 0.5, "ci_high": 0.9}
    rows = pd.DataFrame(
        [{**base, "experiment": name, "correct": right, "accuracy": right / 50} for name, right in
         (("a", 40), ("b", 30), ("c", 40))]
    )  # fmt: skip
    assert baselines(rows) == [("a, c", 80.0), ("b", 60.0)]
    assert reference(rows, MEASURED_ACCURACY) is None
    same = rows[rows["correct"] == 40]
    assert baselines(same) == []
    assert reference(same, MEASURED_ACCURACY).value == 80


# -- the run ----------------------------------------------------------------------------------------------------------


def unit(written: float, worker: str = "gpu0", cells: int = 60) -> UnitFile:
    return UnitFile(written=written, cells=cells, worker=worker)


def test_speed_time_left_and_states_by_hand(tmp_path: Path) -> None:
    right = np.ones((3, 100), dtype=int)
    right[1:, 60:] = MISSING
    right[:, 0] = MISSING
    points = (BASE, GridPoint(strategy="a", layer=2, rank=8), GridPoint(strategy="a", layer=2, rank=4))
    table = answers(write_matrix(tmp_path / "e", points, right, failed=(0,)))
    done = progress(table, [unit(10.0 * place) for place in range(11)])  # 60 cells every 10 s: 2 samples a second
    assert (done.cells, done.answered, done.failed, done.missing) == (300, 99 + 2 * 59, 3, 80)
    assert done.per_s == pytest.approx(2.0)
    assert done.left_s == pytest.approx(80 / 3 / 2)
    assert np.isnan(progress(table, []).left_s)
    states = state_rows(summarise(table).assign(experiment="e")).set_index("strategy")
    assert states.loc["a", ["answered", "failed", "missing", "points", "complete"]].tolist() == [118, 2, 80, 2, 0]
    assert state_figure(states.reset_index()).data[0].x[1] == pytest.approx(59)


def test_pauses_are_cut_out_and_workers_are_told_apart() -> None:
    first = [unit(10.0 * place, f"gpu{place % 2}") for place in range(20)]
    later = [unit(100_000 + 10.0 * place, f"gpu{place % 2}") for place in range(20)]
    rows = rate_rows([*first, *later], points=3)
    assert rows["minute"].max() < 7
    assert set(rows["worker"]) == {"gpu0", "gpu1"}
    total = rows.groupby("minute")["per_s"].sum()
    assert total.median() == pytest.approx(2.0, rel=0.35)  # 60 cells of 3 points every 10 s
    assert rate_rows([unit(0)], points=3).empty
    assert len(rate_figure(rows).data) == 3  # both, and their sum


def test_the_times_of_answers_are_those_that_were_stored_and_what_a_gpu_had_to_do_stands_beside(tmp_path: Path) -> None:
    """A copy of an experiment has files of today, and answers of then."""
    made = write_matrix(tmp_path / "e", (BASE, GridPoint(strategy="a", layer=2, rank=8)), np.ones((2, 3), dtype=int))
    (path,) = made.files("cells")
    outcome = UnitOutcome(
        unit="u", outcomes=(), worker="w", seconds=2.0, peak_bytes=2**30, device_bytes=4 * 2**30, busy=0.25
    )
    table = pq.read_table(path)
    write_table(path, table.replace_schema_metadata(stated_by(outcome, 1000.5)))
    write_table(path.with_name("before.parquet"), table.replace_schema_metadata({"worker": "w"}))
    shown = Gallery([made.path]).snapshot.sources[0]
    old, new = sorted(shown.units, key=lambda unit: -unit.written)
    assert (new.written, old.written) == (1000.5, path.with_name("before.parquet").stat().st_mtime)
    assert ways(made).total() == 12
    (row,) = worker_rows([new, old]).to_dict("records")
    assert (row["cells"], row["peak_gib"], row["device_gib"], row["busy"]) == (12, 1.0, 4.0, 0.25)


def test_a_method_has_one_colour_on_every_page_whatever_is_filtered_away(tmp_path: Path) -> None:
    names, places = ("fastv", "divprune", "random"), ((2, 16), (2, 8), (3, 16), (3, 8))
    points = (BASE, *(GridPoint(strategy=name, layer=layer, rank=rank) for name in names for layer, rank in places))
    right = (np.random.default_rng(0).random((len(points), 40)) < 0.7).astype(int)
    snapshot = Gallery([write_matrix(tmp_path / "e", points, right).path]).snapshot

    def colours(path: str, search: str = "") -> dict[str, str]:
        page, shown = asked(snapshot, path, search)
        drawn = [trace for panel in page.panels(shown) if panel.figure is not None for trace in panel.figure.data]
        return {
            trace.name: trace.marker.color for trace in drawn
            if trace.name in names and trace.mode != "lines" and isinstance(trace.marker.color, str)
        }  # fmt: skip

    whole = colours("/layer")
    assert set(whole) == set(names)
    assert len(set(whole.values())) == 3
    assert whole == colours("/tokens") == {name: method_look(name, names)[0] for name in names}
    assert colours("/layer", "?strategy=random") == {"random": whole["random"]}


def test_two_methods_are_compared_wherever_both_keep_as_much(tmp_path: Path) -> None:
    """At one layer and rank, or as many tokens on average: 2 * 64 + 6 * 16 of 8 layers are 28 of layer 0."""
    points = (
        BASE, *(GridPoint(strategy="fastv", layer=2, rank=rank) for rank in (16, 8)),
        GridPoint(strategy="random", layer=2, rank=8), GridPoint(strategy="divprune", layer=0, rank=28),
    )  # fmt: skip
    right = np.ones((5, 40), dtype=int)
    right[1, 30:] = 0
    right[2, 20:] = 0
    right[3, :5] = 0
    right[4, 38:] = MISSING
    made = write_matrix(tmp_path / "e", points, right)
    source = Gallery([made.path]).snapshot.sources[0]
    rows = with_series(with_mean_tokens(source.summary))
    ids = source.summary["id"].tolist()
    (alike,) = versus_rows(rows, source.answers, ids, "fastv", "random").to_dict("records")
    assert (alike["setting"], alike["gained"], alike["lost"]) == ("layer=2 rank=8", 5, 20)
    assert (alike["x"], alike["partner"]) == (-37.5, ids[3])
    assert alike["p"] == alike["p_holm"] == pytest.approx(mcnemar(np.array([20]), np.array([5]))[0])
    alone = contrast(source.answers, [2], 3).iloc[0]  # the same pair by itself; 38 of 40 questions have all answers
    assert (alike["difference"], alike["diff_low"]) == (alone["difference"], alone["diff_low"])
    (near,) = versus_rows(rows, source.answers, ids, "divprune", "fastv").to_dict("records")
    assert near["setting"] == "layer=0 rank=28 against layer=2 rank=16"
    assert (near["n_paired"], near["gained"], near["lost"]) == (38, 8, 0)  # on the questions that both have answered
    assert versus_rows(rows, source.answers, ids, "random", "divprune").empty
    index = index_document(made, source.answers, source.summary, frozenset(), (), pair=(points[2].key, points[3].key))
    assert [sample["duel"] for sample in index["samples"]] == [1] * 5 + [0] * 15 + [-1] * 20
    assert index["groups"][0]["points"] == [2, 3]


def test_models_are_drawn_apart_each_against_its_own_unpruned_answers(tmp_path: Path) -> None:
    """One answers all and loses half of it, the other knows nothing: no picture holds both."""
    points = (BASE, *(GridPoint(strategy="fastv", layer=layer, rank=8) for layer in (2, 3)))
    right = np.ones((3, 40), dtype=int)
    right[1:, :20] = 0
    paths = [
        write_matrix(tmp_path / name, points, answered, model=name * 16, name=name).path
        for name, answered in (("1", right), ("2", 0 * right))
    ]
    snapshot = Gallery(paths).snapshot
    page, shown = asked(snapshot, "/layer", "")
    panels = page.panels(shown)
    assert len({panel.name for panel in panels}) == len(panels)
    assert all(panel.rows["model"].nunique() == 1 for panel in panels)
    changes = [panel for panel in panels if panel.name.startswith("difference")]
    assert [panel.rows["difference"].tolist() for panel in changes] == [[-0.5, -0.5], [0.0, 0.0]]
    page, one = asked(snapshot, "/layer", f"?model={shown.rows['model'].iloc[0]}")
    assert {panel.rows["experiment"].iloc[0] for panel in page.panels(one)} == {"1"}


def test_the_controls_of_the_ablations_offer_what_is_drawn(tmp_path: Path) -> None:
    """Sixteen tokens were tried with 4 heads alone, 32 with 2 alone: who chooses the heads is offered their tokens."""
    write_measured(
        tmp_path / "x",
        tuple(
            GridPoint(
                strategy="ablation", layer=2, rank=rank,
                params=(("head", head), ("heads_kept", heads), ("query", "last_token")),
            )
            for heads, rank in ((4, 16), (2, 32))
            for head in ("sum", "entropy", "variance")
        ),
    )  # fmt: skip
    snapshot = Gallery([tmp_path / "x"]).snapshot
    for heads, rank in (("4", "16"), ("2", "32")):
        page, shown = asked(snapshot, "/ablations", f"?heads={heads}")
        kept = next(control for control in page.controls(shown) if control.name == "kept")
        assert (list(kept.values), kept.preset) == ([rank], [rank])
        assert f"{heads} heads kept, {rank} visual tokens" in page.panels(shown)[0].note


def test_the_spectra_on_offer_are_those_of_the_chosen_curve(tmp_path: Path) -> None:
    names = {"a": "effective_rank", "b": "stable_rank"}
    for name, kind in names.items():
        points = tuple(GridPoint(strategy="fastv", layer=2, rank=rank) for rank in (8, 16))
        write_measured(tmp_path / name, points, lambda point, kind=kind: ((f"hidden_states.7.{kind}", 3.0),))
    snapshot = Gallery([tmp_path / "a", tmp_path / "b"]).snapshot
    page, shown = asked(snapshot, "/tokens", "")
    (curve,) = (control for control in page.controls(shown) if control.name == "curve")
    offered = {}
    for value in curve.values:
        page, shown = asked(snapshot, "/tokens", f"?curve={quote(value)}")
        offered[value] = [list(c.values) for c in page.controls(shown) if c.name == "measures"]
    assert offered == {"a: fastv": [], "b: fastv": [["stable_rank"]]}


def test_tokens_show_accuracy_first_and_scale_it_beside_spectra_alone(tmp_path: Path) -> None:
    points = tuple(GridPoint(strategy=name, layer=2, rank=rank) for name in ("fastv", "random") for rank in (8, 16))
    write_measured(tmp_path / "without", points)
    write_measured(tmp_path / "with", points, lambda point: (("hidden_states.7.effective_rank", point.rank / 2),))
    for name, panels, controls in (
        ("without", ["accuracy", "difference"], ["at"]),
        ("with", ["accuracy", "difference", "ranks"], ["at", "curve", "scale"]),
    ):
        page, shown = asked(Gallery([tmp_path / name]).snapshot, "/tokens", "")
        found = page.panels(shown)
        assert [panel.name for panel in found] == panels
        assert [control.name for control in page.controls(shown)] == controls
        figure = found[0].figure
        assert figure is not None
        assert max(figure.layout.yaxis.range) > 50, "percent, not scaled"
        assert ("no spectra" in found[0].note) == (name == "without")
