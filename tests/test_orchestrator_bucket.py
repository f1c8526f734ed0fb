"""Experiments in a bucket: an S3 server on this machine, reached as any other."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow.fs
import pytest
from click.testing import Result
from moto.server import ThreadedMotoServer
from rich.console import Console
from typer.testing import CliRunner

from fake_experiment import fake_outcome, write_fake_experiment
from orchestrator.cli import app
from orchestrator.run import RunOptions, run_sweep
from orchestrator.sweep.prepare import prepare
from orchestrator.sweep.spec import load_sweep
from results import bucket, location, lock
from results.analysis.racing import RacingRule
from results.bucket import NOBODY, Bucket, BucketLockFile
from results.disk import LOCK, StoreError
from results.experiment import Experiment
from results.location import bucket_at, driver_of, followed, local_folder, located, uri_of, watched, written
from results.lock import Holder, held
from results.stops import Stops, read_stops, write_stops
from waiting import wait_for
from workers.work import WorkUnit


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture
def store(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> pyarrow.fs.FileSystem:
    """The server's file system, with a bucket `lab`."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    files = pyarrow.fs.S3FileSystem(
        endpoint_override=endpoint, scheme="http", allow_bucket_creation=True, region="us-east-1"
    )
    files.create_dir("lab")
    return files


@pytest.fixture
def place(endpoint: str, store: object, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A URI of this test's own, as the command line hands it on."""
    return Path(f"s3://lab/{tmp_path.name}/exp?endpoint_override={endpoint}&scheme=http")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Go to another machine: one with an empty cache directory."""

    def go(name: str) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))

    go("first")
    return go


def in_bucket(place: Path) -> set[str]:
    return set(bucket_at(place)._there())


def write_here(place: Path, **options: object) -> None:
    with followed(place, lambda line: None) as folder:
        write_fake_experiment(folder, **options)  # type: ignore[arg-type]


def test_another_machine_sees_the_same_experiment(place, machine):
    write_here(place, samples=40)
    with located(place, exists=True) as folder:
        cells, kept = Experiment.open(folder).cells(), Experiment.open(folder).kept()
    machine("second")
    with located(place, exists=True) as other:
        assert other != folder
        pd.testing.assert_frame_equal(Experiment.open(other).cells(), cells)
        pd.testing.assert_frame_equal(Experiment.open(other).kept(), kept)


def test_what_changes_is_sent_and_nothing_else(place, machine, monkeypatch):
    write_here(place, samples=20)
    sent: list[str] = []
    send_one = Bucket._send_one
    monkeypatch.setattr(Bucket, "_send_one", lambda self, name, look: (sent.append(name), send_one(self, name, look)))
    with located(place) as folder:
        pass
    assert sent == []
    with located(place) as folder:
        (folder / "exports").mkdir()
        (folder / "exports" / "table.csv").write_text("a,b\n")
    assert sent == ["exports/table.csv"]
    machine("second")
    with located(place) as folder:
        assert not (folder / "exports").exists()  # no command reads it
    with located(place, everything=True) as folder:
        assert (folder / "exports" / "table.csv").read_text() == "a,b\n"


def test_the_newer_description_wins_on_both_sides(place, machine):
    write_here(place, samples=20)
    machine("second")
    time.sleep(1.1)  # S3 tells seconds
    write_here(place, samples=30)
    machine("first")
    with located(place) as folder:
        assert len(Experiment.open(folder).samples) == 30
        (folder / "sweep.yaml").write_text((folder / "sweep.yaml").read_text() + "# mine\n")
    machine("second")
    with located(place) as folder:
        assert (folder / "sweep.yaml").read_text().endswith("# mine\n")


@pytest.mark.parametrize("table", [Path("exports/table.csv"), Path("report/pictures/a.png")])
def test_who_only_reads_sends_nothing_that_is_out_of_date(place, machine, table):
    """A machine that has an older table, which its command does not look at, leaves the newer one in the bucket."""
    for name, text in (("first", "of 20"), ("second", "of 30")):  # of one size
        machine(name)
        with followed(place, lambda line: None) as folder:
            write_fake_experiment(folder, samples=20)
            (folder / table).parent.mkdir(parents=True, exist_ok=True)
            (folder / table).write_text(text)
        time.sleep(1.1)
    machine("first")
    with located(place, exists=True) as folder:
        assert (folder / table).read_text() == "of 20"
        (folder / "latency.json").write_text("{}")  # what is sent must not date the rest
    for name in ("third", "first"):
        machine(name)
        with located(place, everything=True) as folder:
            assert (folder / table).read_text() == "of 30"


@pytest.mark.parametrize("cut", [500, 0])
def test_a_file_cut_here_is_mended_from_the_bucket(place, machine, cut):
    write_here(place, samples=20)
    with located(place) as folder:
        file = next((folder / "cells").iterdir())
    os.truncate(file, cut)  # is newer than the object
    with located(place) as folder:
        assert len(Experiment.open(folder).done()) == 20
        os.truncate(file, cut)
    machine("second")
    with located(place) as folder:
        assert len(Experiment.open(folder).done()) == 20


@pytest.mark.parametrize("content", [b"", b"PAR1"])
def test_an_object_cut_there_is_mended_from_here(place, machine, store, content):
    write_here(place, samples=20)
    time.sleep(1.1)
    at = bucket_at(place)
    names = [name for name in at._there() if name.startswith("cells/")]
    for name in (*names, "sweep.yaml") if not content else names:
        with store.open_output_stream(f"{at._root}/{name}") as stream:
            stream.write(content)
    for name in ("first", "second"):
        machine(name)
        with located(place) as folder:
            assert len(Experiment.open(folder).done()) == 20


def test_racing_that_was_undone_stays_undone(place, machine):
    for name, stops in (("first", Stops(rule=RacingRule(), stopped={"k": 8}, cells=9, saved=3)), ("second", None)):
        machine(name)
        with followed(place, lambda line: None) as folder:
            write_stops(write_fake_experiment(folder, samples=20), stops)
        time.sleep(1.1)
    for name in ("first", "second", "third"):
        machine(name)
        with located(place, exists=True) as folder:
            assert read_stops(Experiment.open(folder)) is None


def test_cells_of_two_machines_are_put_together(place, machine):
    experiment_of = {}
    for name, samples in (("first", range(10)), ("second", range(10, 20))):
        machine(name)
        with followed(place, lambda line: None) as folder:
            experiment = write_fake_experiment(folder, samples=20, done=0)
            unit = WorkUnit(samples=tuple(f"s{k}" for k in samples), points=experiment.points)
            experiment.write(unit, fake_outcome(unit))
            experiment_of[name] = experiment
    machine("third")
    with located(place) as folder:
        assert len(Experiment.open(folder).done()) == 20


def test_a_stage_of_an_ablation_can_be_followed_while_it_is_computed(place, machine, monkeypatch):
    monkeypatch.setattr(location, "SEND_S", 0.05)
    with followed(place, lambda line: None) as folder:
        write_fake_experiment(folder / "1_heads", samples=20)
        written = len(list((folder / "1_heads/cells").iterdir()))
        wait_for(lambda: sum(name.startswith("1_heads/cells/") for name in in_bucket(place)) >= written)
        machine("desk")
        with located(Path(str(place).replace("/exp?", "/exp/1_heads?")), exists=True) as stage:
            assert len(Experiment.open(stage).done()) == 20


def test_cells_are_sent_after_what_belongs_to_them_while_they_are_computed(place, machine, monkeypatch):
    monkeypatch.setattr(location, "SEND_S", 0.05)
    sent: list[str] = []
    send_one = Bucket._send_one
    monkeypatch.setattr(Bucket, "_send_one", lambda self, name, look: (sent.append(name), send_one(self, name, look)))
    with followed(place, lambda line: None) as folder:
        experiment = write_fake_experiment(folder, samples=40, done=0)
        for first in range(0, 40, 4):
            unit = WorkUnit(samples=tuple(f"s{k}" for k in range(first, first + 4)), points=experiment.points)
            experiment.write(unit, fake_outcome(unit))
            time.sleep(0.05)
        wait_for(lambda: sum(name.startswith("cells/") for name in sent) >= 10)
    cells = [name for name in sent if name.startswith("cells/")]
    assert len(set(cells)) == len(cells) == 10
    for name in cells:
        assert sent.index(name.replace("cells/", "kept/")) < sent.index(name)


def test_who_watches_sees_new_cells(place, machine, monkeypatch):
    monkeypatch.setattr(location, "FETCH_S", 0.05)
    write_here(place, samples=20, done=10)
    machine("desk")
    with watched([place]) as (folder,):
        assert len(Experiment.open(folder).done()) == 10
        with pytest.MonkeyPatch.context() as elsewhere:
            elsewhere.setenv("XDG_CACHE_HOME", str(folder.parents[3] / "first"))
            write_here(place, samples=20)
        wait_for(lambda: len(Experiment.open(folder).done()) == 20)


def test_one_writes_into_a_bucket_at_a_time(place, machine, monkeypatch):
    """The record is not part of the experiment: no working copy has it, and it is gone when the command ends."""
    monkeypatch.setattr(lock, "STALE_S", 0.1)
    write_here(place, samples=10)
    with followed(place, lambda line: None):
        machine("second")
        with pytest.raises(StoreError, match=r"s3:.*: process .* writes there"), written(place, lambda line: None):
            pass
        assert "writes here" in (driver_of(place) or "")
        with located(place, exists=True):
            assert driver_of(place)
    assert driver_of(place) is None
    board, told = BucketLockFile(bucket_at(place)), []
    board.create(replace(Holder.this_process(), machine="their boot", host="node-7").to_bytes())
    with written(place, told.append) as folder:
        assert not (folder / LOCK).exists()
    assert "on node-7" in told[0]
    assert board.read() is None


def test_who_may_not_delete_leaves_a_record_of_nobody(place, machine, store, monkeypatch):
    board = BucketLockFile(bucket_at(place))

    class Undeletable:
        def __getattr__(self, name: str) -> object:
            if name == "delete_file":
                raise OSError("AWS Error ACCESS_DENIED")
            return getattr(store, name)

    board._bucket._files = Undeletable()
    for _ in range(2):
        with held(board, pytest.fail):
            assert Holder.of(board.read() or b"")
        assert store.get_file_info(board._object).size == len(NOBODY)


def test_a_bucket_that_fails_for_a_while_costs_nothing(place, machine, monkeypatch):
    monkeypatch.setattr(location, "SEND_S", 0.05)
    send_one, told, broken, tried = Bucket._send_one, [], [True], []

    def send(self, name, look):
        if broken[0]:
            tried.append(name)
            raise OSError(f"When uploading {name}: AWS Error SLOW_DOWN:\n reduce your request rate")
        send_one(self, name, look)

    monkeypatch.setattr(Bucket, "_send_one", send)
    with followed(place, told.append) as folder:
        for samples in (10, 20):  # another file fails first
            write_fake_experiment(folder, samples=samples)
            tried.clear()
            wait_for(lambda: max(Counter(tried).values(), default=0) >= 3)  # the third round
        broken[0] = False
    complaints = [line for line in told if "cannot be written to" in line]
    assert len(complaints) == 1, "said once"
    assert "SLOW_DOWN: reduce your request rate" in complaints[0]
    assert str(folder) in complaints[0]
    machine("second")
    with located(place) as other:
        assert len(Experiment.open(other).done()) == 20


def test_a_bucket_that_fails_to_the_end_leaves_the_working_copy(place, machine, monkeypatch):
    def send(self, name, look):
        raise OSError("AWS Error ACCESS_DENIED")

    with monkeypatch.context() as broken:
        broken.setattr(Bucket, "_send_one", send)
        with pytest.raises(StoreError, match=r"cannot be written to: AWS Error ACCESS_DENIED.*Nothing is lost: .*exp-"):
            write_here(place, samples=20)
        with pytest.raises(KeyboardInterrupt), followed(place, lambda line: None):
            raise KeyboardInterrupt  # what ended the sweep is what its user sees
    with located(place):
        pass
    machine("second")
    with located(place, exists=True) as folder:
        assert len(Experiment.open(folder).done()) == 20


@pytest.mark.parametrize("name", [".hidden/evil", "cells/.evil"])
def test_no_object_leaves_the_working_copy(place, machine, store, name, tmp_path):
    write_here(place, samples=10)
    with store.open_output_stream(f"{bucket_at(place)._root}/{name}") as stream:
        stream.write(b"evil")
    found = store.get_file_info(pyarrow.fs.FileSelector("lab", recursive=True))
    assert any(info.path.endswith(f"exp/{name}") for info in found), "the server has put it elsewhere"
    machine("second")
    with located(place, everything=True) as folder:
        assert len(Experiment.open(folder).done()) == 10
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith("evil")]
    # Names that this client and server cannot make, but others can.
    assert not any(bucket._is_plain(other) for other in (name, "/evil", "../../evil", "cells/../../evil", "a//evil"))


def test_a_working_copy_that_cannot_be_written_is_not_blamed_on_the_bucket(place, machine, tmp_path, monkeypatch):
    write_here(place, samples=10)
    (tmp_path / "file").touch()
    machine("file")
    says = r"file/saccade.*: cannot be used as working copy of s3:.* XDG_CACHE_HOME"
    with pytest.raises(StoreError, match=says), followed(place, lambda line: None):
        pass
    machine("full")

    def fetch(self, name, look):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Bucket, "_fetch_one", fetch)
    with pytest.raises(StoreError, match=r"full/saccade.*: No space left on device; make room"), located(place):
        pass


def test_uris_of_other_kinds():
    says = "hdfs://host/x: hdfs:// is not known; give a path, or a URI that begins with file://, s3://"
    with pytest.raises(StoreError, match=says), located(Path("hdfs://host/x")):
        pass


def test_a_secret_in_a_uri_is_refused_and_not_shown():
    says = r"the URI holds a secret.*AWS_SECRET_ACCESS_KEY"
    for uri in ("s3://KEY:hush@lab/x", "s3://lab/x?access_key=KEY&secret_key=hush"):
        with pytest.raises(StoreError, match=says) as error, located(Path(uri)):
            pass
        assert "hush" not in str(error.value)


def test_paths_and_file_uris():
    assert local_folder(Path("a/b")) == Path("a/b")
    assert local_folder(Path("~/a")) == Path.home() / "a"
    assert local_folder(Path("~nobody-of-this-name/a")) == Path("~nobody-of-this-name/a")
    assert local_folder(Path("file:///tmp/with%20space")) == Path("/tmp/with space")
    assert uri_of(Path("S3://lab/x")) == "s3://lab/x"
    assert uri_of(Path("/s3:/x")) is None
    assert bucket_at(Path("experiments/x")) is None


def saccade(*arguments: str) -> Result:
    """The command, on the machine that `machine` has gone to."""
    result = CliRunner().invoke(app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.mark.system
def test_errors_of_the_command_line(place, machine):
    for arguments, says in (
        (("status", str(place)), "there is nothing; `saccade run ... --out"),
        (("status", "s3://lab/x?endpoint_override=127.0.0.1:1&scheme=http"), "cannot be read: "),
        (("status", "s3://lab/x?endpoint_overide=127.0.0.1:1"), "cannot be used: "),
        (("run", "layer_cutoff", "--out", str(place).replace("lab", "nowhere")), "cannot be written to: "),
    ):
        done = saccade(*arguments)
        assert done.exit_code == 2
        assert len(done.stderr.splitlines()) == 1
        assert says in done.stderr


def test_import_and_export_write_into_buckets(place, machine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    experiment = write_fake_experiment(tmp_path / "x", samples=20)
    original = Path(__file__).parent / "originals" / "fastv_layer_cutoff_results.json"
    at = str(place)
    for arguments in (
        ("export", str(experiment.path), "--out", at.replace("/exp", "/export")),
        ("export", str(experiment.path), "--out", f"file://{tmp_path}/local"),
        ("import", str(original), "--out", at.replace("/exp", "/import")),
        ("compare", at.replace("/exp", "/import")),
    ):
        done = saccade(*arguments)
        assert done.exit_code == 0, done.stderr
    assert in_bucket(Path(at.replace("/exp", "/export"))) == {"cells.csv"}
    assert in_bucket(Path(at.replace("/exp", "/import"))) == {"imported.json"}
    assert (tmp_path / "local" / "cells.csv").is_file()
    done = saccade("compare", str(experiment.path), "--picture", "s3://lab/x.png")
    assert (done.exit_code, "give a path" in done.stderr) == (2, True)
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(":")]


@pytest.mark.system
def test_a_killed_run_goes_on_elsewhere(place, machine, tmp_path):
    """The machine is lost with its working copy; what it had sent is not computed again."""
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(
        "model: embedded\ndata: embedded\nsamples: 16\nmax_new_tokens: 2\ngrid:\n  - {strategy: cutoff, layer: 3..4}\n"
    )
    run = ("run", str(sweep), "--out", str(place), "--local", "--pictures", "0")
    often = "from orchestrator import cli; from results import location; location.SEND_S = 0.2; cli.main()"
    first = subprocess.Popen(
        [sys.executable, "-c", often, *run],
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path / "lost")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: first.poll() is not None or any(name.startswith("cells/") for name in in_bucket(place)))
    assert first.poll() is None, "it ended before anything was in the bucket"
    first.send_signal(signal.SIGKILL)
    first.wait()

    machine("new")
    second = saccade(*run)
    assert second.exit_code == 0, second.stderr
    assert "are there already" in second.stdout
    machine("third")
    status = subprocess.run([sys.executable, "-m", "orchestrator", "status", str(place)])  # which ends well by itself
    assert status.returncode == 0
    with located(place) as folder:
        found = Experiment.open(folder).cells(["point", "sample", "answer", "option_logits"])
    options = RunOptions(local=True, pictures=0)
    undisturbed = run_sweep(prepare(load_sweep(sweep)), tmp_path / "x", options, Console(file=io.StringIO()))
    expected = undisturbed.experiment.cells(["point", "sample", "answer", "option_logits"])
    pd.testing.assert_frame_equal(found, expected)  # to the last bit: a CPU computes a sample alone
