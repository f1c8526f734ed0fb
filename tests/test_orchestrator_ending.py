"""SIGTERM, as SLURM, Kubernetes and systemd send it: one line how to go on, exit code 143, and nobody is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

import waiting
from conftest import write_scienceqa
from fake_experiment import write_fake_experiment
from processes import alive, descendants
from ray_cluster import ROOT

PATIENCE_S = 200.0  # on a machine that does much else
# The command `saccade`, in which what a module offers goes on for ever.
BLOCKED = """
import sys, time, types

class Blocking(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self.block

    def block(self, *given, **named):
        while True:
            try:
                print("reached", flush=True)
                time.sleep(300)
            except KeyboardInterrupt:
                print("asked", flush=True)
                if "stubborn" not in sys.argv[0]:
                    raise

sys.argv[:2] = [sys.argv[1]]
name = sys.argv[0].partition("/")[0]
sys.modules[name] = Blocking(name)
from orchestrator.cli import main
main()
"""


@contextmanager
def started(command: Sequence[str], cwd: Path = ROOT) -> Iterator[subprocess.Popen[str]]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {"OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen([sys.executable, *command], cwd=cwd, env=env, **pipes)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    seen = ""
    while text not in (line := process.stdout.readline()):
        seen += line
        assert line, f"it ended before {text!r}: {seen}"


def end(process: subprocess.Popen[str]) -> list[str]:
    """Send SIGTERM; the lines of what is said from there on."""
    process.terminate()
    return process.communicate(timeout=PATIENCE_S)[0].splitlines()


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("orchestrator.cluster.joining", ["run", "smoke"]),  # before anything
        ("orchestrator.sweep.prepare", ["run", "smoke", "--local"]),
        ("orchestrator.ablate", ["ablate", "--local"]),
        ("results.location", ["tune", "x"]),
        ("results.location", ["report", "x"]),
        ("orchestrator.sweep.prepare", ["latency", "smoke"]),
        ("dashboards.app", ["dashboard", "x"]),
        ("workers.speed_test.bench", ["bench"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value,
)
def test_every_command_ends_with_one_line(module, command):
    with started(["-c", BLOCKED, module, *command]) as process:
        wait_for(process, "reached")
        asked, line = end(process)
        assert asked == "asked"
        assert line.startswith("ended by SIGTERM; ")
        assert "give the same command again" in line
        assert process.returncode == 143


def test_a_second_signal_ends_at_once():
    with started(["-c", BLOCKED, "orchestrator.cluster.joining/stubborn", "run", "smoke"]) as process:
        wait_for(process, "reached")
        process.send_signal(signal.SIGTERM)
        wait_for(process, "asked")
        wait_for(process, "reached")
        assert end(process) == []
        assert process.returncode == -signal.SIGTERM


def test_the_dashboard_ends(tmp_path):
    """Its server takes a KeyboardInterrupt for itself."""
    experiment = write_fake_experiment(tmp_path / "e", samples=10)
    with started(["-m", "orchestrator", "dashboard", str(experiment.path), "--port", "0"]) as process:
        wait_for(process, "http://")
        assert end(process) == ["ended by SIGTERM; give the same command again"]
        assert process.returncode == 143


@pytest.mark.ray
@pytest.mark.system
def test_a_sweep_over_ray_ends_and_the_same_command_goes_on(small_checkpoint, tmp_path):
    write_scienceqa(tmp_path / "data", count=60)
    (tmp_path / "sweep.yaml").write_text(
        f"model: {small_checkpoint}\ndata: {tmp_path / 'data'}\nmax_new_tokens: 4\n"
        "grid:\n  - {strategy: [fastv, random], layer: 1, rank: [2, 4, 8]}\n"
    )
    out = tmp_path / "x"
    command = ["-m", "orchestrator", "run", str(tmp_path / "sweep.yaml"), "--out", str(out), "--workers", "2"]
    with started(command) as process:
        deadline = time.monotonic() + PATIENCE_S
        while not list(out.glob("cells/*.parquet")):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        family = descendants(process.pid) - {process.pid}
        text = "\n".join(end(process))
        assert process.returncode == 143, text
    assert text.endswith("ended by SIGTERM; finished cells are kept: give the same command again to go on"), text
    assert "***" not in text
    assert "Traceback" not in text
    assert len(family) > 5
    waiting.wait_for(lambda: not alive(family))
    with started(command) as process:
        said = process.communicate(timeout=PATIENCE_S)[0]
        assert process.returncode == 0, said
