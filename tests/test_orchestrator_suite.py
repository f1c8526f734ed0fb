"""Suites: one grid on several benchmarks, by one crew of engines, and the table that comes of it."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from functools import partial
from math import sqrt
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

import stub_engine
from answer_matrix import MISSING, write_matrix
from dashboards.model_plot import write_model_plot
from fake_experiment import fake_samples
from orchestrator.cli import app
from orchestrator.cluster.pool import PoolOptions
from orchestrator.crew import Crew
from orchestrator.run import RunOptions
from orchestrator.suite import PreparedMember, one_a_model, prepare_suite, run_suite
from orchestrator.sweep.mistakes import SpecError
from orchestrator.sweep.source import SUITES, shipped_sweeps
from orchestrator.sweep.spec import SweepSpec
from orchestrator.sweep.suite import is_suite, load_suite
from results.analysis import published, task_metrics
from results.analysis.benchmark_table import BenchmarkTable, Spread, benchmark_table
from results.analysis.by_model import by_model, model_curves
from results.analysis.printed_costs import with_costs
from results.analysis.suite_table import suite_table
from results.disk import StoreError
from results.exchange.benchmark_text import printable, rendered
from results.literature import LINEAGES, Lineage, Published
from results.suites import Results, SuiteMember, left_out_of, read_suite, results_of, write_suite
from results.timeline import read_timeline
from small_qwen import make_qwen
from strategies.errors import UsageError
from test_orchestrator_sweeps import config
from workers.embedded.location import DATA_DIR, MODEL_DIR
from workers.work import GridPoint, unpruned_point

HEAD = "model: embedded\ndata: embedded\ngrid: [{strategy: [fastv, random], layer: 2, rank: 16}]\n"
TWO = (
    "suite: {benchmarks: [{name: places, task: {questions: places.json}}, {name: all, task: scienceqa, samples: 3}]}\n"
)


def written(folder: Path, text: str, name: str = "table.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_a_suite_is_its_members_as_sweeps(tmp_path):
    path = written(tmp_path, HEAD + TWO + "samples: 7\nmax_new_tokens: 5\n")
    assert is_suite(path)
    assert not is_suite("smoke")
    suite = load_suite(path, gpu=False)
    assert suite.name == "table"
    assert [(one.title, str(one.folder), one.spec.name, one.spec.sample_limit) for one in suite.members] == [
        ("places", "places", "places", 7),
        ("all", "all", "all", 3),
    ]
    assert [one.spec.engine.task.questions for one in suite.members] == ["places.json", None]
    assert {one.spec.points for one in suite.members} == {suite.members[0].spec.points}
    assert {one.spec.engine.max_new_tokens for one in suite.members} == {5}
    changed = load_suite(path, {"samples": 2, "grid[0].rank": 9}, gpu=False).members
    assert [one.spec.sample_limit for one in changed] == [2, 2]
    assert {point.rank for one in changed for point in one.spec.points[1:]} == {9}


def test_data_lies_in_a_folder_for_each_benchmark(tmp_path):
    text = HEAD.replace("data: embedded", f"data: {tmp_path}") + (
        "suite: {benchmarks: [pope, {name: gqa, data: GQA/2019}, {name: own, task: mme, data: /elsewhere}]}\n"
    )
    members = load_suite(written(tmp_path, text), gpu=False).members
    assert [one.spec.engine.task.data for one in members] == [f"{tmp_path}/pope", f"{tmp_path}/GQA/2019", "/elsewhere"]
    assert [one.spec.engine.task.name for one in members] == ["pope", "gqa", "mme"]


def test_several_models_have_a_folder_each(tmp_path):
    models = f"suite: {{benchmarks: [scienceqa], models: [embedded, {{path: {MODEL_DIR}, dtype: bfloat16}}]}}\n"
    suite = load_suite(written(tmp_path, HEAD.replace("model: embedded\n", "") + models), gpu=False)
    assert [str(one.folder) for one in suite.members] == ["embedded/scienceqa", f"{MODEL_DIR.name}/scienceqa"]
    assert [one.spec.engine.model.dtype for one in suite.members] == ["float32", "bfloat16"]


def test_what_one_of_several_models_cannot_run_is_an_empty_row_with_its_reason(tmp_path):
    """A 2-layer model beside the embedded one of more: a method from layer 5 on is the other's alone."""
    shallow = make_qwen(tmp_path / "shallow")
    text = (
        f"data: embedded\nsuite: {{benchmarks: [scienceqa], models: [embedded, {shallow}]}}\n"
        "grid: [{strategy: [fastv, random], layer: 5, rank: 50%}, {strategy: random, layer: 1, rank: 50%}]\n"
    )
    suite = load_suite(written(tmp_path, text), gpu=False)
    assert [len(one.spec.points) for one in suite.members] == [4, 2]
    assert [(one.model, one.strategy) for one in suite.left_out] == [("shallow", "fastv"), ("shallow", "random")]
    reason = suite.left_out[0].reason
    assert prepare_suite(suite)[1][0] == f"left out: shallow fastv: {reason}"
    write_suite(tmp_path / "out", "x", [SuiteMember(model="shallow", benchmark="first")], suite.left_out)
    home = tmp_path / "out" / "shallow" / "first"
    write_matrix(home, GRID, np.ones((len(GRID), 40), dtype=int), name="first")
    table = benchmark_table(results_of([tmp_path / "out"]), left_out=left_out_of([tmp_path / "out"]))
    absent = [row for row in table.rows if row.budget == "cannot run"]
    assert [(row.method, row.cells) for row in absent] == [("fastv", {}), ("random", {})]
    assert f"shallow fastv: cannot run: {reason}" in table.notes
    for form in ("csv", "markdown", "latex"):
        assert "cannot run" in rendered(table, form)
    with pytest.raises(SpecError, match=r"table.yaml: grid\[0\]"):
        load_suite(written(tmp_path, text.replace("layer: 5", "layer: 99")), gpu=False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD + "suite: {benchmarks: []}\n", "suite.benchmarks: is empty; list at least one"),
        (HEAD + "suite: {}\n", "suite.benchmarks: is missing"),
        (HEAD + "suite: [pope]\n", "suite: is not a mapping"),
        (HEAD + "suite: {benchmark: [pope]}\n", "suite.benchmarks: is missing: should 'benchmark' be 'benchmarks'?"),
        (HEAD + "suite: {benchmarks: [pope, pope]}\n", "suite.benchmarks: 'pope' is there 2 times; give each a name"),
        (HEAD + "suite: {benchmarks: [../pope]}\n", "names a directory: use letters, digits"),
        (HEAD + "suite: {benchmarks: [pope], models: [embedded]}\n", "model: is given, and so is `suite.models`"),
        (HEAD + "task: pope\nsuite: {benchmarks: [pope]}\n", "task: is given, and so is `suite.benchmarks`"),
        (HEAD + "suite: {benchmarks: [popo]}\n", "table.yaml: popo: task"),
        (HEAD.replace("fastv", "fastw") + TWO, "table.yaml: grid[0].strategy: unknown strategy 'fastw'"),
    ],
)
def test_each_mistake_is_one_line_with_its_place(tmp_path, text, said):
    with pytest.raises(SpecError) as told:
        load_suite(written(tmp_path, text), gpu=False)
    lines = str(told.value).splitlines()
    assert any(said in line for line in lines), lines
    assert all(str(tmp_path) in line for line in lines)
    assert len(lines) == len(set(lines)) <= 2


def test_files_that_are_missing_are_told_before_anything_runs(tmp_path):
    text = HEAD.replace("data: embedded\n", "") + (
        "suite: {benchmarks: [{name: scienceqa, data: embedded}, {name: pope, data: /nowhere}]}\n"
    )
    suite = load_suite(written(tmp_path, text), gpu=False)
    with pytest.raises(SpecError) as told:
        prepare_suite(suite)
    first, hint = str(told.value).splitlines()
    assert "table.yaml: pope: data: /nowhere: no such directory" in first
    assert "/nowhere" in first
    assert hint == "suite table: put these files there, or run the others with --keep-going"
    ready, left_out = prepare_suite(suite, keep_going=True)
    assert [one.member.title for one in ready] == ["scienceqa"]
    assert left_out == [f"left out: {first}"]


def test_the_model_is_loaded_once_and_what_is_there_is_kept(tmp_path, monkeypatch):
    suite = load_suite(written(tmp_path, HEAD + TWO), gpu=False)
    ready = [
        PreparedMember(member=one.member, prepared=replace(one.prepared, samples=fake_samples(6 + place)))
        for place, one in enumerate(prepare_suite(suite)[0])
    ]
    monkeypatch.setattr(stub_engine.Asked, "made", 0)
    shown: list[int] = []

    def run(engine: type) -> None:
        options = RunOptions(local=True, engine=engine)
        console = Console(file=io.StringIO())
        run_suite(suite, ready, tmp_path / "out", options, console, lambda result: shown.append(result.computed))

    run(stub_engine.Asked)
    assert shown == [6 * 3, 7 * 3]
    assert stub_engine.Asked.made == 1
    run(stub_engine.BrokenModel)  # which is not even built
    assert shown[2:] == [0, 0]
    found = results_of([tmp_path / "out"])
    assert [one.benchmark for one in found] == ["places", "all"]
    for one in found:  # of each member by itself: the second's began after the first's had ended
        spent = read_timeline(one.experiment)
        assert {"images", "pictures and Tune"} <= {span.what for span in spent.spans}
    assert "model" in {span.what for span in read_timeline(found[0].experiment).spans}


def test_engines_are_called_while_the_questions_of_a_suite_are_read(tmp_path):
    suite = load_suite(written(tmp_path, HEAD + TWO), gpu=False)
    called: list[SweepSpec] = []

    class Called(Crew):
        def call(self, spec: SweepSpec) -> None:
            called.append(spec)

    with Called(PoolOptions(), local=False, stays=True) as crew:
        prepare_suite(suite, crew=crew, out=tmp_path / "out")
        assert called == [suite.members[0].spec]
        (tmp_path / "out" / suite.members[0].folder).mkdir(parents=True)
        (tmp_path / "out" / suite.members[0].folder / "sweep.yaml").write_text("there")
        prepare_suite(suite, crew=crew, out=tmp_path / "out")  # of which nothing may be missing
    assert len(called) == 1


def test_a_suites_folder_says_what_it_holds(tmp_path):
    write_suite(tmp_path, "one", [SuiteMember(benchmark="pope"), SuiteMember(benchmark="gqa")])
    write_suite(tmp_path, "one", [SuiteMember(benchmark="mme"), SuiteMember(benchmark="pope")])
    assert [one.benchmark for one in read_suite(tmp_path).members] == ["mme", "pope", "gqa"]
    with pytest.raises(StoreError, match="no benchmark of the suite has begun"):
        results_of([tmp_path])
    (tmp_path / "suite.json").write_text('{"name": "x", "members": [{"benchmark": "../../etc"}]}')
    with pytest.raises(StoreError, match=r"suite\.json: is damaged \(members\.0\.benchmark"):
        results_of([tmp_path])
    with pytest.raises(StoreError, match="not an experiment directory"):
        results_of([DATA_DIR])


GRID = (
    unpruned_point(8, 64),
    *(GridPoint(strategy=name, layer=2, rank=rank) for name in ("fastv", "random", "l2_norm") for rank in (32, 8)),
)


@pytest.fixture
def found(tmp_path: Path) -> list[Results]:
    """Two benchmarks of 40 questions; fastv loses a quarter, random half, l2_norm as many as fastv."""
    right = np.ones((len(GRID), 40), dtype=int)
    right[[1, 2, 5, 6], :10] = 0
    right[[3, 4], :20] = 0
    half = right.copy()
    half[0, 30:] = half[1:, 30:] = 0
    return [
        Results(model="", benchmark=name, experiment=write_matrix(tmp_path / name, GRID, rows, name=name))
        for name, rows in (("first", right), ("second", half))
    ]


def rows_of(table: BenchmarkTable) -> dict[tuple[str, str], object]:
    return {(row.method, row.budget): row for row in table.rows}


def test_the_mean_is_of_percents_of_the_unpruned_model(found):
    table = benchmark_table(found)
    assert table.columns == table.averaged == ("first", "second")
    assert [row.method for row in table.rows] == ["un-pruned", *["fastv", "l2_norm", "random"] * 2]
    rows = rows_of(table)
    budgets = list(dict.fromkeys(row.budget for row in table.rows))
    assert budgets[0] == ""
    assert len(budgets) == 3
    fastv = rows["fastv", budgets[1]]
    assert [fastv.cells[name].value for name in table.columns] == [75.0, 50.0]
    assert fastv.cells["second"].relative == pytest.approx(100 * 20 / 30)
    assert fastv.mean == pytest.approx((75 + 100 * 2 / 3) / 2)
    assert fastv.low < fastv.mean < fastv.high
    unpruned = rows["un-pruned", ""]
    assert (unpruned.mean, unpruned.cells["second"].value) == (100.0, 75.0)


def test_the_interval_is_that_of_a_bootstrap_one_resample_at_a_time(found):
    """Images of each benchmark drawn for all methods alike, ratios of means, and their mean."""
    draws = [np.random.default_rng(0).integers(0, 40, size=(2000, 40)) for _ in found]
    ratios = []
    for one, drawn in zip(found, draws, strict=True):
        right = np.ones(40)
        right[:10] = 0
        base = np.ones(40)
        if one.benchmark == "second":
            right[30:] = base[30:] = 0
        ratio = np.array([right[row].mean() / base[row].mean() for row in drawn])
        ratios.append(100 * (right.mean() / base.mean() + ratio - ratio.mean()))
    tail = 1 - NormalDist().cdf(2.022691 * sqrt(40 / 39))  # Student's t of 39 degrees of freedom, as of so few images
    low, high = np.quantile(np.mean(ratios, axis=0), [tail, 1 - tail])
    row = benchmark_table(found).rows[1]
    assert (row.low, row.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))  # float32 sums


def test_best_is_marked_only_beyond_chance(found, tmp_path):
    assert {row.mark for row in benchmark_table(found).rows} == {""}  # two are equal
    right = np.ones((len(GRID), 40), dtype=int)
    right[[3, 4], :20] = 0
    right[[5, 6], :38] = 0
    apart = Results(model="", benchmark="third", experiment=write_matrix(tmp_path / "third", GRID, right))
    marks = {row.method: (row.mark, row.cells["third"].mark) for row in benchmark_table([apart]).rows}
    assert marks == {
        "un-pruned": ("", ""),
        "fastv": ("best", "best"),
        "random": ("second", "second"),
        "l2_norm": ("", ""),
    }


def test_what_never_varied_has_the_rule_of_three_s_width_and_is_not_best_by_luck(found, tmp_path):
    right = np.ones((len(GRID), 8), dtype=int)
    same = Results(model="", benchmark="same", experiment=write_matrix(tmp_path / "same", GRID, right))
    rows = benchmark_table([same], against="random").rows
    assert {(row.mean, row.low, row.high, row.mark) for row in rows[1:]} == {(100.0, 62.5, 137.5, "")}  # 3 of 8
    gains = [(row.gain, row.gain_low, row.gain_high) for row in rows if row.method == "fastv"]
    assert gains == [(0.0, -37.5, 37.5)] * 2
    both = benchmark_table([found[0], same]).rows[1]  # the other benchmark's width, and half of what this one missed
    alone = benchmark_table(found[:1]).rows[1]
    assert both.low < 100 - (100 - alone.low) / 2 - 15
    for images, mark in ((2, ""), (8, "best")):  # of two images 3 of 2 may have been missed: all
        apart = np.zeros((len(GRID), images), dtype=int)
        apart[:3] = 1
        name = f"of {images}"
        one = Results(model="", benchmark=name, experiment=write_matrix(tmp_path / name, GRID, apart))
        fastv = benchmark_table([one]).rows[1]
        assert (fastv.method, fastv.mark, fastv.cells[name].mark) == ("fastv", mark, mark)


def test_a_benchmark_that_is_not_known_here_has_the_figures_that_its_run_wrote(found, monkeypatch):
    monkeypatch.setattr(task_metrics, "find", lambda name: None)
    (note, *_) = benchmark_table(found).notes
    assert note == "first: the mean score of scienceqa, whose own figures `saccade run` writes when it ends"
    place = found[0].experiment.path / task_metrics.WRITTEN
    place.parent.mkdir()
    figures = (("score (f1)", 0.25, "share", True), ("length", 7.5, "points", False))
    lines = [
        f"{point.key},{point.label},{name},{value},40,{unit},{quoted}"
        for point in GRID
        for name, value, unit, quoted in figures
    ]
    place.write_text("\n".join(["\ufeffpoint,label,name,value,n,unit,quoted", *lines]) + "\n")
    table = benchmark_table(found)
    assert {row.cells["first"].value for row in table.rows} == {25.0}
    assert not any(line.startswith("first: the mean score") for line in table.notes)
    written_by_run = task_metrics.task_metrics(found[0].experiment)
    assert list(written_by_run["text"][:2]) == ["25.0\u00a0%", "7.5"]
    place.write_text("point,label\n")
    assert task_metrics.task_metrics(found[0].experiment).empty
    assert "task_metrics.csv" in found[0].experiment.notes[0]


def test_methods_are_held_against_one(found):
    rows = benchmark_table(found, against="random").rows
    gains = {row.method: row.gain for row in rows if row.budget == rows[1].budget}
    assert gains["fastv"] == pytest.approx((75 + 100 * 2 / 3 - 50 - 100 / 3) / 2)
    assert np.isnan(gains["random"])
    assert rows[1].gain_low > 0
    with pytest.raises(UsageError, match="--against divprune: no grid point is of this strategy"):
        benchmark_table(found, against="divprune")


def test_what_is_not_there_is_an_empty_cell(found, tmp_path):
    right = np.ones((len(GRID), 40), dtype=int)
    right[1] = MISSING
    lacking = Results(model="", benchmark="third", experiment=write_matrix(tmp_path / "third", GRID, right))
    empty = Results(
        model="", benchmark="fourth", experiment=write_matrix(tmp_path / "f", GRID, np.full((len(GRID), 4), MISSING))
    )
    table = benchmark_table([*found, lacking, empty])
    assert table.columns == ("first", "second", "third")
    fastv = table.rows[1]
    assert "third" not in fastv.cells
    assert np.isnan(fastv.mean)
    assert table.notes == ("third: 1 grid points are not finished", "fourth: has no answers yet")
    header, body = printable(table)
    assert body[1][header.index("third")] == ""


@pytest.fixture
def literature(monkeypatch: pytest.MonkeyPatch) -> None:
    """One method at 32 tokens from layer 2 on, 40 on average, and one at a budget that is not here."""
    rows = tuple(
        Published(method=name, tokens=tokens, figures={"scienceqa": 45.0, "pope": 80.0})
        for name, tokens in (("Theirs", 40), ("Other", 4))
    )
    known = Lineage(kind="copied", origin="copied by all", unpruned={"scienceqa": 90.0}, mme="total", rows=rows)
    monkeypatch.setitem(published.LINEAGES, "T", known)
    monkeypatch.setitem(published.PAPERS, "Theirs", "arXiv:0000.00000")
    monkeypatch.setitem(published.UNPRUNED, ("scienceqa", ""), (80.0, 90.0))
    monkeypatch.setattr(published, "SIZE", (8, 64, None))


def test_published_figures_stand_beside_ours(found, literature):
    one = found[:1]
    assert published.lineages_of(one) == ["T"]
    table = suite_table(one, published="T")
    assert [row.title for row in table.rows] == [
        *("un-pruned", "un-pruned (copied)", "fastv", "l2_norm", "random"),
        "Theirs (copied)",
        *("fastv", "l2_norm", "random"),
    ]
    whole, theirs = table.rows[1], table.rows[5]
    assert (whole.cells["first"].value, whole.mean) == (90.0, 100.0)
    assert (theirs.budget, theirs.cells["first"].value) == (table.rows[4].budget, 45.0)
    assert (theirs.source, theirs.mean, theirs.cells["first"].relative) == ("arXiv:0000.00000", 50.0, 50.0)
    assert np.isnan(theirs.low)
    assert "Theirs (copied)" in rendered(table, "latex")
    assert "(copied): printed elsewhere, copied by all; the methods' papers: Theirs arXiv:0000.00000" in table.notes
    with pytest.raises(UsageError, match=r"--published D: is none of A \(copied from paper to paper\)"):
        published.with_published(table, one, "D")
    with pytest.raises(UsageError, match=r"its figures are of LLaVA-1\.5-7B on benchmarks that are not here"):
        published.with_published(table, [], "A")


def test_two_benchmarks_of_one_task_both_have_its_printed_figures(found, literature):
    table = suite_table(found, published="T")
    (theirs,) = [row for row in table.rows if row.title == "Theirs (copied)"]
    assert {name: cell.value for name, cell in theirs.cells.items()} == {"first": 45.0, "second": 45.0}
    assert theirs.mean == 50.0


def test_an_unpruned_model_that_is_far_from_the_printed_one_is_flagged(found, literature, monkeypatch):
    """From the nearer end of what is printed of it, whatever else the table shows; of another model nothing is said."""
    table = suite_table(found[:1])
    (note,) = table.notes
    assert note.startswith("the un-pruned model is far from the literature: first 100.0 (80 to 90 printed, +11.1 %);")
    assert table.rows[0].cells["first"].away == pytest.approx(100 / 9)
    assert all(np.isnan(cell.away) for row in table.rows[1:] for cell in row.cells.values())
    monkeypatch.setitem(published.UNPRUNED, ("scienceqa", ""), (80.0, 99.0))
    assert suite_table(found[:1]).notes == ()
    monkeypatch.setitem(published.UNPRUNED, ("scienceqa", ""), (80.0, 90.0))
    monkeypatch.setattr(published, "SIZE", (8, 64, 4096))
    assert suite_table(found[:1]).notes == ()


def test_the_lineages_are_whole():
    assert {key: len(one.rows) for key, one in LINEAGES.items()} == {"A": 37, "B": 20, "C": 21}
    figures = [value for one in LINEAGES.values() for row in one.rows for value in row.figures.values()]
    assert all(30 < value < 100 or 900 < value < 1900 for value in figures)
    assert sum(len(row.figures) for row in LINEAGES["A"].rows) == 37 * 5 - 4  # ranges are left out
    assert {row.method.partition(" ")[0] for one in LINEAGES.values() for row in one.rows} == set(published.PAPERS)


def test_every_form_says_the_same(found):
    table = benchmark_table(found, against="random")
    header, body = printable(table)
    assert header == ["budget", "method", "first", "second", "mean %", "over it", "FLOPs", "KV"]
    markdown, latex = rendered(table, "markdown"), rendered(table, "latex")
    assert markdown.count("\n| ") == len(table.rows)
    assert all(cell in markdown and cell in latex for cell in ("75.0", body[1][4].partition(" ")[0], "un-pruned"))
    assert latex.count(r"\midrule") == 3 * latex.count(r"\begin{tabular}")
    assert r"\toprule" in latex
    assert r"\usepackage{booktabs}" in latex
    assert r"l2\_norm & 2 & 40 & 75.0 & 50.0 & " in latex  # method, layer and tokens apart
    assert r"\shortstack[r]{over \\ it}" in latex
    assert " -" not in latex.partition(r"\bottomrule")[0]
    assert "$-$" in rendered(benchmark_table(found, against="fastv"), "latex")  # what random loses
    lines = list(csv.DictReader(io.StringIO(rendered(table, "csv"))))
    assert len(lines) == len(table.rows) * 3
    assert {line["benchmark"] for line in lines} == {"first", "second", "mean"}


@pytest.fixture
def two_models(tmp_path: Path) -> list[Results]:
    """One benchmark on a model of 8 layers and one of 4: a cut-off at half the depth loses 10 of 40 on both."""
    made = []
    for model, layers in (("deep", 8), ("flat", 4)):
        points = (
            unpruned_point(layers, 64),
            GridPoint(strategy="cutoff", layer=layers // 2, rank=0),
            GridPoint(strategy="cutoff", layer=layers // 4, rank=0),
            *([GridPoint(strategy="random", layer=0, rank=16)] if model == "deep" else []),
        )
        right = np.ones((len(points), 40), dtype=int)
        right[1, :10] = right[2:, :20] = 0
        home = tmp_path / "models" / model
        experiment = write_matrix(home, points, right, name=model, layers=layers)
        made.append(Results(model=model, benchmark="one", experiment=experiment))
    return made


def test_models_stand_side_by_side_at_shares_of_their_depth(two_models, tmp_path):
    table = by_model(benchmark_table(two_models))
    assert table.columns == ("deep", "flat")
    half = rows_of(table)["cutoff", "50.0\u00a0% of the tokens"]
    assert {model: cell.value for model, cell in half.cells.items()} == {"deep": 75.0, "flat": 75.0}
    assert half.mean == 75.0
    alone = rows_of(table)["random layer=0", "25.0\u00a0% of the tokens"]
    assert set(alone.cells) == {"deep"}
    assert np.isnan(alone.mean)
    assert printable(table)[0] == ["budget", "method", "deep", "flat", "mean %", "FLOPs", "KV"]
    low, high = half.cells["deep"].low, half.cells["deep"].high
    assert f"75.0 [{low:.1f}, {high:.1f}]" in rendered(table, "markdown")
    curves = model_curves(benchmark_table(two_models))
    assert [(one.method, one.model, one.share) for one in curves] == [
        ("cutoff", "deep", (0.25, 0.5)), ("cutoff", "flat", (0.25, 0.5)), ("random layer=0", "deep", (0.25,))
    ]  # fmt: skip
    write_model_plot(curves, tmp_path / "models.png")
    assert (tmp_path / "models.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="--by model: the table is of one model"):
        by_model(benchmark_table(two_models[:1]))


def test_costs_are_columns_of_the_same_table(found):
    def stat(value: float) -> dict[str, float]:
        return {"mean": value, "median": value, "p90": 2 * value, "n": 5}

    names = ("tower_ms", "projector_ms", "selector_ms", "prefill_ms", "decode_ms")
    rows = [
        {"key": point.key, "total_ms": stat(30 * place), **{name: stat(place) for name in names}}
        for place, point in enumerate(GRID[:2], start=1)
    ]
    rows[0]["first_token_ms"] = stat(100)
    place = found[1].experiment.path / "latency.json"
    place.write_text(json.dumps({"how": {"device": "cuda", "dtype": "bfloat16"}, "rows": rows}))
    table = with_costs(benchmark_table(found), found)
    measured = ("tower ms", "projector ms", "selector ms", "prefill ms", "first token ms", "decode ms")
    assert table.costs == (*measured, "minutes")  # a model without sizes has no counted costs
    unpruned, fastv = (rows_of(table)[name] for name in (("un-pruned", ""), ("fastv", "40 tokens")))
    assert (unpruned.costs["prefill ms"], fastv.costs["decode ms"]) == (
        Spread(value=1, high=2),
        Spread(value=2, high=4),
    )
    # The first token of each question and, of the two that each answer has, a further one; else as it was measured.
    assert unpruned.costs["minutes"].value == pytest.approx((100 + 1) * 40 / 60_000)
    assert fastv.costs["minutes"].value == pytest.approx(60 * 40 / 60_000)
    assert "on second, cuda bfloat16" in table.notes[-1]
    header, body = printable(table)
    assert body[0][header.index("prefill ms")] == "1 (2)"
    (line,) = [one for one in csv.DictReader(io.StringIO(rendered(table, "csv")))
               if (one["method"], one["budget"], one["benchmark"]) == ("fastv", "40 tokens", "mean")]  # fmt: skip
    assert (line["prefill_ms"], line["decode_ms_p90"]) == ("2.0", "4.0")
    place.unlink()
    assert with_costs(benchmark_table(found), found).notes[-1].endswith("`saccade latency`")


def test_latency_is_measured_on_one_benchmark_of_each_model(tmp_path):
    models = f"suite: {{benchmarks: [scienceqa, {{name: b, task: scienceqa}}], models: [embedded, {MODEL_DIR}]}}\n"
    suite = load_suite(written(tmp_path, HEAD.replace("model: embedded\n", "") + models), gpu=False)
    assert [one.member.title for one in one_a_model(suite, None)] == [
        "embedded scienceqa",
        f"{MODEL_DIR.name} scienceqa",
    ]
    assert [one.member.benchmark for one in one_a_model(suite, "b")] == ["b", "b"]
    with pytest.raises(SpecError, match="--benchmark c: suite table has scienceqa, b"):
        one_a_model(suite, "c")


BUDGETS = {"llava_1_5_table": [192, 128, 64], "llava_next_table": [640, 320, 160]}


@pytest.mark.parametrize("name", shipped_sweeps(SUITES))
def test_shipped_suites_resolve_on_their_models(name, tmp_path):
    changes = {}
    if name != "drawn_table":
        make = partial(make_qwen, num_hidden_layers=28) if "qwen" in name else partial(config, layers=32, heads=32)
        changes["model"] = str(make(tmp_path))
    if "next" in name:  # as many tokens as five tiles have
        place = tmp_path / "config.json"
        place.write_text(place.read_text().replace("336", "756"))
    suite = load_suite(name, changes, gpu=False)
    assert is_suite(name)
    assert (len(suite.members), suite.name) == (6 if name == "drawn_table" else 7, name)
    points = suite.members[0].spec.points
    assert {one.spec.points for one in suite.members} == {points}
    if name == "drawn_table":
        ready, left_out = prepare_suite(suite)
        assert sum(len(one.prepared.samples) for one in ready) > 150
        assert not left_out
        assert not any(one.prepared.notes for one in ready)
    if name in BUDGETS:
        assert [point.rank for point in points if point.strategy == "random"] == BUDGETS[name]


def test_status_of_a_suite_is_a_line_an_experiment(tmp_path):
    members = [SuiteMember(benchmark=name) for name in ("whole", "half", "later")]
    write_suite(tmp_path, "table", members)
    right = np.ones((2, 4), dtype=int)
    grid = unpruned_point(8, 64), GridPoint(strategy="fastv", layer=2, rank=8)
    write_matrix(tmp_path / "whole", grid, right)
    right[1, 1:] = -1
    write_matrix(tmp_path / "half", grid, right)
    said = CliRunner().invoke(app, ["status", str(tmp_path)])
    lines = [line.split() for line in said.output.splitlines()]
    assert said.exit_code == 0, said.output
    assert lines[0] == ["table:", "2", "of", "3", "experiments", "begun"]
    assert lines[2:5] == [["whole", "8", "complete"], ["half", "5", "3", "stopped"], ["later", "has", "not", "begun"]]
    assert "saccade run" in said.output


def test_the_commands_run_plan_and_print_a_suite(tmp_path):
    """As a user calls them: nothing of Ray, three questions of each benchmark."""
    out, few = (
        str(tmp_path / "out"),
        ["--samples", "3", "--set", "grid[1].tokens=22.2%", "--set", "grid[0].tokens=22.2%"],
    )
    runner = CliRunner()
    planned = runner.invoke(app, ["plan", "drawn_table", "--out", out, *few])
    assert planned.exit_code == 0, planned.output
    assert "comparison" in planned.output
    text = TWO + HEAD.replace("fastv, random", "evenly_spaced")
    path = str(written(tmp_path, text))
    ran = runner.invoke(app, ["run", path, "--local", "--out", out, "--samples", "2", "--pictures", "0"])
    assert ran.exit_code == 0, ran.output
    assert ran.output.index("mean %") < ran.output.index("pages:")  # the table first, then what takes long
    costs = runner.invoke(app, ["table", out, "--cost"])
    assert "TFLOP" in costs.output
    assert "KV MB" in costs.output
    printed = runner.invoke(app, ["table", out, "--format", "markdown"])
    assert printed.exit_code == 0, printed.output
    assert printed.output.startswith("| budget | method | places | all |")
    wrong = runner.invoke(app, ["table", str(tmp_path)])
    assert wrong.exit_code == 2
