"""One writer at a time: who comes second is told, and a record outlives no process that was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fake_experiment import fake_samples, write_fake_experiment
from orchestrator.cli import app
from ray_cluster import ROOT, TESTS
from results import lock
from results.disk import LOCK, StoreError, is_vacant
from results.experiment import Experiment
from results.location import followed, written
from results.lock import FolderLockFile, Holder, held

ORIGINAL = str(TESTS / "originals" / "fastv_layer_cutoff_results.json")
SWEEP = "model: embedded\ndata: embedded\nsamples: 3\nmax_new_tokens: 1\ngrid:\n  - {strategy: cutoff, layer: 3}\n"
HOLD = """
import sys
from pathlib import Path
from results.location import followed
with followed(Path(sys.argv[1]), print):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def other_driver(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process of this machine that writes there."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def saccade(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP)
    return path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No sign of life is waited for long, except where a test gives one."""
    for name in ("STALE_S", "SETTLE_S", "LOOK_S"):
        monkeypatch.setattr(lock, name, 0.05)


def elsewhere(**changes: object) -> Holder:
    """Who writes on another machine, where a process has our number."""
    return replace(Holder.this_process(), token="theirs", machine="their boot", host="node-7", **changes)  # type: ignore[arg-type]


def leave(folder: Path, content: bytes) -> None:
    folder.mkdir(exist_ok=True)
    (folder / LOCK).write_bytes(content)


def hold(folder: Path) -> list[str]:
    """Write there for a moment; the lines that were told."""
    told: list[str] = []
    with held(FolderLockFile(folder), told.append):
        holder = Holder.of((folder / LOCK).read_bytes())
        assert holder is not None
        assert holder.pid == os.getpid()
        assert holder.host != "node-7"
    assert not (folder / LOCK).exists()
    return told


def test_all_commands_that_write_are_told_who_does_and_readers_never_wait(sweep, tmp_path):
    out = tmp_path / "x"
    for folder in (out, tmp_path / "a", tmp_path / "b"):
        write_fake_experiment(folder, samples=10)
    before = (out / "sweep.yaml").read_bytes(), (out / "samples.parquet").read_bytes()
    with other_driver(out) as other:
        for command in (
            ("run", sweep, "--out", out, "--local"),
            ("latency", sweep, "--out", out),
            ("ablate", "--model", "embedded", "--data", "embedded", "--out", out, "--local"),
            ("tune", out),
            ("merge", tmp_path / "a", tmp_path / "b", "--out", out),
            ("import", ORIGINAL, "--out", out),
        ):
            result = saccade(*command)
            assert result.exit_code == 2, result.output
            (line,) = result.stderr.splitlines()
            assert f"{out}: process {other.pid} of " in line
            assert "writes there, and two at once would mix their numbers; wait" in line
        assert before == ((out / "sweep.yaml").read_bytes(), (out / "samples.parquet").read_bytes())
        for command in (
            ("status", out),
            ("report", out),
            ("compare", out, tmp_path / "a"),
            ("export", out, "--out", tmp_path / "e"),
        ):
            result = saccade(*command)
            assert result.exit_code == 0, result.output
            assert (f"process {other.pid} of" in result.stdout) is (command[0] == "status")


def test_after_a_kill_the_same_command_goes_on_at_once(sweep, tmp_path):
    out = tmp_path / "x"
    with other_driver(out) as other:
        assert "writes there" in saccade("run", sweep, "--out", out, "--local").stderr
        other.send_signal(signal.SIGKILL)
        while "Z" not in Path(f"/proc/{other.pid}/stat").read_text().rpartition(")")[2].split()[:1]:
            time.sleep(0.01)  # nobody has asked for its end yet: the process id is still taken
        assert (out / LOCK).exists()
        result = saccade("run", sweep, "--out", out, "--local", "--pictures", "0")
        assert result.exit_code == 0, result.output
        assert "waiting" not in result.output
    assert not (out / LOCK).exists()
    assert "the newest cells" not in saccade("status", out).stdout


def test_a_process_id_that_another_process_has_now_is_nobody(tmp_path, quick):
    leave(tmp_path, replace(Holder.this_process(), begun=1).to_bytes())
    assert hold(tmp_path) == []


def test_another_machines_record_that_nobody_renews_is_waited_for_and_then_replaced(tmp_path, quick):
    leave(tmp_path, elsewhere().to_bytes())
    (line,) = hold(tmp_path)
    assert f"{tmp_path}: held by process {os.getpid()} of " in line
    assert "on node-7 (since " in line
    assert "waiting up to" in line


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1]", b'{"pid": 1}', elsewhere().to_bytes()[:-9], elsewhere(pid=2**31).to_bytes(), b"\xff" * 99],
    ids=["empty", "begun", "list", "little", "cut", "no process", "bytes"],
)
def test_a_damaged_record_is_waited_for_and_then_replaced(tmp_path, quick, content):
    leave(tmp_path, content)
    (line,) = hold(tmp_path)
    assert "is damaged, so that nobody can tell who writes there" in line


def test_a_pipe_in_its_place_blocks_nobody(tmp_path, quick):
    os.mkfifo(tmp_path / LOCK)
    assert len(hold(tmp_path)) == 1


def test_another_machine_that_lives_is_seen_by_its_signs_whatever_its_clock_says(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "LOOK_S", 0.01)
    leave(tmp_path, elsewhere(sign="1970-01-01T00:00:00+00:00").to_bytes())
    ended = threading.Event()

    def live() -> None:
        beat = 0
        while not ended.wait(0.05):
            beat += 1
            (tmp_path / "new").write_bytes(elsewhere(beat=beat).to_bytes())
            (tmp_path / "new").replace(tmp_path / LOCK)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        with pytest.raises(StoreError, match=r"on node-7 .*writes there, and two at once"):
            hold(tmp_path)
    finally:
        ended.set()
        thread.join()


def test_signs_are_given_and_a_record_that_somebody_deleted_comes_back(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_S", 0.02)
    beats: set[int] = set()
    with followed(tmp_path / "x", print) as folder:
        (folder / LOCK).unlink()
        deadline = time.monotonic() + 60
        while len(beats) < 3:
            assert time.monotonic() < deadline
            if (folder / LOCK).exists() and (holder := Holder.of((folder / LOCK).read_bytes())):
                beats.add(holder.beat)
    assert not folder.exists()  # nothing came of it, so nothing is left


def test_who_was_silent_for_too_long_ends_when_another_has_taken_over(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_S", 0.02)

    def write() -> None:
        with followed(tmp_path, print):
            for _ in range(600):  # a beat that came between may have written over the first
                leave(tmp_path, elsewhere().to_bytes())
                time.sleep(0.1)

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell has it for what it starts in the background
    try:
        with pytest.raises(StoreError, match=r"on node-7 .*writes there now, because this process gave no sign"):
            write()
    finally:
        signal.signal(signal.SIGINT, before)
    assert json.loads((tmp_path / LOCK).read_bytes())["host"] == "node-7"  # it is theirs


def test_of_many_that_find_a_dead_ones_record_one_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "SETTLE_S", 0.2)
    leave(tmp_path, replace(Holder.this_process(), begun=1).to_bytes())
    inside: list[int] = []
    refused: list[StoreError] = []
    done = threading.Barrier(6)

    def write(number: int) -> None:
        try:
            with held(FolderLockFile(tmp_path), print):
                inside.append(number)
                done.wait(60)
        except StoreError as error:
            refused.append(error)
            done.wait(60)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(inside), len(refused)) == (1, 5)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to_is_a_line(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match=r"cannot be written: Permission denied; give --out"):
        hold(tmp_path)


def test_what_is_no_folder_is_a_line_and_a_new_one_counts_as_empty(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="is a file; give --out a directory"), written(tmp_path / "file", print):
        pass
    with written(tmp_path / "new", print) as folder:
        assert is_vacant(folder)
        (folder / "y").touch()
        assert not is_vacant(folder)
    assert list(folder.iterdir()) == [folder / "y"]


def test_a_run_counts_its_own_samples_whatever_becomes_of_their_file(tmp_path):
    experiment = write_fake_experiment(tmp_path / "x", samples=10)
    (tmp_path / "x" / "samples.parquet").unlink()
    assert len(experiment.cells()) == 10 * len(experiment.points)
    assert list(experiment.samples["id"]) == [sample.id for sample in fake_samples(10)]
    with pytest.raises(StoreError, match="cannot be read"):
        Experiment.open(tmp_path / "x").cells()
