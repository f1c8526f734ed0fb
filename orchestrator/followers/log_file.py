"""What happened while a sweep ran, a line each with its time: EXPERIMENT/run.log, which every run goes on with."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime

from orchestrator.followers.base import Answered, Begun, Follower
from results.disk import open_to_write
from results.experiment import Experiment
from results.run_log import NAME
from results.wording import count, plural
from strategies.errors import one_line
from workers.saccade_version import saccade_version


class LogFile(Follower):
    """Writes a line as soon as something happens: to be read while the sweep runs, and after it broke off."""

    what = "the log file"

    def __init__(self, experiment: Experiment) -> None:
        self._path = experiment.path / NAME
        self._begun = False

    def start(self, begun: Begun) -> None:
        self._begun = True
        where = f"{platform.node()}, process {os.getpid()}"
        self._say(f"saccade {saccade_version()} on {where}: {count(begun.missing)} cells to be computed")

    def ready(self) -> None:
        self._say("the first engine has loaded its model")

    def event(self, line: str) -> None:
        self._say(line)

    def outcome(self, answered: Answered) -> None:
        outcome = answered.outcome
        self._say(
            f"{plural(len(outcome.outcomes), 'cell')} in {outcome.seconds:.1f} s by {outcome.worker or 'a worker'}"
        )
        for failure in outcome.failures:
            self._say(f"failed: {failure.sample}: {failure.kind}: {failure.message}")
        for line in (*(f"racing stopped {label}" for label in answered.stopped), *outcome.notes):
            self._say(line)

    def finish(self) -> None:
        if self._begun:
            self._say("all cells are there")

    def abandon(self) -> None:
        self._say("broken off")

    def _say(self, line: str) -> None:
        with open_to_write(self._path, os.O_APPEND) as file:
            file.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}Z {one_line(line)}\n".encode())
