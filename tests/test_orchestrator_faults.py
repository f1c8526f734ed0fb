"""Whole sweeps under faults: bad samples, a full disk, a killed driver. What comes out is what would have come out."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

import stub_engine
from conftest import write_scienceqa
from fake_experiment import fake_outcome, fake_points, fake_samples
from orchestrator.cluster.faults import IN_A_ROW, FaultWatch, SweepError
from orchestrator.cluster.limits import SAMPLE_S, TimeLimit, alarm
from orchestrator.run import RunOptions, RunResult, run_sweep
from orchestrator.sweep.prepare import Prepared, prepare
from orchestrator.sweep.spec import load_sweep
from processes import alive, descendants, listening, title
from ray_cluster import ROOT, TESTS
from results.experiment import Experiment
from soak import soak
from waiting import wait_for
from workers.work import SampleFailure, UnitOutcome, WorkUnit

SWEEP = "model: embedded\ndata: embedded\ngrid:\n  - {strategy: cutoff, layer: 2..4}\n"


def failures(*samples: str, kind: str = "DataError") -> UnitOutcome:
    records = [SampleFailure(sample=sample, kind=kind, message="cannot be read", traceback="") for sample in samples]
    return UnitOutcome(unit="x", outcomes=(), failures=tuple(records))


ANSWERS = fake_outcome(WorkUnit(samples=("s1",), points=fake_points()[:1]))


class TestFaultWatch:
    def test_bad_samples_among_good_ones_stop_nothing(self):
        watch = FaultWatch(10_000)
        for turn in range(500):
            watch.look(failures(*(f"s{turn}-{place}" for place in range(IN_A_ROW - 1))))
            watch.look(ANSWERS)

    def test_many_in_a_row_do(self):
        watch = FaultWatch(10_000)
        watch.look(ANSWERS)
        watch.look(failures(*(f"s{place}" for place in range(IN_A_ROW - 1))))
        with pytest.raises(
            SweepError, match=rf"^{IN_A_ROW} samples in a row failed, {IN_A_ROW} of them with DataE.*s0"
        ):
            watch.look(failures("last"))

    def test_all_of_a_small_sweep_do(self):
        watch = FaultWatch(2)
        watch.look(failures("s0"))
        with pytest.raises(SweepError):
            watch.look(failures("s1"))

    def test_lost_workers_are_dear(self):
        watch = FaultWatch(10_000)
        for place in range(4):
            watch.look(failures(f"s{place}", kind="WorkerLost"))
        with pytest.raises(SweepError, match="Fewer --workers"):
            watch.look(failures("s4", kind="WorkerLost"))

    def test_what_failed_before_is_expected(self):
        watch = FaultWatch(10_000, known=[f"s{place}" for place in range(1000)])
        watch.look(failures(*(f"s{place}" for place in range(1000))))


class Failing(stub_engine.StubEngine):
    """Cannot answer the samples of ``bad``."""

    bad: frozenset[str] = frozenset()

    def run(self, unit: WorkUnit) -> UnitOutcome:
        good = unit.of([sample for sample in unit.samples if sample not in self.bad])
        wrong = failures(*(sample for sample in unit.samples if sample in self.bad))
        return replace(wrong, unit=unit.key, outcomes=fake_outcome(good).outcomes)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    path = tmp_path_factory.mktemp("sweep") / "sweep.yaml"
    path.write_text(SWEEP)
    return replace(prepare(load_sweep(path)), samples=fake_samples(120))  # the stub engines answer these


def run(prepared: Prepared, out: Path, engine: type = stub_engine.StubEngine) -> RunResult:
    return run_sweep(prepared, out, RunOptions(local=True, engine=engine), Console(file=io.StringIO()))


def test_a_sample_that_always_fails_is_a_record(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(Failing, "bad", frozenset({"s5", "s77"}))
    for _ in range(2):
        result = run(prepared, tmp_path / "x", Failing)
        assert result.failed == 2
        assert list(result.experiment.failures()["sample"]) == ["s5", "s77"]
    healthy = run(prepared, tmp_path / "healthy").experiment.cells()
    healthy = healthy[~healthy["sample"].isin(["s5", "s77"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(result.experiment.cells(), healthy)


def test_a_fault_of_every_sample_stops_early_and_mending_it_goes_on(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(Failing, "bad", frozenset(f"s{place}" for place in range(30, 120)))
    with pytest.raises(SweepError, match="with DataError: cannot be read"):
        run(prepared, tmp_path / "x", Failing)
    kept = Experiment.open(tmp_path / "x")
    assert len(kept.cells()) == 30 * 4
    assert len(kept.failures()) < 90  # it did not go through all of them
    run(prepared, tmp_path / "x")
    expected = run(prepared, tmp_path / "healthy").experiment
    pd.testing.assert_frame_equal(Experiment.open(tmp_path / "x").cells(), expected.cells())


def test_a_missing_gpu_driver_or_the_like_is_one_line_and_exit_code_2(prepared, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    import orchestrator.run
    from orchestrator.cli import app

    def options(**given: object) -> RunOptions:
        return RunOptions(local=True, engine=Failing)

    monkeypatch.setattr(orchestrator.run, "RunOptions", options)
    monkeypatch.setattr(Failing, "bad", frozenset(sample.id for sample in prepared.samples))
    monkeypatch.setattr(orchestrator.run, "prepare", lambda spec: prepared)
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    result = CliRunner().invoke(app, ["run", str(tmp_path / "sweep.yaml"), "--out", str(tmp_path / "x"), "--local"])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert "samples in a row failed" in result.stderr


ALONE = ("unshare", "--map-root-user", "--mount")
FULL_DISK = """
import sys
from pathlib import Path
import subprocess
from test_orchestrator_faults import *
from results.disk import StoreError

folder = Path(sys.argv[1])
(folder / "sweep.yaml").write_text(SWEEP)
prepared = replace(prepare(load_sweep(folder / "sweep.yaml")), samples=fake_samples(120))
disk = folder / "disk"
disk.mkdir()
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(disk)], check=True)
try:
    run(prepared, disk / "x")
except StoreError as error:
    print(error)
some = len(Experiment.open(disk / "x").cells())
assert 0 < some < 480, some
assert not Experiment.open(disk / "x").notes
subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
assert run(prepared, disk / "x").computed == 480 - some
pd.testing.assert_frame_equal(Experiment.open(disk / "x").cells(), run(prepared, folder / "roomy").experiment.cells())
assert not [file for file in (disk / "x").rglob("*.tmp")]
"""


@pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run([*ALONE, "true"], capture_output=True).returncode != 0,
    reason="a small disk needs a mount of its own",
)
@pytest.mark.system
def test_a_full_disk_is_one_line_and_nothing_is_lost(tmp_path):
    result = subprocess.run(
        [*ALONE, sys.executable, "-c", FULL_DISK, str(tmp_path)],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": f"{ROOT}:{TESTS}"}, text=True, capture_output=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    (line,) = result.stdout.splitlines()
    assert "cannot be written: No space left on device; what was finished before is kept" in line


class Hanging(stub_engine.StubEngine):
    """Sample s5 is read from a pipe that nobody writes to, and the alarm rings soon."""

    runs: list[tuple[str, ...]]

    def run(self, unit: WorkUnit) -> UnitOutcome:
        self.runs.append(unit.samples)
        if "s5" in unit.samples:
            reader, _ = os.pipe()
            left_s, _ = signal.setitimer(signal.ITIMER_REAL, 0.1)
            assert left_s > SAMPLE_S - 60
            os.read(reader, 1)
        return super().run(unit)


def test_a_sample_that_hangs_is_broken_off_recorded_and_tried_once_by_the_next_run(prepared, tmp_path, monkeypatch):
    healthy = run(prepared, tmp_path / "healthy").experiment.cells()
    for tries in (2, 1):
        monkeypatch.setattr(Hanging, "runs", [], raising=False)
        result = run(prepared, tmp_path / "x", Hanging)
        (failure,) = result.experiment.failures().itertuples()
        assert (failure.sample, failure.kind) == ("s5", "NoAnswer")
        assert failure.message == "no answer within 10 min 00 s; --sample-timeout changes that"
        assert sum("s5" in samples for samples in Hanging.runs) == tries
        expected = healthy[healthy["sample"] != "s5"].reset_index(drop=True)
        pd.testing.assert_frame_equal(result.experiment.cells(), expected)
    assert Hanging.runs == [("s5",)]
    run(prepared, tmp_path / "x")
    assert not len(Experiment.open(tmp_path / "x").failures())


def test_an_alarm_leaves_that_of_others_as_it_was():
    handler = signal.getsignal(signal.SIGALRM)
    before_s, _ = signal.setitimer(signal.ITIMER_REAL, 1000)
    with pytest.raises(TimeLimit), alarm(0.01):
        threading.Event().wait()
    left_s, _ = signal.setitimer(signal.ITIMER_REAL, before_s)
    assert 0 < left_s <= 1000
    assert signal.getsignal(signal.SIGALRM) == handler


class Evil:
    """What a pickle may do when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.mark,)


def agents_of(driver: int) -> set[int]:
    return {
        pid for pid in descendants(driver) if title(pid).startswith(("ray::DashboardAgent", "ray::RuntimeEnvAgent"))
    }


@pytest.mark.ray
@pytest.mark.system
def test_a_killed_driver_leaves_nothing_behind_and_the_same_command_goes_on(small_checkpoint, tmp_path):
    """Beside that: nothing listens beyond this machine, and no pickle that lies in the directory is read."""
    write_scienceqa(tmp_path / "data", count=60)
    (tmp_path / "sweep.yaml").write_text(
        f"model: {small_checkpoint}\ndata: {tmp_path / 'data'}\nmax_new_tokens: 4\n"
        "grid:\n  - {strategy: [fastv, random], layer: 1, rank: [2, 4, 8]}\n"
    )
    out = tmp_path / "x"
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    options = {"cwd": ROOT, "env": env, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}

    sweep = str(tmp_path / "sweep.yaml")
    command = [sys.executable, "-m", "orchestrator", "run", sweep, "--out", str(out), "--workers", "2"]
    driver = subprocess.Popen(command, **options)
    try:
        wait_for(lambda: driver.poll() is not None or list(out.glob("cells/*.parquet")), every_s=0.02)
        assert driver.poll() is None, driver.communicate()[0]
        driver.send_signal(signal.SIGSTOP)  # nothing more is written, however long the look around takes
        wait_for(lambda: len(agents_of(driver.pid)) == 2)
        family, agents = descendants(driver.pid), agents_of(driver.pid)
        addresses = listening(family)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
    assert len(family) > 5  # Ray's own processes, and the workers
    assert addresses
    assert all(address.is_loopback for address in addresses), addresses
    # The agents hold nothing, and end after trying for a minute to tell Ray's head of its death.
    wait_for(lambda: not alive(family - agents))
    some = len(Experiment.open(out).cells())
    assert 0 < some < 60 * 7

    mark = tmp_path / "a pickle was read"
    evil = pickle.dumps(Evil(mark))
    for name in ("tuner.pkl", "trainable.pkl", "searcher-state-1.pkl", "cells/x.pkl", "cells/x.parquet"):
        (out / name).write_bytes(evil)
    again = subprocess.run(command, **options)
    assert again.returncode == 0, again.stdout
    assert f"{60 * 7 - some} cells in" in again.stdout
    assert not mark.exists()
    assert "cells/x.parquet: has no digest" in again.stdout
    healthy = prepare(load_sweep(Path(sweep)))
    undisturbed = run_sweep(healthy, tmp_path / "undisturbed", RunOptions(local=True), Console(file=io.StringIO()))
    same, as_is = Experiment.open(out), undisturbed.experiment
    pd.testing.assert_frame_equal(same.cells(), as_is.cells(), check_exact=True)
    pd.testing.assert_frame_equal(same.kept(), as_is.kept())


@pytest.mark.ray
@pytest.mark.system
def test_a_sweep_that_is_struck_again_and_again_ends_as_if_nothing_had_been(tmp_path):
    """A short form of ``python tests/soak.py``, which strikes a hundred times."""
    seen = soak(tmp_path, kills=5, samples=200, seed=3)
    assert seen["starts of the driver"] >= 1
