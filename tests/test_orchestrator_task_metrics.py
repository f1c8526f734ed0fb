"""Every benchmark through a whole sweep: its own figures, soft scores in the statistics, text-only questions apart."""

from __future__ import annotations

import json

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from dashboards.live.details import facts_of
from dashboards.plots import write_plots
from dashboards.report import write_report
from fake_experiment import fake_manifest, into_format_1
from orchestrator.cli import app
from orchestrator.run import RunOptions, run_sweep
from orchestrator.show import accuracy_table
from orchestrator.sweep.prepare import prepare
from orchestrator.sweep.spec import SpecError, load_sweep
from results.analysis.metrics import answers, summarise
from results.analysis.significance import bootstrap_mean, bootstrap_p, mcnemar
from results.analysis.task_metrics import headline, task_metrics
from results.disk import StoreError
from results.exchange.exports import write_exports
from results.exchange.lmms_samples import write_lmms_samples
from results.exchange.server_answers import write_server_answers
from results.experiment import Experiment
from test_workers_benchmarks import WRITERS
from workers.tasks.base import Sample
from workers.tasks.catalog import CATALOG
from workers.tasks.vqa_answers import normalised
from workers.work import GridPoint, SampleOutcome, UnitOutcome, WorkUnit, unpruned_point

HEADLINES = {
    "scienceqa": "all questions",
    "mmbench": "accuracy",
    "mmbench_circular": "circular accuracy",
    "mme": "total (2 of 14)",
    "pope": "F1",
    "hallusionbench": "mean of the three",
    "ocrbench": "accuracy",
}
FIGURED = {*HEADLINES, "scienceqa_img", "vqav2", "textvqa", "gqa"}  # the others' figures are made as one of these
POINTS = (unpruned_point(8, 64), GridPoint(strategy="fastv", layer=2, rank=8))


def sweep_file(folder, checkpoint, name) -> str:
    place = folder / "sweep.yaml"
    place.write_text(
        f"name: {name}\nmodel: {{path: {checkpoint}, dtype: float32}}\ndata: {folder / 'data'}\ntask: {name}\n"
        "max_new_tokens: 3\ngrid:\n  - {strategy: fastv, layer: 1, rank: 4}\n"
    )
    return str(place)


@pytest.mark.parametrize("name", sorted(FIGURED))
def test_every_benchmark_runs_and_shows_its_figures(tmp_path, small_checkpoint, name):
    WRITERS[name](tmp_path / "data")
    prepared = prepare(load_sweep(sweep_file(tmp_path, small_checkpoint, name)))
    assert prepared.manifest.context_parts["scorer"] == CATALOG[name].scorers[0]
    result = run_sweep(prepared, tmp_path / "out", RunOptions(local=True), Console(quiet=True))
    assert (result.computed, result.failed) == (2 * len(prepared.samples), 0)
    experiment = Experiment.open(tmp_path / "out")
    figures = task_metrics(experiment)
    assert list(headline(figures)["name"].unique()) == ([HEADLINES[name]] if name in HEADLINES else [])
    tables = {path.name for path in write_exports(experiment)}
    assert ("task_metrics.csv" in tables) == bool(len(figures)) == (name not in ("textvqa", "scienceqa_img"))
    page = write_report(experiment).read_text()
    assert ("own figures" in page) == bool(len(figures))
    for figure in figures["name"].unique():
        assert figure in page


def write_cells(folder, score_PS, samples=None, task="textvqa") -> Experiment:
    """An experiment with these scores; columns are samples s0, s1, ..., the first row is the un-pruned model's."""
    count = score_PS.shape[1]
    samples = samples or tuple(
        Sample(id=f"s{n}", question="?", label="x", image=folder / f"{n}.png") for n in range(count)
    )
    manifest = fake_manifest(POINTS)
    object.__setattr__(manifest.engine.task, "name", task)
    experiment = Experiment.create(folder, manifest, samples)
    cells = tuple(
        SampleOutcome(
            point=point.key, sample=sample.id, answer="a", parsed="a", correct=bool(score >= 0.5), score=float(score),
            first_token=5, option_logits=(), margin=1.0, tokens_kept=8, kept_mask=b"\xff", decoded_tokens=2,
            prompt_tokens=100, visual_tokens=64 if sample.image else 0,
        )
        for point, scores in zip(POINTS, score_PS, strict=True)
        for sample, score in zip(samples, scores, strict=True)
    )  # fmt: skip
    unit = WorkUnit(samples=tuple(sample.id for sample in samples), points=POINTS)
    experiment.write(unit, UnitOutcome(unit=unit.key, outcomes=cells))
    return experiment


def test_soft_scores_have_means_and_bootstrap(tmp_path):
    score_PS = np.array([[1.0, 0.9, 0.6, 0.3, 0.0, 1.0] * 20, [1.0, 0.6, 0.6, 0.0, 0.3, 0.9] * 20])
    table = answers(write_cells(tmp_path, score_PS))
    assert not table.binary
    base, pruned = summarise(table).to_dict("records")
    assert base["accuracy"] == pytest.approx(3.8 / 6)
    assert (base["correct"], pruned["correct"]) == (80, 80)  # scores of at least half
    assert pruned["difference"] == pytest.approx(-0.4 / 6)
    assert (pruned["lost"], pruned["gained"]) == (60, 20)
    assert pruned["relative_drop"] == pytest.approx(100 * 0.4 / 3.8)
    spread = score_PS.std(axis=1) / np.sqrt(120)
    for row, se in zip((base, pruned), spread, strict=True):  # close to the normal interval
        assert row["ci_high"] - row["ci_low"] == pytest.approx(2 * 1.96 * se, rel=0.1)
    change = score_PS[1] - score_PS[0]
    t = change.mean() / (change.std() / np.sqrt(120))
    assert t < -3
    assert 2e-4 <= pruned["p"] < 0.01
    assert base["flags"] == pruned["flags"] == ""  # no share of 120 answers, and none is expected
    assert (base["interval"], base["diff_interval"], base["test"]) == ("bootstrap", "", "")
    assert (pruned["interval"], pruned["diff_interval"], pruned["test"]) == ("bootstrap", *["paired bootstrap"] * 2)


def test_equal_scores_have_the_width_of_the_rule_of_three(tmp_path):
    """Twenty questions without a flip, and all of them worth 0.3: so may 3 of 20 others be anything."""
    rows = summarise(answers(write_cells(tmp_path, np.full((2, 20), 0.3))))
    assert rows[["interval", "diff_interval"]].to_numpy().tolist() == [["rule of three", ""], ["rule of three"] * 2]
    np.testing.assert_allclose(rows[["ci_low", "ci_high"]], [[0.15, 0.45]] * 2)
    np.testing.assert_allclose(rows.loc[1, ["diff_low", "diff_high"]].astype(float), [-0.15, 0.15])
    np.testing.assert_allclose(rows.loc[1, ["drop_low", "drop_high"]].astype(float), [-50, 50], rtol=1e-6)


def test_what_is_shown_names_the_interval_and_the_test_that_were_used(tmp_path):
    """The same sweep with soft scores, and with right and wrong: every place says what the summary says."""
    soft = np.array([[1.0, 0.9, 0.6, 0.3, 0.0, 1.0] * 20, [1.0, 0.6, 0.6, 0.0, 0.3, 0.9] * 20])
    for scores_PS, used, others in (
        (soft, ("bootstrap", "paired bootstrap"), ("Wilson", "McNemar")),
        ((soft > 0.7).astype(float), ("Wilson", "paired bootstrap", "McNemar, exact"), ("(bootstrap",)),
    ):
        folder = tmp_path / used[0]
        experiment = write_cells(folder, scores_PS)
        rows = summarise(answers(experiment))
        title = str(accuracy_table(rows).title)
        assert title.startswith("mean score" if used[0] == "bootstrap" else "accuracy")
        assert f"({used[0]} 95 %)" in title
        write_report(experiment, write_plots(experiment))
        shown = "".join(page.read_text() for page in (folder / "report").glob("*.html"))
        shown += "".join(name for _, row in rows.iterrows() for name, _ in facts_of(row))
        assert all(word in shown for word in used)
        assert not any(word in shown for word in others)


def test_zeros_and_ones_keep_wilson_and_mcnemar(tmp_path):
    score_PS = np.array([[1.0, 1.0, 1.0, 0.0] * 10, [1.0, 0.0, 1.0, 0.0] * 10])
    table = answers(write_cells(tmp_path, score_PS))
    assert table.binary
    row = summarise(table).iloc[1]
    assert row["p"] == mcnemar(np.array([10]), np.array([0]))[0]
    assert (row["accuracy"], row["lost"], row["gained"]) == (0.5, 10, 0)
    assert (row["interval"], row["diff_interval"], row["test"]) == ("Wilson", "paired bootstrap", "McNemar, exact")


def test_the_bootstrap_test_finds_nothing_where_nothing_is():
    draw = np.random.default_rng(0)
    change_PS = draw.choice([-0.3, 0.0, 0.3], size=(200, 80))
    p = bootstrap_p(change_PS)
    assert 0.01 < (p < 0.05).mean() < 0.11
    assert bootstrap_p(np.zeros((1, 5)))[0] == 1.0
    assert bootstrap_p(np.zeros((1, 0)))[0] == 1.0
    assert np.isnan(bootstrap_mean(np.zeros((2, 0)), np.zeros((2, 0), bool)).low).all()


def test_text_only_questions_stand_apart_in_the_table(tmp_path):
    score_PS = np.array([[1.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0]])
    samples = tuple(
        Sample(id=f"s{n}", question="?", choices=("a", "b"), label="A", image=tmp_path / f"{n}" if n < 2 else None)
        for n in range(4)
    )
    experiment = write_cells(tmp_path, score_PS, samples, task="scienceqa")
    console = Console(width=200, record=True, quiet=False, file=None, force_terminal=False)
    with console.capture() as shown:
        console.print(accuracy_table(summarise(answers(experiment)), headline(task_metrics(experiment))))
    lines = shown.get().replace("\N{NO-BREAK SPACE}", " ").splitlines()
    assert "text-only" in shown.get()
    assert "all questions" in shown.get()
    assert any(
        "un-pruned" in line and "100.0 %" in line and "50.0 % of 2" in line and "75.0 %" in line for line in lines
    )
    assert any("fastv" in line and "50.0 % of 2" in line for line in lines)


def test_cells_of_an_earlier_version_are_read(tmp_path):
    write_cells(tmp_path, np.array([[1.0, 0.0], [1.0, 1.0]]))
    experiment = into_format_1(tmp_path)
    table = answers(experiment)
    assert table.score_PS.tolist() == [[1.0, 0.0], [1.0, 1.0]]
    assert experiment.notes == ()


def test_export_for_lmms_eval(tmp_path):
    experiment = write_cells(tmp_path / "e", np.array([[1.0, 0.3, 0.0], [0.9, 0.0, 1.0]]))
    unpruned, pruned = write_lmms_samples(experiment, tmp_path / "out")
    assert unpruned.parent.name == "un-pruned"
    assert pruned.parent.name == "fastv_layer=2_rank=8"
    lines = [json.loads(line) for line in pruned.read_text().splitlines()]
    assert [line["doc_id"] for line in lines] == [0, 1, 2]
    assert [line["score"] for line in lines] == [0.9, 0.0, 1.0]
    assert [key for key in lines[0] if "score" in key] == ["score"]  # its loader takes the first such field
    assert {"target", "filtered_resps", "doc_hash", "input"} <= set(lines[0])
    (results,) = pruned.parent.glob("*_results.json")
    assert json.loads(results.read_text())["results"]["textvqa"]["score,none"] == pytest.approx(1.9 / 3)
    assert len(write_lmms_samples(experiment, tmp_path / "one", ["rank=8"])) == 1
    with pytest.raises(StoreError, match="no grid point with answers matches rank=9"):
        write_lmms_samples(experiment, tmp_path / "none", ["rank=9"])
    shown = CliRunner().invoke(app, ["export", str(tmp_path / "e"), "--format", "lmms-eval"])
    assert shown.exit_code == 0
    assert "2 files" in shown.output
    assert len(list((tmp_path / "e" / "exports" / "lmms_eval").rglob("*.jsonl"))) == 2
    assert CliRunner().invoke(app, ["export", str(tmp_path / "nowhere")]).exit_code == 2


def test_a_wrong_task_is_one_line(tmp_path, small_checkpoint):
    (tmp_path / "data").mkdir()
    place = sweep_file(tmp_path, small_checkpoint, "popee")
    with pytest.raises(SpecError, match=r"sweep\.yaml: task: unknown task 'popee'\. Did you mean 'pope'"):
        load_sweep(place)
    shown = CliRunner().invoke(app, ["plan", sweep_file(tmp_path, small_checkpoint, "pope")])
    assert shown.exit_code == 2


def test_export_for_a_server_is_all_answers_normalised(tmp_path):
    samples = tuple(Sample(id=str(7 + n), question="?", label="", image=tmp_path / str(n)) for n in range(2))
    experiment = write_cells(tmp_path / "e", np.zeros((2, 2)), samples, task="vqav2")
    shown = CliRunner().invoke(app, ["export", str(tmp_path / "e"), "--format", "server"])
    assert shown.exit_code == 0, shown.output
    first, second = sorted((tmp_path / "e" / "exports" / "server").glob("*.json"))
    assert first.name.endswith("fastv_layer=2_rank=8.json")
    lines = json.loads(second.read_text())
    assert [line["question_id"] for line in lines] == [7, 8]
    said = experiment.cells(["answer"])["answer"].iloc[0]
    assert lines[0]["answer"] == normalised(said) != said
    with pytest.raises(StoreError, match="no grid point with answers matches rank=9"):
        write_server_answers(experiment, tmp_path / "none", ["rank=9"])
    other = write_cells(tmp_path / "o", np.zeros((2, 2)), samples, task="gqa")
    with pytest.raises(StoreError, match="of gqa, which has no server"):
        write_server_answers(other, tmp_path / "none")
    unfinished = Experiment.create(tmp_path / "u", experiment.manifest, samples)
    with pytest.raises(StoreError, match="un-pruned lacks 2 of 2 answers"):
        write_server_answers(unfinished, tmp_path / "none")
