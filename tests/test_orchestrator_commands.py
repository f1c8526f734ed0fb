"""The newer commands on the small checkpoint: a sweep that measures, latency beside it, both in a comparison."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.sweep.source import SUITES, shipped_sweeps, shipped_text
from orchestrator.sweep.spec import load_sweep
from results.experiment import Experiment
from workers.card_speed import CardSpeed, device_name, speed_file, write_speed
from workers.saccade_version import saccade_version


@pytest.fixture
def sweep(small_checkpoint: Path, small_scienceqa: Path, tmp_path: Path) -> Path:
    """Two layers, four heads, 16 visual tokens, six questions of which one is text only."""
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"model: {small_checkpoint}\ndata: {small_scienceqa}\nmax_new_tokens: 2\n"
        "measure:\n"
        "  spectra: {matrix: [attention_weights, hidden_states], threshold: 1.0e-5, samples: 2}\n"
        "  quality: true\n"
        "grid:\n"
        "  - {strategy: ablation, layer: 1, tokens: [N/2, 3N/4], heads_kept: H, query: [last_token, system_and_text]}\n"
    )
    return path


def call(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "300"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_plan_shows_budgets_remarks_and_what_is_measured(sweep: Path, tmp_path: Path) -> None:
    text = call("plan", sweep, "--out", tmp_path / "x", "--set", "max_new_tokens=3")
    assert "tokens 12 at layer 1: rank 8, an average of 12.0 visual tokens" in text
    assert "heads_kept=4 keeps every head" in text
    assert text.count("query=system_and_text keeps the same tokens as text_tokens_only") == 1
    assert "attention_weights of layer 0" in text
    assert "(first 2 image questions), concentration and diversity of the kept tokens" in text
    text = call("plan", sweep, "--out", tmp_path / "x", "--set", "grid[0].positions=[keep, compact]")
    assert "un-pruned, ablation, ablation compact" in text


def test_plan_lists_grid_points_and_says_how_long_once_the_card_is_calibrated(sweep, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    text = call("plan", sweep, "--out", tmp_path / "x")
    assert "`saccade bench --calibrate` measures it, once" in text
    assert "  ablation layer=1 tokens=8 heads_kept=4" in text
    write_speed(
        CardSpeed(device=device_name("cpu"), dtype="float32", tflop_s=0, cell_s=4, model="a model", date="2026-11-28")
    )
    text = call("plan", sweep, "--out", tmp_path / "x", "--workers", 3, "--points", "rank=8")
    listed = text.partition("grid points:\n")[2]
    assert "about 40 s once the model is loaded, on 3 x core of" in text  # 5 points of 6 questions, 4 s a cell
    assert listed.count("ablation layer=1 tokens=12 ") == 2
    assert "rank=16" not in listed
    assert "un-pruned" not in listed
    speed_file(device_name("cpu"), "float32").write_text("{}")
    assert "--calibrate" in call("plan", sweep, "--out", tmp_path / "x")


def test_a_shell_completes_commands_options_and_shipped_sweeps() -> None:
    for words, found in (("saccade sta", "status"), ("saccade plan --gpu", "--gpu-memory"), ("saccade run head", None)):
        asked = {"_SACCADE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        done = CliRunner().invoke(app, [], prog_name="saccade", env=asked)
        assert done.output.split() == [found or "head_ablation"]


def test_a_sweep_that_measures_then_latency_then_compare(sweep: Path, tmp_path: Path) -> None:
    out = tmp_path / "x"
    text = call("run", sweep, "--out", out, "--local")
    assert "nothing was missing" not in text
    table = Experiment.open(out).measures()
    counts = table.groupby("name")["sample"].nunique()
    assert counts["attention_weights.1.effective_rank"] == counts["hidden_states.0.numerical_rank"] == 2
    assert counts["diversity.mean_distance"] == counts["concentration.gini"] == 5
    point = Experiment.open(out).points[2]
    names = ("attention_weights.1.numerical_rank", "hidden_states.0.numerical_rank")
    ranks = [table[(table["point"] == point.key) & (table["name"] == name)]["value"].max() for name in names]
    assert ranks == [point.rank, 16]  # before the pruning all tokens are there

    options = ("--points", "query=last_token", "--images", 1, "--repeats", 1, "--warmup", 0, "--decode-tokens", 1)
    assert "medians of 1 measurements" in call("latency", sweep, "--out", out, *options)
    stored = json.loads((out / "latency.json").read_text())
    assert len(stored["rows"]) == 3
    assert stored["rows"][0]["label"] == "un-pruned"
    assert "speed-up" in call("compare", out)
    assert "nothing was missing" in call("run", sweep, "--out", out, "--local")


def test_calibration_prints_lines_for_a_grid(sweep: Path) -> None:
    """Appended to a sweep file they are grid points; a label says of a long list where it begins and its digest."""
    lines = call("calibrate", sweep, "--questions", 2, "--tokens", 12, "--tokens", 9)
    sweep.write_text(sweep.read_text() + lines)
    found = [point for point in load_sweep(sweep).points if point.strategy == "fitprune"]
    assert [point.layer for point in found] == [1, 1]
    assert 16 > found[0].rank > found[1].rank
    long = replace(found[0], params=(("left", "-".join(["16"] * 30)),))
    assert long.label.startswith(f"fitprune layer=1 rank={long.rank} left=16-16-16-16-16-1...")
    assert len(long.label) < 60


def test_a_change_on_the_command_line_must_be_readable(sweep: Path) -> None:
    for change, message in (
        ("samples", "write KEY=VALUE"),
        ("samples=[", "is not YAML"),
        ("grid[7].layer=1", "no 7 there"),
    ):
        result = CliRunner().invoke(app, ["plan", str(sweep), "--set", change])
        assert result.exit_code == 2
        assert message in result.stderr


def test_an_option_of_several_commands_is_the_same_everywhere() -> None:
    found: dict[str, set[str]] = {}
    for command in typer.main.get_command(app).commands.values():  # type: ignore[attr-defined]
        for parameter in command.params:
            for name in parameter.opts:
                found.setdefault(name, set()).add(f"{getattr(parameter, 'help', None)} {parameter.default}")
    assert {name for name, forms in found.items() if name.startswith("--") and len(forms) > 1} == {"--out", "--format"}


def test_what_is_shipped_can_be_listed_shown_and_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    listed = call("list")
    assert all(name in listed for name in (*shipped_sweeps(), *shipped_sweeps(SUITES)))
    assert "5,328" in listed  # layer_cutoff's cells on the embedded model
    assert call("show", "smoke") == shipped_text("smoke")
    assert call("init", "smoke").startswith("smoke.yaml; run it with: saccade run smoke.yaml")
    copied = (tmp_path / "smoke.yaml").read_text()
    assert copied == shipped_text("smoke")
    for wrong in (["init", "smoke"], ["show", "smok"], ["init", "smoke", "no/where.yaml"]):
        assert CliRunner().invoke(app, wrong).exit_code != 0
    assert (tmp_path / "smoke.yaml").read_text() == copied


def test_the_version_is_said_without_loading_torch() -> None:
    code = "from orchestrator.cli import app; app(['--version'], standalone_mode=False)"
    check = f"import sys; {code}; print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout
    assert told.splitlines() == [f"saccade {saccade_version()}", "False"]
