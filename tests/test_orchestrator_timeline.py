"""A run calls its engines early, lets them go beside its last work, and says what it spent its time on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

import orchestrator.crew
from dashboards.gallery import Gallery
from dashboards.pages.catalog import asked
from fake_experiment import write_fake_experiment
from orchestrator.cluster.joining import PoolError
from orchestrator.cluster.pool import PoolOptions
from orchestrator.crew import Crew
from orchestrator.run import is_new
from orchestrator.show import show_status
from orchestrator.sweep.spec import load_sweep
from processes import alive
from results.experiment import Experiment
from results.timeline import FIRST, LAST, TIMELINE, Record, Span, Timeline, read_timeline
from waiting import wait_for
from workers.tasks.base import DataError
from workers.user_cache import kept_bytes

SPEC = SimpleNamespace(engine="engine", rules=(), tasks=())
LIMIT_S = 60.0


class FakePool:
    """Notes what becomes of it."""

    def __init__(self, engine, options, **told) -> None:
        self.made_by = threading.current_thread()
        self.gathered = self.closed = False
        self.may_close = threading.Event()

    def gather(self) -> None:
        self.gathered = True

    def close(self) -> None:
        assert self.may_close.wait(LIMIT_S)
        self.closed = True

    def __exit__(self, *error: object) -> None:
        self.closed = True


@pytest.fixture
def pools(monkeypatch) -> list[FakePool]:
    made: list[FakePool] = []

    def make(*arguments, **told) -> FakePool:
        made.append(FakePool(*arguments, **told))
        return made[-1]

    monkeypatch.setattr(orchestrator.crew, "RayPool", make)
    return made


def test_engines_are_called_beside_the_caller_whose_thread_outlives_them(pools) -> None:
    """Linux ends what a thread has started when it ends: Ray's processes, here."""
    with Crew(PoolOptions(), local=False) as crew:
        crew.call(SPEC)
        pool = crew.for_sweep(SPEC, SimpleNamespace())
        assert pool is pools[0]
        assert pool.gathered
        assert pool.made_by is not threading.current_thread()
        assert pool.made_by.is_alive()
        crew.go()  # returns while the pool cannot close yet
        assert not pool.closed
        pool.may_close.set()
    assert pool.closed
    pool.made_by.join(LIMIT_S)
    assert not pool.made_by.is_alive()


def test_engines_that_were_called_end_where_the_caller_fails(pools) -> None:
    crew = Crew(PoolOptions(), local=False)
    crew.call(SPEC)
    crew._called.result(LIMIT_S)
    crew.__exit__(None, None, None)
    assert pools[0].closed


def test_a_caller_that_fails_waits_for_nobody_and_who_comes_then_goes(monkeypatch) -> None:
    there, made, ended = threading.Event(), [], []

    def late(*arguments, **told) -> FakePool:
        assert there.wait(LIMIT_S)
        made.append(FakePool(*arguments, **told))
        made[-1].may_close.set()
        return made[-1]

    monkeypatch.setattr(orchestrator.crew, "RayPool", late)
    monkeypatch.setattr(orchestrator.crew, "end_with_process", lambda: ended.append(True))
    crew = Crew(PoolOptions(), local=False)
    crew.call(SPEC)
    crew.__exit__(DataError, DataError("questions.json: is damaged"), None)
    assert not made  # the error came through while nobody was there yet
    assert ended
    there.set()
    with Crew(PoolOptions(), local=False) as again:  # waits its turn: a process has one Ray
        again.call(SPEC)
        assert again.for_sweep(SPEC, SimpleNamespace()) is made[1]
        assert made[0].closed
        assert not made[1].closed


SCRIPT = """
import subprocess, sys, types
from orchestrator.cluster.given_up import end_with_process
ray = types.ModuleType("ray"); ray.__file__ = sys.argv[1] + "/ray/__init__.py"; sys.modules["ray"] = ray
for name in ("ray/raylet.py", "other.py"):
    command = [sys.executable, f"{sys.argv[1]}/{name}"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    print(child.stdout.readline().decode(), flush=True)  # the child's, and its own child's
end_with_process()
"""
CHILD = """
import os, subprocess, sys, time
agent = subprocess.Popen([sys.executable, __file__, "agent"]) if sys.argv[1:] == [] else None
if agent: print(os.getpid(), agent.pid, flush=True)
time.sleep(300)
"""


def test_of_a_start_that_was_given_up_nothing_outlives_the_process(tmp_path) -> None:
    (tmp_path / "ray").mkdir()
    for name in ("ray/raylet.py", "other.py"):
        (tmp_path / name).write_text(CHILD)
    said = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=True, timeout=LIMIT_S
    ).stdout
    rays, others = [set(map(int, line.split())) for line in said.splitlines() if line]
    try:
        wait_for(lambda: not alive(rays))
        assert alive(others) == others
    finally:
        for pid in alive(rays | others):
            os.kill(pid, signal.SIGKILL)


def test_what_goes_wrong_beside_is_raised_where_engines_are_wanted(monkeypatch) -> None:
    def none(*arguments, **told):
        raise PoolError("Ray does not start")

    monkeypatch.setattr(orchestrator.crew, "RayPool", none)
    with Crew(PoolOptions(), local=False) as crew:
        crew.call(SPEC)
        with pytest.raises(PoolError, match="does not start"):
            crew.for_sweep(SPEC, SimpleNamespace())


def test_engines_are_called_early_only_where_all_cells_are_sure_to_be_missing(tmp_path) -> None:
    spec = load_sweep("smoke")
    assert is_new(tmp_path / "new", spec)
    write_fake_experiment(tmp_path / "old", samples=2)
    assert not is_new(tmp_path / "old", spec)
    assert not is_new(Path("s3:/bucket/new"), spec)  # what is there is known when it has been fetched
    task = replace(spec.engine.task, data=str(tmp_path / "no such"))
    assert not is_new(tmp_path / "new", replace(spec, engine=replace(spec.engine, task=task)))


def test_a_line_says_what_came_before_the_first_cell_and_after_the_last() -> None:
    spans = [
        Span(what="Ray", from_s=1, to_s=4),
        Span(what="data", from_s=1.0, to_s=3.5),
        Span(what="pages", from_s=70, to_s=74.25),
    ]
    record = Record(began="2026-11-28T12:00:00Z", spans=spans, moments={FIRST: 9.0, LAST: 70.0})
    assert record.text == "first cell after 9 s (Ray 3.0 s, data 2.5 s), work 1 min 01 s, then 4 s (pages 4.2 s)"
    assert Record(began="", spans=spans).text == ""


def test_status_says_it_of_the_newest_run_that_computed(tmp_path) -> None:
    experiment = write_fake_experiment(tmp_path / "x", samples=2)
    timeline = Timeline()
    with timeline.span("data"):
        pass
    timeline.write(experiment)
    assert not (tmp_path / "x" / TIMELINE).exists()
    timeline.at(FIRST)
    timeline.at(LAST)
    timeline.write(experiment)
    assert read_timeline(experiment) == timeline.record
    assert [span.what for span in timeline.record.spans] == ["data"]
    assert "newest run: first cell after 0 s (data 0.0 s)" in status(experiment)
    page, shown = asked(Gallery([tmp_path / "x"]).snapshot, "/run", "")
    drawn = {panel.name: panel.rows for panel in page.panels(shown)}
    assert drawn["time"]["what"].tolist() == ["data", "cells"]
    (tmp_path / "x" / TIMELINE).write_text('{"spans": 3}')
    assert "newest run" not in status(experiment)
    assert TIMELINE in status(experiment)


def status(experiment: Experiment) -> str:
    console = Console(width=200)
    with console.capture() as said:
        show_status(console, Experiment.open(experiment.path))
    return said.get()


def test_what_takes_long_to_compile_is_compiled_once_for_the_same_source(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made: list[bytes] = []

    def make(content: bytes) -> bytes:
        made.append(content)
        return content

    for key in (b"a", b"a", b"b"):
        assert kept_bytes("kernel.cu", key, lambda key=key: make(key + b"!")) == key + b"!"
    assert made == [b"a!", b"b!"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("/dev/null")))
    assert kept_bytes("kernel.cu", b"a", lambda: make(b"c")) == b"c"
