"""Which Ray is meant, said within seconds and in one line where there is none. No Ray is started here."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest

from orchestrator.cluster import joining as cluster
from orchestrator.cluster.joining import PoolError, check_reachable

HTTP_2 = bytes((0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 255, 255))  # how a gRPC server begins, such as Ray's head


@contextmanager
def listener(answer: bytes) -> Iterator[str]:
    """Something that accepts connections, says this much, and then nothing."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server, ExitStack() as kept:

        def serve() -> None:
            with suppress(OSError):  # closed
                while True:
                    connection = kept.enter_context(server.accept()[0])
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"


def refusal(address: str) -> str:
    with pytest.raises(PoolError) as found:
        check_reachable(address)
    assert "\n" not in str(found.value)
    return str(found.value)


@pytest.mark.parametrize(
    ("scheme", "answer"),
    [("", b""), ("", HTTP_2), ("", b"HTTP/1.1 400 Bad Request\r\n\r\n"), ("ray://", HTTP_2)],
    ids=["silent", "http2", "http", "client"],
)
def test_what_accepts_connections_and_is_no_head_that_answers(monkeypatch, capfd, scheme, answer):
    monkeypatch.setattr(cluster, "ANSWER_S", 1.0)
    monkeypatch.setattr(cluster, "ASKED_S", 4.0)
    with listener(answer) as address:
        line = refusal(scheme + address)
    assert line.startswith(f"no Ray cluster at {scheme}{address} (")
    assert "check --address and RAY_ADDRESS" in line
    assert capfd.readouterr().err == ""  # Ray's own words are many


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "head", "127.0.0.1:", "[::1]", ":6379", "https://a:1"])
def test_an_address_of_another_form_gets_the_form(address):
    assert "give HOST:PORT of a Ray cluster's head" in refusal(address)


def test_auto_with_a_head_that_has_gone(tmp_path, monkeypatch):
    services = pytest.importorskip("ray._private.services")
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        dead = f"127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setattr(services, "find_gcs_addresses", frozenset)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert refusal("auto").startswith("no Ray cluster at auto: none runs on this machine")
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/ray_current_cluster").write_text(dead)
    line = refusal("auto")
    assert line.startswith(f"no Ray cluster at auto ({dead}) (")
    assert "the head has gone" in line


def test_a_folder_that_is_too_long_for_sockets_or_may_not_be_written(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.delenv("TMPDIR", raising=False)
    assert cluster.private_folder() == Path("/tmp/ray")
    assert cluster.unfit(Path("/tmp/ray")) is None
    monkeypatch.setenv("TMPDIR", "/tmp/" + 90 * "x")
    assert "too long" in str(cluster.unfit(cluster.private_folder()))
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")  # wins
    assert cluster.unfit(cluster.private_folder()) is None
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    assert "may not be written" in str(cluster.unfit(cluster.private_folder()))
