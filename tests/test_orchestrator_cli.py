"""The command: what people read, and exit codes."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import orchestrator.commands.shown
import orchestrator.run
import stub_engine
from conftest import write_scienceqa
from fake_experiment import write_fake_experiment
from orchestrator.cli import app
from orchestrator.sweep.source import SUITES, shipped_sweeps

ROOT = Path(__file__).parent.parent
SHIPPED = ", ".join([*shipped_sweeps(), *shipped_sweeps(SUITES)])


@pytest.fixture
def sweep(small_checkpoint: Path, tmp_path: Path) -> Path:
    """Two layers, 16 visual tokens, six questions. Model and data are copies that a test may damage."""
    shutil.copytree(small_checkpoint, tmp_path / "model")
    (tmp_path / "data").mkdir()
    write_scienceqa(tmp_path / "data", count=6)
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"model: {tmp_path}/model\ndata: {tmp_path}/data\nmax_new_tokens: 4\n"
        "grid:\n  - {strategy: cutoff, layer: 0..L}\n  - {strategy: random, layer: 1, rank: [4, N]}\n"
    )
    return path


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs end with their table: what is looked at are the cells, and pictures and pages of them take seconds."""
    monkeypatch.setattr(orchestrator.commands.shown, "write_results", lambda console, experiment: None)


def call(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def refuse(*arguments: object) -> str:
    code, _, error = call(*arguments)
    assert code == 2
    assert "Traceback" not in error
    return error.rstrip("\n")


def test_plan_says_what_it_costs_and_writes_nothing(sweep, tmp_path):
    code, text, _ = call("plan", sweep, "--out", tmp_path / "x", "--samples", 4)
    assert code == 0
    assert "6 points: un-pruned, cutoff, random" in text
    assert "4 (the first of 6) of scienceqa" in text
    assert "24 to be computed, in 4 units" in text
    assert "token-layers (estimate)" in text
    assert not (tmp_path / "x").exists()


def test_plan_says_how_a_card_takes_the_sweep_and_refuses_one_that_is_too_small(sweep, tmp_path):
    code, text, _ = call("plan", sweep, "--out", tmp_path / "x", "--gpu-memory", 24)
    assert code == 0
    assert "of 24 GiB on a GPU, 0.0 of them weights: 2 x 6 samples at a time, in 1 wave" in text
    _, _, error = call("plan", sweep, "--gpu-memory", 0.2, "--set", "model.offload=never")
    assert error.startswith("a GPU of 0.2 GiB is too small: weights of 0.0 GiB, one prompt and one fork need ")
    code, _, error = call("plan", sweep, "--gpu-memory", 0.2)
    assert code == 2
    assert error.startswith("a GPU of 0.2 GiB is too small for this model even with all its layers in host memory")
    code, text, _ = call("plan", sweep, "--gpu-memory", 24, "--set", "model.offload=2")
    assert (code, "0.0 of them weights (2 decoder layers, 0.0 GiB, in host memory): " in text) == (0, True)
    code, _, error = call("plan", sweep, "--gpu-memory", 24, "--set", "model.offload=3")
    assert (code, error.endswith("model.offload: 3 is above the model's 2 decoder layers\n")) == (2, True)
    code, _, error = call("plan", sweep, "--set", "model.offload=often")
    assert code == 2
    assert error.endswith("model.offload: 'often' is not auto, never, or a number of decoder layers\n")
    code, text, _ = call("doctor", sweep, "--out", tmp_path / "x", "--gpu-memory", 0.2)
    assert code == 2
    assert "STOP gpu memory a GPU of 0.2 GiB is too small" in text


def test_run_shows_the_table_and_where_things_are_and_runs_once(sweep, tmp_path):
    out = tmp_path / "x"
    code, text, _ = call("run", sweep, "--out", out, "--local")
    assert code == 0
    assert "un-pruned" in text
    assert "random layer=1 rank=16" in text
    assert "36 cells in" in text
    page = out / "report/index.html"
    assert f"pages:  {page}" in text
    assert page.is_file()
    code, text, _ = call("run", sweep, "--out", out, "--local")
    assert (code, "nothing was missing" in text) == (0, True)
    code, text, _ = call("status", out)
    assert (code, text.splitlines()[0].startswith("tiny: 36 of 36 cells, 6 grid points x 6 samples")) == (0, True)


def test_a_typo_in_the_sweep_file(sweep, tmp_path):
    sweep.write_text(sweep.read_text().replace("layer: 1", "layr: 1"))
    assert refuse("run", sweep, "--out", tmp_path / "x", "--local").splitlines() == [
        f"{sweep}: grid[1].layer: is missing: should 'layr' be 'layer'?"
    ]
    assert not (tmp_path / "x").exists()


def test_a_missing_image(sweep, tmp_path):
    image = next((tmp_path / "data/images").rglob("*.png"))
    image.unlink()
    error = refuse("run", sweep, "--out", tmp_path / "x", "--local")
    assert len(error.splitlines()) == 1
    assert str(image.parent.name) in error


def test_a_truncated_checkpoint(sweep, tmp_path):
    weights = next((tmp_path / "model").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    error = refuse("run", sweep, "--out", tmp_path / "x", "--local")
    assert error == f"{sweep}: model: {weights}: is truncated, 100 bytes are missing; download it again"


def test_a_damage_between_two_runs_loses_nothing(sweep, undrawn, tmp_path):
    out = tmp_path / "x"
    call("run", sweep, "--out", out, "--local", "--samples", 3)
    cells = {file.name: file.read_bytes() for file in (out / "cells").iterdir()}
    weights = next((tmp_path / "model").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    refuse("run", sweep, "--out", out, "--local")
    assert {file.name: file.read_bytes() for file in (out / "cells").iterdir()} == cells


def test_another_setting_does_not_mix_with_old_cells(sweep, undrawn, tmp_path):
    call("run", sweep, "--out", tmp_path / "x", "--local", "--samples", 2)
    sweep.write_text(sweep.read_text().replace("max_new_tokens: 4", "max_new_tokens: 5"))
    for command in ("run", "plan"):
        assert "(max_new_tokens was 4, now 5)" in refuse(command, sweep, "--out", tmp_path / "x")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("run", "nope.yaml"), f"nope.yaml: no such file, and no shipped sweep (shipped: {SHIPPED})"),
        (("run", "smoke", "--samples", "few"), "--samples few: give `all` or a whole number above 0"),
        (
            ("plan", "smoke", "--model", "/nowhere"),
            "smoke.yaml: model: /nowhere: no such directory; give a checkpoint directory",
        ),
        (
            ("status", "/nowhere"),
            "/nowhere: does not exist. `saccade run` makes one, by default under ./experiments",
        ),
        (
            ("status", __file__),
            f"{__file__}: is a file, not an experiment directory. "
            "`saccade run` makes one, by default under ./experiments",
        ),
        (("latency", "/"), "/: is not a file; give a sweep file, or the name of a shipped sweep"),
    ],
)
def test_one_clear_line(arguments, error):
    assert refuse(*arguments) == error


@pytest.mark.parametrize("option", [("plan", "--gpu-memory"), ("run", "--gpus-per-worker")])
@pytest.mark.parametrize("number", ["inf", "nan", "-1", "much"])
def test_a_size_that_is_no_number_is_refused(option, number):
    command, name = option
    code, _, error = call(command, "smoke", f"{name}={number}")
    assert (code, name in error) == (2, True)


def test_ctrl_c_says_how_to_go_on(sweep, tmp_path, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(orchestrator.run, "run_sweep", interrupted)
    code, _, error = call("run", sweep, "--out", tmp_path / "x", "--local")  # a cluster would have to come up and go
    assert (code, error) == (130, "interrupted; finished cells are kept: give the same command again to go on\n")


def test_a_bug_of_ours_keeps_its_traceback(sweep, tmp_path, monkeypatch):
    options = functools.partial(orchestrator.run.RunOptions, engine=stub_engine.BuggyEngine)
    monkeypatch.setattr(orchestrator.run, "RunOptions", options)
    with pytest.raises(IndexError, match="a bug of ours"):
        call("run", sweep, "--out", tmp_path / "x", "--local")


def test_status_counts_failures_by_message(tmp_path):
    write_fake_experiment(tmp_path / "x", samples=30, done=20, failed=("s2", "s7"))
    code, text, _ = call("status", tmp_path / "x")
    assert code == 0
    assert "2 samples failed; running again tries them again" in text
    assert "2 x ValueError: the image is damaged (s2, s7)" in text


def test_fewer_samples_than_before_hide_nothing(sweep, undrawn, tmp_path):
    out = tmp_path / "x"
    call("run", sweep, "--out", out, "--local")
    code, text, _ = call("run", sweep, "--out", out, "--local", "--samples", 4)
    assert (code, "nothing was missing" in text) == (0, True)
    code, text, _ = call("status", out)
    assert text.startswith("tiny: 24 of 24 cells, 6 grid points x 4 samples")
    assert "12 more cells are kept here, of other samples, grid points or versions of a strategy" in text
    code, text, _ = call("run", sweep, "--out", out, "--local", "--samples", 100)
    assert "nothing was missing" in text
    assert f"samples: 100 are asked for, and {tmp_path / 'data'} has 6: all are taken" in text
    assert "more cells" not in call("status", out)[1]


def test_a_damaged_file_is_named_where_results_are_shown(tmp_path):
    write_fake_experiment(tmp_path / "x", samples=30)
    damaged = min((tmp_path / "x/cells").glob("*.parquet"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    for command in ("report", "status"):
        code, text, _ = call(command, tmp_path / "x")
        assert (code, f"{damaged}: left out: has no digest" in text) == (0, True)
    code, text, error = call("compare", tmp_path / "x", "--format", "csv")
    assert (code, f"{damaged}: left out" in error, "left out" in text) == (0, True, False)


def test_help_loads_nothing_heavy():
    script = (
        "import sys, json, orchestrator.cli\n"
        "heavy = {'torch', 'ray', 'pandas', 'pyarrow', 'transformers', 'plotly', 'pydantic', 'rich.table'}\n"
        "print(json.dumps(sorted(heavy & set(sys.modules))))"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == []
