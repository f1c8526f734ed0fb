"""A benchmark of a user's own in a sweep: run from the sweep file alone, sent to workers, never from an experiment."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.cluster.joining import PoolError
from orchestrator.cluster.seat import WithOwn
from orchestrator.recompute import recompute
from orchestrator.run import RunOptions, run_sweep
from orchestrator.show import PlainConsole
from orchestrator.suite import prepare_suite, run_suite
from orchestrator.sweep.prepare import prepare
from orchestrator.sweep.spec import SpecError, load_sweep
from orchestrator.sweep.suite import load_suite
from own_tasks import JUDGED, MY_TASK, forgotten_tasks, write_my_data
from results.analysis.metrics import summary
from results.analysis.task_metrics import headline, task_metrics
from results.disk import StoreError
from results.experiment import Experiment
from stub_engine import StubEngine
from workers.tasks import catalog
from workers.tasks.base import DataError
from workers.tasks.own import OwnTask, from_text


@pytest.fixture
def sweep(small_checkpoint: Path, tmp_path: Path):
    (tmp_path / "my_task.py").write_text(MY_TASK)
    write_my_data(tmp_path / "data")
    path = tmp_path / "sweep.yaml"
    path.write_text(
        f"model: {small_checkpoint}\ndata: {tmp_path / 'data'}\ntask: ./my_task.py:load\nmax_new_tokens: 2\n"
        "grid: [{strategy: fastv, layer: 1, rank: 4}]\n"
    )
    with forgotten_tasks():
        yield path


def run(sweep: Path, out: Path) -> Experiment:
    options = RunOptions(local=True, pictures=0)
    return run_sweep(prepare(load_sweep(sweep, gpu=False)), out, options, PlainConsole(120)).experiment


def test_it_runs_and_resumes_and_an_edited_file_is_refused(sweep, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    spec = load_sweep(sweep, gpu=False)
    assert (spec.engine.task.name, spec.engine.task.split) == ("my_task.py:load", "test")
    assert [(task.name, task.text) for task in spec.tasks] == [("my_task.py:load", MY_TASK)]
    out = tmp_path / "out"
    experiment = run(sweep, out)
    assert summary(experiment)["n"].tolist() == [3, 3]
    assert experiment.manifest.context_parts["task_source"] == spec.tasks[0].source
    assert run(sweep, out).cells().equals(experiment.cells())
    (tmp_path / "my_task.py").write_text(MY_TASK + "# as it is now\n")
    with pytest.raises(
        StoreError, match=r"cells of my_task.py:load as it was before \(hash \w+, now \w+\); put that file back"
    ):
        run(sweep, out)
    (tmp_path / "my_task.py").unlink()
    with pytest.raises(SpecError, match=r"task: \S+/my_task.py: no such file; a benchmark of your own is named"):
        load_sweep(sweep, gpu=False)


def test_nothing_of_an_experiment_is_run(sweep, tmp_path):
    run(sweep, tmp_path / "out")
    (tmp_path / "my_task.py").unlink()
    with forgotten_tasks():
        experiment = Experiment.open(tmp_path / "out")
        assert "def load" not in (tmp_path / "out/sweep.yaml").read_text()
        assert task_metrics(experiment).empty
        assert summary(experiment)["n"].tolist() == [3, 3]
        with pytest.raises(DataError, match=r"task 'my_task.py:load': is of a user's own file, which is run for its"):
            recompute(experiment, 2)
        told = CliRunner().invoke(app, ["verify", str(experiment.path)])
        assert told.exit_code == 0, told.output
        assert not catalog.ADMITTED


def test_rules_and_figures_of_its_own_judge_and_are_shown(sweep, tmp_path):
    (tmp_path / "my_task.py").write_text(JUDGED)
    (tmp_path / "sweep.yaml").write_text(sweep.read_text().replace("./my_task.py:load", "./my_task.py:judged"))
    experiment = run(sweep, tmp_path / "out")
    parts = experiment.manifest.context_parts
    assert (parts["scorer"], parts["scoring"]) == ("loose", parts["task_source"])
    figures = task_metrics(experiment)
    assert headline(figures)["name"].unique().tolist() == ["second half"]
    catalog.admit(from_text("my_task.py", f"{JUDGED}# another\n", "judged"))
    assert task_metrics(experiment).empty  # another version says nothing of these cells


def test_a_suite_may_hold_it_beside_ours(sweep, small_scienceqa, tmp_path):
    """Its engines come to know it, those of the benchmark before need not."""
    text = sweep.read_text().replace("task: ./my_task.py:load\n", "")
    ours, own = (
        f"name: school, task: scienceqa, data: {small_scienceqa}",
        "name: mine, task: ./my_task.py:load, data: .",
    )
    sweep.write_text(f"suite: {{benchmarks: [{{{ours}}}, {{{own}}}]}}\n{text}")
    suite = load_suite(sweep, gpu=False)
    members, missing = prepare_suite(suite)
    assert missing == []
    options = RunOptions(local=True, pictures=0)
    run_suite(suite, members, tmp_path / "out", options, PlainConsole(120), lambda result: None)
    counts = [summary(Experiment.open(tmp_path / "out" / name))["n"].tolist() for name in ("school", "mine")]
    assert counts == [[5, 5], [3, 3]]


def test_a_name_that_nobody_has_and_another_form_are_one_line(sweep):
    for name, said in (
        ("gqaa", "unknown task 'gqaa'. Did you mean 'gqa'"),
        ("./my_task.py", "./my_task.py: a benchmark of your own is named ./FILE.py:NAME"),
    ):
        with pytest.raises(SpecError, match=said):
            load_sweep(sweep, {"task": name}, gpu=False)
    assert load_sweep(sweep, {"task": {"name": "./my_task.py:load", "split": "test"}}, gpu=False).tasks


def test_a_worker_comes_to_know_it_first(sweep):
    spec = load_sweep(sweep, gpu=False)
    with forgotten_tasks():
        assert isinstance(WithOwn((), spec.tasks, StubEngine)(spec.engine, None, None), StubEngine)
        assert catalog.get("my_task.py:load").source_hash == spec.tasks[0].source
    stale = OwnTask(name="my_task.py:load", source="0" * 16, text=MY_TASK)
    with pytest.raises(PoolError, match=r"a worker cannot use a benchmark of the sweep: task 'my_task.py:load': an"):
        WithOwn((), (stale,), StubEngine)(spec.engine, None, None)


def test_the_commands_show_it_in_full_and_try_it(sweep, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    shown = runner.invoke(app, ["tasks", "./my_task.py:load"])
    assert "task: my_task.py:load" in shown.output
    assert "Questions of SPLIT.csv" in shown.output
    full = runner.invoke(app, ["tasks", "gqa"]).output
    assert "scorer gqa_exact: Equal to the answer once dots at the end are dropped" in full
    assert "usual split: testdev_balanced" in full
    good = runner.invoke(app, ["tasks", "check", "./my_task.py:load", "--data", "data"])
    assert good.exit_code == 0, good.output
    assert len([line for line in good.output.splitlines() if line.startswith("ok ")]) == 8
    bad = runner.invoke(app, ["tasks", "check", "./my_task.py:load", "--data", "."])
    assert bad.exit_code == 2
    assert "FAIL loads: " in bad.output
    assert runner.invoke(app, ["tasks", "check"]).exit_code == 2
