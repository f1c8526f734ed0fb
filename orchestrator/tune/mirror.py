"""Ray Tune's mirror of a sweep: the driver's end of it, and the process that tells Tune.

Tune mirrors and never decides: the pool computes, and what each grid point reports at a few rungs of samples is told to
Tune's `Trial` objects and callbacks by a process of its own, at the lowest priority. No trial has a process: there is
nothing to run. So a sweep is not slowed by its mirror, which may lag behind, die or hang, and a user's callback cannot
hurt it. When Tune fails the sweep is none the worse: the cells are the truth, and `saccade tune` tells them again.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator.followers.base import Answered, Begun, Follower, Reports
from orchestrator.sweep.document import CallbackSpec
from orchestrator.tune.callbacks import error_line, make_callback
from orchestrator.tune.process import SPAWN, spawn
from orchestrator.tune.rungs import News
from orchestrator.tune.trial_files import agrees, told, trial_names
from orchestrator.tune.trial_records import STATE
from orchestrator.tune.trials import Trials
from results.disk import open_to_write
from results.experiment import Experiment
from workers.work import GridPoint

log = logging.getLogger(f"saccade.{__name__}")

OUTPUT = "tune.log"  # what Tune and callbacks print
NICENESS = 10  # while the sweep runs
EXIT_S = 5.0  # for a mirror to end that has said all
FINISH_S = 60.0  # how long the end of a sweep waits for Tune


class TuneMirror(Follower):
    """The driver's end: hands news to the process that tells Tune. Nothing here waits, except `finish`."""

    what = "Ray Tune's view of the experiment"

    def __init__(self, experiment: Experiment, callbacks: Sequence[CallbackSpec] = ()) -> None:
        """Say of which experiment; no process is started yet.

        Args:
            experiment: Its directory becomes a Tune experiment.
            callbacks: That the user names; see `check_callbacks`.
        """
        self._folder = experiment.path.absolute()
        self._points = experiment.points
        self._context = experiment.context
        self._callbacks = tuple(callbacks)
        # First all that is there, then what is new, None in the end.
        self._news: queue.SimpleQueue[Reports | News | None] = queue.SimpleQueue()
        self._process: Any = None  # begins with `start`

    def lags(self, reports: Reports) -> bool:
        """Whether the Tune files on disk do not yet say all this."""
        names = trial_names(self._points)
        said = {key: told(self._folder / name) for key, name in names.items()}
        return not (self._folder / STATE).is_file() or any(
            len(said[key]) != len(rows) or not agrees(said[key], rows) for key, rows in reports.items()
        )

    def start(self, begun: Begun) -> None:
        said, tell = SPAWN.Pipe(duplex=False)
        self._answer, self._process = spawn(
            _follow, self._folder, self._points, self._context, self._callbacks, _ray_address(), said
        )
        said.close()  # from here on the mirror's process holds the one reading end: without it `tell` fails
        # A thread writes: the sweep never waits for a mirror that lags. (A multiprocessing.Queue would do the same,
        # but its semaphores may be called leaked, after the last line, when a signal ends the command.)
        threading.Thread(target=_hand_over, args=(self._news, tell), name="saccade-tune", daemon=True).start()
        self._news.put(begun.reports)  # also where there is none: it is what the trials are compared with

    def outcome(self, answered: Answered) -> None:
        if answered.news:
            self._news.put(answered.news)

    def finish(self) -> str | None:
        """Wait, up to `FINISH_S`, until all trials have caught up."""
        if self._process is None:
            return None
        with suppress(OSError):  # the sweep is over and waits; only some users may take a priority back
            os.setpriority(os.PRIO_PROCESS, self._process.pid, 0)
        said = self._wait(FINISH_S)
        remedy = f"the results are complete without it; `saccade tune {self._folder}` tells it again"
        if said is None:
            return f"{self.what} is behind: {remedy}"
        return f"{self.what}: {said}; {remedy}" if said else None

    def abandon(self) -> None:
        """Let trials end where they are."""
        if self._process is not None:
            self._wait(FINISH_S / 6)

    def _wait(self, seconds: float) -> str | None:
        """What the process says in the end; None where it has not said it by then."""
        self._news.put(None)
        try:
            said: str | None = self._answer.recv() if self._answer.poll(seconds) else None
        except EOFError:
            said = f"its process ended unexpectedly; see {self._folder / OUTPUT}"
        self._process.join(EXIT_S if said is not None else 0)
        self._process.kill()
        self._process.join()
        return said


def _ray_address() -> str | None:
    """Of the cluster that the pool has joined, for callbacks with actors (W&B's); None without one."""
    ray = sys.modules.get("ray")
    return str(ray.get_runtime_context().gcs_address) if ray is not None and ray.is_initialized() else None


def _follow(
    folder: Path,
    points: Sequence[GridPoint],
    context: str,
    callbacks: Sequence[CallbackSpec],
    ray_address: str | None,
    news: Any,
    answer: Any,
) -> None:
    """The mirror's process: tell what comes until None comes, then answer what went wrong, or nothing."""
    os.nice(NICENESS)
    if ray_address is not None:
        os.environ["RAY_ADDRESS"] = ray_address
    try:
        with open_to_write(folder / OUTPUT, os.O_TRUNC) as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
    except OSError as error:
        answer.send(f"{folder / OUTPUT}: cannot be written: {error.strerror}")
        return
    try:
        trials = Trials(folder, points, context, [make_callback(callback) for callback in callbacks])
        if (reports := _next(news)) is not None:
            trials.take_up(reports)
        while (rows := _next(news)) is not None:
            for key, row in rows:
                trials.tell(key, row)
            trials.save(force=False)
        trials.close()
        answer.send("; ".join(trials.notes))
    except Exception as error:  # whatever Tune raises: it only mirrors, and must not end a sweep
        log.exception("Tune failed")
        answer.send(error_line(error))


def _hand_over(news: queue.SimpleQueue[Reports | News | None], tell: Any) -> None:
    """Send all that is put into a queue, up to None."""
    with tell, suppress(BrokenPipeError):  # the mirror's process is gone; `finish` says so
        while (rows := news.get()) is not None:
            tell.send(rows)
        tell.send(None)


def _next(news: Any) -> Any:
    """What comes next; None, as at the end, where the sweep's process is gone."""
    try:
        return news.recv()
    except EOFError:
        return None
