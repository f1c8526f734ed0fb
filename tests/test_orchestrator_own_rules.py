"""Rules of a user's own in a sweep: run from the sweep file alone, sent to workers, and never from an experiment."""

from __future__ import annotations

from pathlib import Path

import pytest

from fake_experiment import fake_manifest
from orchestrator.cluster.joining import PoolError
from orchestrator.cluster.pool import PoolOptions
from orchestrator.cluster.seat import WithOwn
from orchestrator.recompute import recompute
from orchestrator.run import RunOptions, run_sweep
from orchestrator.show import PlainConsole
from orchestrator.sweep.prepare import prepare
from orchestrator.sweep.spec import SpecError, load_sweep
from own_rules import PEAKED, forgotten
from results.analysis.costs import costs
from results.disk import StoreError
from results.experiment import Experiment
from strategies import catalog
from strategies.own import OwnRule
from stub_engine import StubEngine
from workers.work import GridPoint


@pytest.fixture
def sweep(small_checkpoint: Path, small_scienceqa: Path, tmp_path: Path):
    (tmp_path / "my_rule.py").write_text(PEAKED)
    path = tmp_path / "sweep.yaml"
    path.write_text(
        f"model: {small_checkpoint}\ndata: {small_scienceqa}\nmax_new_tokens: 2\ngrid:\n"
        "  - {strategy: ./my_rule.py:my_rule, layer: 1, rank: 4, power: 1.0}\n"
        "  - {strategy: [fastv, ./my_rule.py:last_k], layer: 1, rank: 4}\n"
    )
    with forgotten():
        yield path


def run(sweep: Path, out: Path) -> Experiment:
    options = RunOptions(local=True, pictures=0)
    return run_sweep(prepare(load_sweep(sweep, gpu=False)), out, options, PlainConsole(120)).experiment


def test_a_sweep_finds_its_rules_beside_it_wherever_it_is_called_from(sweep, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    spec = load_sweep(sweep, gpu=False)
    assert [point.strategy for point in spec.points[1:]] == ["my_rule.py:my_rule", "fastv", "my_rule.py:last_k"]
    assert [(rule.name, rule.text) for rule in spec.rules] == [
        ("my_rule.py:last_k", PEAKED),
        ("my_rule.py:my_rule", PEAKED),
    ]


def test_it_runs_and_resumes_and_an_edited_file_is_refused(sweep, tmp_path):
    out = tmp_path / "out"
    experiment = run(sweep, out)
    cells = experiment.cells().set_index(["point", "sample"])["answer"]
    mine, fastv, _ = (point.key for point in experiment.points[1:])
    assert cells[mine].to_dict() == cells[fastv].to_dict()  # to the first power it is FastV
    assert run(sweep, out).cells().equals(experiment.cells())
    (tmp_path / "my_rule.py").write_text(PEAKED.replace("power).mean", "power).amax"))
    with pytest.raises(
        StoreError, match=r"cells of my_rule.py:my_rule as it was before \(hash \w+, now \w+\); put that"
    ):
        run(sweep, out)
    (tmp_path / "my_rule.py").unlink()
    with pytest.raises(SpecError, match=r"grid\[0\].strategy: \S+/my_rule.py: no such file"):
        run(sweep, out)


def test_nothing_of_an_experiment_is_run(sweep, tmp_path):
    """Without the file, and without anybody who has run it: name and hash are there, and all that reads it works."""
    run(sweep, tmp_path / "out")
    (tmp_path / "my_rule.py").unlink()
    with forgotten():
        experiment = Experiment.open(tmp_path / "out")
        assert "def peaked" not in (tmp_path / "out/sweep.yaml").read_text()
        assert len(experiment.manifest.points[1].source) == 16
        counted = costs(experiment).set_index("key")
        mine, fastv = (counted.loc[point.key] for point in experiment.points[1:3])
        assert mine.drop("selector_tflop").equals(fastv.drop("selector_tflop"))
        assert mine.isna()["selector_tflop"]
        assert fastv["selector_tflop"] > 0
        found = recompute(experiment, 2)
        assert found.wrong == ()
        assert found.foreign == tuple(point.label for point in experiment.points if ".py:" in point.strategy)
        assert any("no rule of an experiment is run" in finding.text for finding in found.findings())
        assert not catalog.ADMITTED


def test_two_files_of_one_name_may_not_have_a_rule_of_one_name(sweep, tmp_path):
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper/my_rule.py").write_text(PEAKED)
    with sweep.open("a") as file:
        file.write("  - {strategy: ./deeper/my_rule.py:last_k, layer: 1, rank: 2}\n")
    with pytest.raises(SpecError, match=r"grid\[2\].strategy: ./deeper/my_rule.py:last_k: another file of this name"):
        load_sweep(sweep, gpu=False)


@pytest.mark.parametrize("name", ["./my_rule.py", "my_rule.py", "./my_rule:x", "mine/fastv", "./my_rule.py:a.b"])
def test_another_form_gets_the_form(sweep, name):
    with pytest.raises(SpecError, match=r"grid\[1\].strategy: \S+: a rule of your own is named ./FILE.py:NAME"):
        load_sweep(sweep, {"grid[1].strategy": name}, gpu=False)


def test_a_worker_comes_to_know_the_rules_first(sweep):
    rules = load_sweep(sweep, gpu=False).rules
    spec = fake_manifest([GridPoint(strategy="none", layer=2, rank=16)]).engine
    with forgotten():
        engine = WithOwn(rules, (), PoolOptions(engine=StubEngine).engine)(spec, None, None)
        assert isinstance(engine, StubEngine)
        assert catalog.get("my_rule.py:my_rule").source_hash == rules[1].source
    stale = OwnRule(name=rules[0].name, source="0" * 16, text=rules[0].text)
    with pytest.raises(
        PoolError, match=r"a worker cannot use a rule of the sweep: strategy 'my_rule.py:last_k': another"
    ):
        WithOwn((stale,), (), StubEngine)(spec, None, None)
