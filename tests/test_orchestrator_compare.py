"""Side by side: what is compared with what, and what is recommended; and the choice of an ablation."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from answer_matrix import MISSING, write_matrix
from dashboards.reading import reading
from measured_experiment import write_measured
from orchestrator.ablate import ablate, choice_lines, choose
from orchestrator.cli import app
from orchestrator.latency import chosen_points
from orchestrator.sweep.spec import SpecError
from results.analysis.metrics import answers, summary
from results.disk import StoreError
from results.exchange.booktabs import SPAN, booktabs
from results.exchange.compare import COLUMNS, compare
from results.exchange.compare_text import printable, rendered
from results.exchange.imports import import_files
from results.exchange.lmms_samples import write_lmms_samples
from results.exchange.point_names import PointName
from results.experiment import Experiment
from workers.work import GridPoint, unpruned_point

BASE = unpruned_point(4, 64)
ORIGINALS = Path(__file__).parent / "originals"


def point(name: str, rank: int = 16) -> GridPoint:
    return GridPoint(strategy=name, layer=2, rank=rank)


def test_one_experiment_is_its_summary_with_costs(tmp_path: Path) -> None:
    experiment = write_measured(tmp_path / "x", (point("fastv"), point("random", 8)))
    rows = compare([experiment.path]).rows
    expected = summary(experiment)
    for name in ("label", "accuracy", "difference", "p_holm"):
        assert rows[name].dropna().tolist() == expected[name].dropna().tolist()
    assert rows["flops_ratio"][0] == 1 > rows["flops_ratio"][1] > rows["flops_ratio"][2]


def test_experiments_on_the_same_questions_are_paired(tmp_path: Path) -> None:
    right = np.array([[1] * 20, [1] * 10 + [0] * 10])
    first = write_matrix(tmp_path / "a", (BASE, point("fastv")), right, name="a")
    second = write_matrix(tmp_path / "b", (BASE, point("random")), 1 - right, name="b")
    rows = compare([first.path, second.path]).rows
    assert rows["experiment"].tolist() == ["a", "a", "b", "b"]
    assert rows["difference"].iloc[1:].tolist() == [-0.5, -1.0, -0.5]  # all against a's un-pruned model
    assert rows["p_holm"].iloc[2] == pytest.approx(3 * 2 / 2**20)


def test_a_method_that_is_named_without_positions_is_the_method_in_its_own_way(tmp_path: Path) -> None:
    points = (BASE, point("fastv"), replace(point("fastv"), positions="compact"), point("random"))
    right = np.array([[1] * 10, [1] * 5 + [0] * 5, [1] * 8 + [0] * 2, [1] * 9 + [0]])
    path = write_matrix(tmp_path / "x", points, right).path
    for name, differences in (("fastv", [0.3, 0.4]), ("fastv positions=compact", [-0.3, 0.1])):
        rows = compare([path], reference=name).rows
        found = rows.loc[~rows["baseline"], "difference"].dropna()
        assert found.tolist() == pytest.approx(differences), name


def test_two_models_have_each_its_own_unpruned_row_and_flops(tmp_path: Path) -> None:
    """Of four and of five layers; nothing is pruned after the last one of either, and both answer otherwise there."""
    right = np.array([[1] * 20, [1] * 10 + [0] * 10, [1] * 20])
    whole = GridPoint(strategy="cutoff", layer=4, rank=0)
    first = write_matrix(tmp_path / "a", (BASE, point("fastv"), whole), right, name="a")
    other = (unpruned_point(5, 64), point("fastv"), whole)
    second = write_matrix(tmp_path / "b", other, right[::-1][[1, 2, 0]], name="b", model="fedcba9876543210")
    rows = compare([first.path, second.path]).rows
    nan = [None if np.isnan(change) else change for change in rows["difference"]]
    assert nan == [None, -0.5, 0.0, None, 0.5, 0.5]
    assert rows["flags"].tolist() == [""] * 6  # the second's last layer is its fifth
    same = write_matrix(tmp_path / "c", (BASE, point("random")), 1 - right[:2], name="c")
    assert compare([first.path, same.path, second.path]).rows["difference"].notna().tolist()[3] is True


def test_a_reference_of_the_readers_choice(tmp_path: Path) -> None:
    """Each setting against the one of its own layer and rank, as `few_tokens` has it; tests are corrected together."""
    right = np.zeros((5, 40), dtype=int)
    right[0] = 1
    right[1, :30] = right[2, :10] = 1  # rank 16: 20 won
    right[3, :12] = right[4, 2:12] = 1  # rank 8: 2 won
    points = (BASE, point("fastv"), point("random"), point("fastv", 8), point("random", 8))
    path = write_matrix(tmp_path / "x", points, right).path
    result = compare([path], reference="random")
    rows = result.rows.set_index("label")
    ours = rows.loc[[point("fastv").label, point("fastv", 8).label]]
    assert ours["difference"].tolist() == [0.5, 0.05]
    assert ours["gained"].tolist() == [20, 2]
    assert ours["p_holm"].tolist() == pytest.approx([2 * 2 / 2**20, 0.5])
    assert rows.loc[["un-pruned", point("random").label], "difference"].isna().all()
    assert result.recommendation[0] == (
        "against random, on the same questions: 1 of 2 settings better, 0 worse, 1 not to be told apart "
        "(McNemar, exact, Holm, 5 %)"
    )
    one = compare([path], reference="random rank=8").rows  # the only one of this name: everybody's
    assert one["difference"].tolist()[:4] == [0.75, 0.5, 0.0, 0.05]
    for name, message in (
        ("nope", "no grid point has this name"),
        ("layer=2", "may be fastv .* or random .*; say whi"),
    ):
        with pytest.raises(StoreError, match=rf"--reference {name}: {message}"):
            compare([path], reference=name)
    shown = CliRunner().invoke(app, ["compare", str(path), "--reference", "random"])
    assert (shown.exit_code, "greatest gain: fastv layer=2 rank=16 (matrix), +50.0: 20 won" in shown.stdout) == (
        0,
        True,
    )


def test_imported_figures_keep_their_own_baseline(tmp_path: Path) -> None:
    files = [
        ORIGINALS / name for name in ("fastv_layer_cutoff_results.json", "fastv_textweighted_layer3_experiment.json")
    ]
    import_files(files, tmp_path / "i")
    result = compare([tmp_path / "i"])
    with_own = result.rows[result.rows["difference"].notna()]
    assert set(with_own["experiment"]) == {"i/fastv_layer_cutoff_results"}
    assert len(with_own) == 31
    last = with_own.iloc[-1]
    assert last["difference"] == 0
    assert last["diff_low"] == pytest.approx(-0.0288, abs=2e-4)  # Newcombe, 1370 of 2017 twice
    assert np.isnan(last["p_holm"])


def test_the_recommendation(tmp_path: Path) -> None:
    right = np.ones((4, 400), dtype=int)
    right[1, :4] = 0  # loses exactly 0.01
    right[2, :6] = 0
    points = (BASE, point("fastv"), point("random"), point("first_k", 8))
    lines = compare([write_matrix(tmp_path / "x", points, right).path]).recommendation
    assert lines[0] == "2 of 3 settings lose at most 1 percentage point of accuracy"
    assert lines[1].startswith("for 1 of them the whole 95 % interval")
    assert lines[2].startswith("best by accuracy: first_k layer=2 rank=8 (matrix), 100.0\u00a0% (0.0)")
    assert lines[-1].startswith("the best of 3 looks better than it is")


def hard_ones_failed(path: Path, lost: int, of: int = 400) -> Path:
    """fastv answers all but the ``lost`` questions that it would get wrong; random gets one more wrong than those."""
    right = np.ones((3, of), dtype=int)
    right[1, :lost] = MISSING
    right[2, : lost + 1] = 0
    points = (BASE, point("fastv"), point("random"))
    return write_matrix(path, points, right, failed=tuple(range(lost))).path


def test_a_setting_that_failed_on_the_hard_questions_is_not_recommended(tmp_path: Path) -> None:
    result = compare([hard_ones_failed(tmp_path / "x", 147)])
    assert result.rows["flags"].tolist() == ["", "lacks 147 answers that other settings have (147 samples failed)", ""]
    assert result.rows["n"].tolist() == [400, 253, 400]
    assert result.recommendation == (
        "0 of 1 settings lose at most 1 percentage point of accuracy",
        "1 setting lacks answers that others have, and cannot be recommended: fastv layer=2 rank=16 (matrix) 147",
    )
    said = reading(summary(Experiment.open(tmp_path / "x")))
    assert said.startswith("1 of 1 configuration answers significantly worse")


def test_settings_are_compared_on_the_questions_that_all_have_answered(tmp_path: Path) -> None:
    """A few lost answers do not shut a setting out, and do not make it better either."""
    result = compare([hard_ones_failed(tmp_path / "x", 4)])
    assert result.notes == ("compared on the 396 of 400 image questions that all settings have answered",)
    assert result.rows["n"].tolist() == [396] * 3
    assert result.rows["accuracy"].tolist() == [1, 1, 395 / 396]
    assert result.recommendation[0] == "2 of 2 settings lose at most 1 percentage point of accuracy"


def test_few_questions_without_a_flip_prove_nothing(tmp_path: Path) -> None:
    """A bootstrap of ten equal pairs has no width; what may still be lost is 3 / 10 (the rule of three)."""
    path = write_matrix(tmp_path / "x", (BASE, point("fastv")), np.ones((2, 10), dtype=int)).path
    lines = compare([path]).recommendation
    assert lines[0] == "1 of 1 settings lose at most 1 percentage point of accuracy"
    assert lines[1].startswith("for 0 of them the whole 95 % interval")


def test_the_same_sweep_run_twice_is_told_apart_by_its_directories(tmp_path: Path) -> None:
    """And where one asked fewer questions, the table says on how many the change stands."""
    points = (BASE, point("fastv"))
    few = write_matrix(tmp_path / "few", points, np.ones((2, 5), dtype=int)).path
    many = write_matrix(tmp_path / "many", points, np.ones((2, 30), dtype=int)).path
    header, body = printable(compare([few, many]).rows)
    assert [line[0] for line in body] == [f"{name}: {p.label}" for name in ("few", "many") for p in points]
    assert [line[header.index("paired")] for line in body][-1] == "5"


def test_points_can_be_chosen(tmp_path: Path) -> None:
    path = write_measured(tmp_path / "x", (point("fastv"), point("fastv", 8), point("random"))).path
    assert compare([path], ["random"]).rows["label"].tolist() == ["un-pruned", point("random").label]
    assert len(compare([path], ["fastv*rank=8", "random"]).rows) == 3
    with pytest.raises(StoreError, match="no grid point matches nope"):
        compare([path], ["nope"])


@pytest.mark.parametrize(
    ("pattern", "layers"),
    [("layer=1", [1]), ("cutoff layer=1", [1]), ("rank=0 layer=11", [11]), ("layer=1*", [1, 10, 11]), ("cut", []),
     ("cutoff*layer=1? *", [10, 11]), (" ", [])],
)  # fmt: skip
def test_a_name_means_whole_words_wherever_points_are_chosen(tmp_path: Path, pattern: str, layers: list[int]) -> None:
    points = (unpruned_point(12, 64), *(GridPoint(strategy="cutoff", layer=layer, rank=0) for layer in (1, 2, 10, 11)))
    experiment = write_matrix(tmp_path / "x", points, np.ones((5, 4), dtype=int))
    expected = [points[0], *(p for p in points if p.layer in layers)]
    if not layers:
        with pytest.raises(StoreError, match="no grid point matches"):
            compare([experiment.path], [pattern])
        with pytest.raises(SpecError, match="no grid point matches"):
            chosen_points(points, [pattern])
        return
    assert compare([experiment.path], [pattern]).rows["label"].tolist() == [p.label for p in expected]
    assert chosen_points(points, [pattern]) == tuple(expected[1:])
    files = write_lmms_samples(experiment, tmp_path / "lmms", [pattern])
    assert len(files) == len(layers)


@pytest.mark.parametrize("form", ["table", "csv", "markdown", "latex"])
def test_every_format(tmp_path: Path, form: str) -> None:
    path = write_measured(tmp_path / "x", (point("fastv"), point("text_sum"))).path
    result = CliRunner().invoke(app, ["compare", str(path), "--format", form])
    assert result.exit_code == 0, result.output
    if form == "csv":
        table = list(csv.DictReader(io.StringIO(result.stdout)))
        assert tuple(table[0]) == COLUMNS
        assert float(table[1]["accuracy"]) == compare([path]).rows["accuracy"][1]  # every digit
    else:
        assert (r"text\_sum" if form == "latex" else "text_sum") in result.stdout
        assert "of 2 settings" in result.stdout
    if form == "latex":
        assert result.stdout == rendered(compare([path]), "latex")


def test_latex_has_a_column_for_each_part_of_a_name_and_notes_below(tmp_path: Path) -> None:
    points = tuple(replace(point("weighted_combination"), params=(("alpha", alpha),)) for alpha in (0.3, 0.5))
    right = np.ones((4, 40), dtype=int)
    right[1, :10] = right[3, :1] = 0
    grid = (BASE, *points, replace(BASE, strategy="fastv"))  # which prunes nothing, and yet differs
    result = compare([write_matrix(tmp_path / "x", grid, right).path])
    table, _, _ = rendered(result, "latex").partition("\n}\n")
    names = "method & layer & tokens & alpha"
    assert table.count(names) == table.count(r"\begin{tabular}") == table.count(r"\toprule")
    layer, rank = points[0].layer, points[0].rank
    body = table.splitlines()
    first, *_ = (line for line in body if line.startswith(rf"weighted\_combination & {layer} & {rank} & 0.3 & 75.0 & "))
    assert re.search(r"75\.0 & \d\d\.\d\\,--\\,\d\d\.\d", first)
    assert any("$-$25.0 & $-$" in line and r"\,--\,$-$" in line for line in body)
    assert "fastv$^{1}$ & " in table
    assert "$^{1}$ nothing is pruned here" in table
    assert "40 image questions each" in table
    assert "suspicious" not in table


@pytest.mark.parametrize(
    ("label", "parts"),
    [
        ("un-pruned", ("un-pruned", "", "", "")),
        ("fastv layer=2 tokens=33.3%", ("fastv", "2", "tokens=33.3%", "")),
        ("ablation layer=2 rank=8 head=sum tokens=5", ("ablation", "2", "rank=8", "head=sum tokens=5")),
        ("text weighted alpha=0.5", ("text weighted", "", "", "alpha=0.5")),
    ],
)
def test_a_name_has_parts(label: str, parts: tuple[str, ...]) -> None:
    name = PointName.of(label)
    assert (name.strategy, name.layer, name.budget, name.settings) == parts
    assert name.method(layer=True) == " ".join(word for word in label.split(" ") if word != name.budget)


def test_a_table_too_wide_for_a_page_goes_on_below() -> None:
    columns = [(f"benchmark {place}", ["100.0", r"$-$3.2"]) for place in range(20)]
    table = booktabs([("method", ["fastv", "random"])], [*columns, (SPAN, ["1", "2"])], [])
    parts = [line for line in table.splitlines() if line.startswith("method")]
    assert [line.count("benchmark") for line in parts] == [5, 5, 5, 5]
    assert parts[-1].endswith(r"benchmark \\ 19} & 95 \% \\")
    assert booktabs([("method", ["fastv", "random"])], columns[:1], []).count(r"\toprule") == 1


def test_curves_of_ours_and_theirs_in_one_picture(tmp_path: Path) -> None:
    ours = write_measured(tmp_path / "x", tuple(GridPoint(strategy="cutoff", layer=k, rank=0) for k in (2, 4, 8))).path
    import_files([ORIGINALS / "fastv_layer_cutoff_results.json"], tmp_path / "i")
    for name in ("p.png", "p.pdf"):
        result = CliRunner().invoke(app, ["compare", str(ours), str(tmp_path / "i"), "--picture", str(tmp_path / name)])
        assert result.exit_code == 0, result.output
        assert (tmp_path / name).stat().st_size > 5000
    everything = [ORIGINALS / path.name for path in sorted(ORIGINALS.glob("*.json"))]
    import_files(everything, tmp_path / "all")  # of some no layer is known, and of some no number of tokens
    drawn = CliRunner().invoke(app, ["compare", str(tmp_path / "all"), "--picture", str(tmp_path / "all.png")])
    assert (drawn.exit_code, drawn.exception) == (0, None)
    alone = write_measured(tmp_path / "y", (point("fastv"),)).path
    for path, name, message in ((alone, "q.png", "no curve to draw"), (ours, "q.jpg", "must end in .png or .pdf")):
        result = CliRunner().invoke(app, ["compare", str(path), "--picture", str(tmp_path / name)])
        assert result.exit_code == 2
        assert message in result.stderr


def grid(heads: tuple[str, ...]) -> tuple[GridPoint, ...]:
    return (
        BASE,
        *(
            GridPoint(strategy="ablation", layer=2, rank=rank, params=(("head", head), ("heads_kept", 2)))
            for head in heads
            for rank in (16, 8)
        ),
    )


def test_the_choice_sums_over_budgets_and_names_its_rivals(tmp_path: Path) -> None:
    right = np.zeros((7, 12), dtype=int)
    right[0] = 1
    right[1, :6] = right[2, :6] = 1  # sum: 12
    right[3, :8] = right[4, :6] = 1  # variance: 14, better on two questions
    right[5, :7] = right[6, :6] = 1  # entropy: 13
    table = answers(write_matrix(tmp_path / "x", grid(("sum", "variance", "entropy")), right))
    choice = choose(table, ("head", "heads_kept"), {"head": "sum"})
    assert choice.text == "head=variance heads_kept=2"
    assert (choice.candidates, choice.ties, choice.questions) == (3, 1, 12)
    assert choice.accuracy == 14 / 24
    assert choice.runner_up is not None
    assert choice.plain is not None
    assert (choice.runner_up.other, choice.runner_up.better, choice.runner_up.worse) == (
        "head=entropy heads_kept=2",
        1,
        0,
    )
    assert (choice.plain.better, choice.plain.worse, choice.plain.p) == (2, 0, 0.5)
    assert choice.plain.p_adjusted == 1.0
    assert choice_lines(choice)[0].startswith(
        "best of 3: head=variance heads_kept=2, 58.3\u00a0% on the 12 image questions"
    )


def test_a_choice_by_soft_scores_is_not_one_of_right_and_wrong(tmp_path: Path) -> None:
    """All answers of ``sum`` are right by half and a little; those of ``variance`` wholly, but for a few: it wins."""
    table = answers(write_matrix(tmp_path / "x", grid(("sum", "variance")), np.ones((5, 12), dtype=int)))
    score = np.array([[1.0] * 12, *[[0.6] * 12] * 2, *[[1.0] * 9 + [0.4] * 3] * 2])
    soft = replace(table, score_PS=score, correct_PS=score >= 0.5)
    choice = choose(soft, ("head", "heads_kept"), {"head": "sum"})
    assert choice.text == "head=variance heads_kept=2"
    assert choice.accuracy == pytest.approx(10.2 / 12)
    assert choice.plain is not None
    assert (choice.plain.better, choice.plain.worse) == (9, 3)


def test_the_stages_feed_one_another(tmp_path: Path) -> None:
    """With an engine that knows the answers: stage 2 has stage 1's winner, stage 3 tests on other questions."""
    from orchestrator.sweep.prepare import Prepared
    from workers.work import SampleOutcome, UnitOutcome, WorkUnit

    asked: list[Prepared] = []

    def answer(prepared: Prepared, place: int, key: str, settings: dict[str, object], id: str) -> SampleOutcome:
        best = settings.get("head") == "sparsity" and settings.get("query") in ("last_token", "text_tokens_only")
        right = not settings or best or place % 2 == 0
        return SampleOutcome(
            point=key, sample=id, answer="A", parsed="A", correct=right, first_token=1, option_logits=(), margin=0.0,
            tokens_kept=0, kept_mask=bytes(72), decoded_tokens=1, prompt_tokens=600, visual_tokens=576,
        )  # fmt: skip

    def runner(prepared: Prepared, folder: Path) -> Experiment:
        asked.append(prepared)
        experiment = Experiment.create(folder, prepared.manifest, prepared.samples)
        unit = WorkUnit(samples=tuple(s.id for s in prepared.samples), points=prepared.spec.points)
        cells = tuple(
            answer(prepared, place, p.key, dict(p.params), sample.id)
            for place, sample in enumerate(prepared.samples)
            for p in prepared.spec.points
        )
        experiment.write(unit, UnitOutcome(unit=unit.key, outcomes=cells))
        return experiment

    result = ablate(tmp_path / "a", "head_ablation", {"samples": 10, "grid[0].tokens": ["N/2", "N/3"]}, runner)
    assert dict(result.heads.winner) == {"head": "sparsity", "heads_kept": 6}
    assert result.heads.candidates == 27
    assert result.heads.ties == 3
    second = {(dict(p.params)["head"], dict(p.params)["heads_kept"]) for p in asked[1].spec.points[1:]}
    assert second == {("sparsity", 6)}
    assert dict(result.queries.winner) == {"query": "last_token"}
    budgets = [{(p.layer, p.rank) for p in one.spec.points[1:]} for one in asked]
    assert len(budgets[0]) == 2
    assert budgets[0] == budgets[1] == budgets[2]
    assert asked[0].manifest.context == asked[1].manifest.context  # the same model, asked in the same way
    parts, bare = asked[0].manifest.context_parts, asked[2].manifest.context_parts
    assert bare == {name: part for name, part in parts.items() if name != "measure"}
    with pytest.raises(SpecError, match="smoke: has no grid entry of `strategy: ablation`"):
        ablate(tmp_path / "b", "smoke", {}, runner)
    assert [len(one.samples) for one in asked] == [10, 10, asked[2].available]
    assert (result.held_out["n_expected"] + result.held_out["n_text_only"]).max() == asked[2].available - 10
    text = result.report.read_text()
    assert "best of 27" in text
    assert "questions that chose nothing" in text
    assert {
        "1_heads",
        "2_queries",
        "2_queries.yaml",
        "3_final",
        "3_final.yaml",
        "flips.csv",
        "ablation.json",
        "ablation.md",
    } == {path.name for path in (tmp_path / "a").iterdir()}
