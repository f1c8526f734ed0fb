"""The live app's server under readers who send too much or nothing at all, and a gallery whose experiments go away."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import pyarrow.parquet as pq
import pytest

import dashboards.app
import dashboards.gallery
from dashboards.gallery import Gallery
from dashboards.pages.run import panels
from dashboards.view import State, view
from fake_experiment import write_fake_experiment
from live_app import serving
from results.durations import since
from results.tables import write_table

PATIENCE_S = 60  # a busy machine takes its time; the server's own limits are minutes
MIB = 2**20
POST = "POST /_dash-update-component HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake_experiment(tmp_path_factory.mktemp("serving") / "e", samples=10).path


@pytest.fixture(scope="module")
def address(experiment: Path) -> Iterator[str]:
    with serving([experiment]) as url:
        yield url


def connected(address: str) -> socket.socket:
    """A connection to the server, in which nothing is waited for longer than `PATIENCE_S`."""
    parts = urlsplit(address)
    return socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE_S)


def answers(address: str) -> bool:
    with urlopen(f"{address}/_dash-layout", timeout=PATIENCE_S) as reply:
        return reply.status == 200


# -- addresses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("localhost", "localhost"), ("::1", "[::1]"), ("[::1]", "[::1]")]
)
def test_the_address_that_is_told_leads_there(experiment: Path, host: str, shown: str) -> None:
    try:
        socket.create_server((host.strip("[]"), 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError:
        pytest.skip(f"this machine has no {host}")
    with serving([experiment], host=host) as address:
        assert address.startswith(f"http://{shown}:")
        assert answers(address)


# -- readers -----------------------------------------------------------------------------------------------------------


def test_a_large_body_is_refused_before_it_is_sent(address: str) -> None:
    with connected(address) as line:
        line.sendall(f"{POST}Content-Length: {100 * MIB}\r\n\r\n".encode())
        assert line.recv(12) == b"HTTP/1.1 413"


def test_a_body_that_does_not_say_its_length_is_refused_when_it_grows_large(address: str) -> None:
    chunk = b"10000\r\n" + b" " * 2**16 + b"\r\n"
    with connected(address) as line:
        line.sendall(f"{POST}Transfer-Encoding: chunked\r\n\r\n".encode())
        try:
            for _ in range(100 * MIB // 2**16):
                line.sendall(chunk)
        except (BrokenPipeError, ConnectionResetError):
            return
    raise AssertionError("it took 100 MiB")


@pytest.mark.parametrize("said", ["", "GET / HT", f"{POST}Content-Length: 9\r\n\r\n{{"])
def test_connections_that_are_half_open_keep_nobody_out(address: str, said: str) -> None:
    with ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(connected(address)).sendall(said.encode())
        assert answers(address)


def test_a_connection_that_says_nothing_is_closed(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboards.app, "SILENT_S", 1)
    with serving([experiment]) as address, connected(address) as line:
        line.sendall(b"GET / HT")
        assert line.recv(1) == b""


# -- experiments that go away, and clocks that differ ------------------------------------------------------------------


def test_an_experiment_that_goes_away_is_shown_as_it_was_until_it_is_there_again(tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "e", tmp_path / "elsewhere"
    write_fake_experiment(path, samples=40, done=20)
    gallery = Gallery([path])
    before = gallery.snapshot
    assert before.sources[0].running
    path.rename(elsewhere)
    gone = gallery.refresh()
    assert gone.version != before.version
    assert gone.sources[0].notes == (
        f"{path}: does not exist. `saccade run` makes one, by default under ./experiments; what is shown is as it was "
        "before",
    )
    assert not gone.sources[0].running
    assert gone.rows.equals(before.rows)
    assert gallery.refresh().version == gone.version, "it is said once"
    elsewhere.rename(path)
    back = gallery.refresh()
    assert back.version != gone.version
    assert back.sources[0].notes == ()
    assert back.rows.equals(before.rows)


def of_the_future(path: Path, seconds: float) -> None:
    """As a machine whose clock is ahead would have written it."""
    for file in (path / "cells").iterdir():
        table = pq.read_table(file)
        write_table(file, table.replace_schema_metadata({"worker": "fake", "written": str(time.time() + seconds)}))
        os.utime(file, (time.time() + seconds,) * 2)


def last_answer(gallery: Gallery) -> str:
    return str(panels(view(gallery.snapshot, State()))[0].below)


def test_a_clock_that_is_ahead_is_told_and_not_taken_for_work(tmp_path: Path) -> None:
    path = tmp_path / "e"
    write_fake_experiment(path, samples=40, done=10)
    of_the_future(path, 3 * 3600 + 30)
    gallery = Gallery([path])
    assert not gallery.snapshot.sources[0].running
    assert "3 h 00 min in the future (the clocks differ)" in last_answer(gallery)
    write_fake_experiment(path, samples=40, done=30)
    of_the_future(path, 3 * 3600 + 30)
    assert gallery.refresh().sources[0].running, "what comes before our eyes is work, whatever its time says"


def test_how_long_ago_is_never_a_negative_time() -> None:
    assert since(time.time() - 100).endswith("40 s ago")
    assert since(time.time() + 0.5) == "0 s ago"
    assert "in the future" in since(2e10)
