"""Followers of a sweep: one class each, told in turn, and none can end what it follows."""

from __future__ import annotations

import errno
import io
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest
from rich.console import Console

import orchestrator.run
import stub_engine
from fake_experiment import fake_manifest, fake_points, fake_samples
from orchestrator.followers.base import Answered, Begun, Follower, Followers, Reports
from orchestrator.followers.log_file import LogFile
from orchestrator.run import RunOptions, RunResult, run_sweep
from orchestrator.storing import stored
from orchestrator.sweep.prepare import Prepared, prepare
from orchestrator.sweep.spec import load_sweep
from orchestrator.tune.mirror import TuneMirror
from orchestrator.tune.process import SPAWN
from results.disk import StoreError
from results.experiment import Experiment
from results.import_path import safe_environment
from results.run_log import end_of_log
from results.timeline import read_timeline
from workers.work import UnitOutcome, WorkUnit

CELLS = 24 * 3


class Noting(Follower):
    """Writes down what it hears; fails where it is told to."""

    what = "a notebook"

    def __init__(self, error: Exception | None = None, at: str = "") -> None:
        self.heard: list[str] = []
        self.cells = 0
        self._error, self._at = error, at

    def _note(self, what: str) -> None:
        self.heard.append(what)
        if self._error is not None and what == self._at:
            raise self._error

    def lags(self, reports: Reports) -> bool:
        self._note("lags")
        return False

    def start(self, begun: Begun) -> None:
        self._note("start")
        assert (begun.there, begun.missing, begun.points) == (0, CELLS, 3)

    def ready(self) -> None:
        self._note("ready")

    def outcome(self, answered: Answered) -> None:
        self._note("outcome")
        self.cells += len(answered.outcome.outcomes)

    def finish(self) -> str | None:
        self._note("finish")
        return "a notebook: is full"

    def abandon(self) -> None:
        self._note("abandon")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    path = tmp_path_factory.mktemp("sweep") / "sweep.yaml"
    path.write_text("model: embedded\ndata: embedded\ngrid:\n  - {strategy: cutoff, layer: [2, 3]}\n")
    return replace(prepare(load_sweep(path)), samples=fake_samples(24))  # the stub engines answer these


def run(
    prepared: Prepared, out: Path, monkeypatch: pytest.MonkeyPatch, *followers: Follower, engine: type | None = None
) -> RunResult:
    monkeypatch.setattr(orchestrator.run, "_followers", lambda *_: list(followers))
    options = RunOptions(local=True, engine=engine or stub_engine.StubEngine)
    return run_sweep(prepared, out, options, Console(file=io.StringIO()))


def test_a_new_follower_is_one_class(prepared, tmp_path, monkeypatch):
    first = Noting()
    result = run(prepared, tmp_path / "x", monkeypatch, first)
    units = first.heard.count("outcome")
    assert units > 1
    assert first.heard == ["start", "ready", *["outcome"] * units, "finish"]
    assert first.cells == result.computed == CELLS
    assert result.warnings == ("a notebook: is full",)
    again = Noting()
    assert run(prepared, tmp_path / "x", monkeypatch, again, engine=stub_engine.BrokenModel).computed == 0
    assert again.heard == ["lags", "finish"]  # no model was loaded


def test_tables_are_made_beside_what_catches_up(prepared, tmp_path, monkeypatch):
    both = Barrier(2, timeout=60)

    class Slow(Noting):
        def finish(self) -> None:
            both.wait()

    monkeypatch.setattr(orchestrator.run, "_followers", lambda *_: [Slow()])
    seen: list[int] = []

    def tables(experiment: Experiment) -> None:
        both.wait()  # neither comes further without the other
        seen.append(len(experiment.cells()))

    options, console = RunOptions(local=True, engine=stub_engine.StubEngine), Console(file=io.StringIO())
    result = run_sweep(prepared, tmp_path / "x", options, console, meanwhile=tables)
    assert seen == [CELLS]
    assert result.warnings == ()
    spans = [span.what for span in read_timeline(result.experiment).spans]
    assert {"pictures and Tune", "tables and plots"} <= set(spans)
    run_sweep(prepared, tmp_path / "x", options, console, meanwhile=tables)  # nothing is missing, and all is drawn anew
    assert seen == [CELLS, CELLS]


def test_a_script_that_runs_a_sweep_at_its_top_level_is_run_once(tmp_path):
    """Else the process that tells Tune would begin the same sweep once more."""
    script = tmp_path / "script.py"
    script.write_text(
        "from orchestrator.tune.process import spawn\n"
        "print('the script', flush=True)\n"
        "said, process = spawn(print, 'the child')\n"
        "process.join()\n"
        "assert __name__ == '__main__' and process.exitcode == 0\n"
    )
    environment = {**safe_environment(), "PYTHONPATH": str(Path(__file__).parents[1])}
    said = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, timeout=100, check=True
    )
    assert said.stdout.count("the script") == 1
    assert "the child" in said.stdout
    assert said.stderr == ""


def test_what_happened_stands_in_the_log_of_the_experiment(prepared, tmp_path, monkeypatch):
    class Broken(stub_engine.StubEngine):
        def run(self, unit: WorkUnit) -> UnitOutcome:
            raise KeyboardInterrupt

    for engine in (Broken, stub_engine.StubEngine, stub_engine.StubEngine):  # the last has nothing to do
        monkeypatch.setattr(orchestrator.run, "_followers", lambda _, experiment, *__: [LogFile(experiment)])
        with suppress(KeyboardInterrupt):
            options = RunOptions(local=True, engine=engine)
            run_sweep(prepared, tmp_path / "x", options, Console(file=io.StringIO()))
    log = end_of_log(tmp_path / "x") or ""
    said = [line.partition("Z ")[2] for line in log.splitlines()]
    assert [line for line in said if " cell" not in line and "model" not in line] == [
        "stopping; every finished unit is on disk", "broken off",
    ]  # fmt: skip
    assert [line.endswith(f": {CELLS} cells to be computed") for line in said].count(True) == 2
    assert sum(int(line.split()[0]) for line in said if " cells in " in line) == CELLS
    assert said[-1] == "all cells are there"
    assert said.count("all cells are there") == 1


@pytest.mark.parametrize("at", ["start", "ready", "outcome", "finish"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), StoreError("/x: is full"), KeyError("x")])
def test_one_that_fails_costs_a_line_and_neither_cells_nor_the_others(
    prepared, tmp_path, monkeypatch, caplog, error, at
):
    bad, good = Noting(error, at), Noting()
    with caplog.at_level(logging.ERROR):
        result = run(prepared, tmp_path / "x", monkeypatch, bad, good)
    assert result.computed == good.cells == CELLS
    assert good.heard[-1] == "finish"
    assert bad.heard.count(at) == 1
    assert bad.heard[-1] == "abandon"
    (line,) = [warning for warning in result.warnings if "the results are complete without it" in warning]
    assert line.startswith("a notebook: ")
    assert str(error) in line
    assert bool(caplog.records) == isinstance(error, KeyError)  # a bug of ours is shown whole, a full disk is not
    assert all(record.exc_info for record in caplog.records)


def test_one_that_cannot_even_be_given_up_is_left_behind(prepared, tmp_path, monkeypatch):
    class Stubborn(Noting):
        def abandon(self) -> None:
            raise KeyError("again")

    result = run(prepared, tmp_path / "x", monkeypatch, Stubborn(KeyError("x"), "outcome"))
    assert result.computed == CELLS


def test_a_sweep_that_breaks_off_abandons_all(prepared, tmp_path, monkeypatch):
    class Interrupted(stub_engine.StubEngine):
        def run(self, unit: WorkUnit) -> UnitOutcome:
            raise KeyboardInterrupt

    followers = Noting(KeyError("x"), "abandon"), Noting()
    with pytest.raises(KeyboardInterrupt):
        run(prepared, tmp_path / "x", monkeypatch, *followers, engine=Interrupted)
    for follower in followers:
        assert "abandon" in follower.heard
        assert "finish" not in follower.heard


def test_a_mirror_without_a_process_costs_a_line(tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(SPAWN.Process, "start", refuse)
    points = fake_points()
    followers = Followers([TuneMirror(Experiment.create(tmp_path / "x", fake_manifest(points), fake_samples(4)))])
    followers.start(Begun(points=len(points), there=0, missing=4, reports={}))
    followers.finish()
    (line,) = followers.notes
    assert line.startswith("Ray Tune's view of the experiment: [Errno 11] Resource temporarily unavailable; ")


def answers(count: int) -> list[tuple[WorkUnit, UnitOutcome]]:
    return [
        (WorkUnit(samples=(f"s{place}",), points=()), UnitOutcome(unit=f"u{place}", outcomes=()))
        for place in range(count)
    ]


def test_answers_that_come_fast_are_written_side_by_side_and_told_of_in_order(monkeypatch) -> None:
    monkeypatch.setattr("orchestrator.storing.HURRY_S", 1000.0)
    together = Barrier(3, timeout=60.0)  # the first answer is told of at once

    def write(unit: WorkUnit, outcome: UnitOutcome) -> None:
        if outcome.unit != "u0":
            together.wait()

    done = [unit for unit, _ in stored(answers(4), write)]
    assert done == [unit for unit, _ in answers(4)]


def test_answers_that_come_slowly_are_told_of_before_the_next_is_waited_for(monkeypatch) -> None:
    monkeypatch.setattr("orchestrator.storing.HURRY_S", 0.0)
    events: list[str] = []

    def come() -> Iterator[tuple[WorkUnit, UnitOutcome]]:
        for unit, outcome in answers(3):
            events.append(f"came {outcome.unit}")
            yield unit, outcome

    for _, outcome in stored(come(), lambda unit, outcome: events.append(f"wrote {outcome.unit}")):
        events.append(f"told {outcome.unit}")
    assert events == [f"{what} u{place}" for place in range(3) for what in ("came", "wrote", "told")]


def test_what_cannot_be_written_ends_the_sweep_and_what_came_before_is_there(monkeypatch) -> None:
    monkeypatch.setattr("orchestrator.storing.HURRY_S", 1000.0)
    written: list[str] = []

    def write(unit: WorkUnit, outcome: UnitOutcome) -> None:
        if outcome.unit == "u1":
            raise StoreError("the disk is full")
        written.append(outcome.unit)

    with pytest.raises(StoreError):
        list(stored(answers(3), write))
    assert sorted(written) == ["u0", "u2"]
