"""Telling how far a sweep is: a live bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

from orchestrator.followers.base import Answered, Begun, Follower
from results.durations import duration

LINE_EVERY_S = 10.0


class SweepProgress(Follower):
    """Counts cells; speed and time left are counted from `ready` on, when an engine is loaded."""

    what = "the progress line"

    def __init__(self, console: Console) -> None:
        self._console = console
        self._begun = Begun(points=0, there=0, missing=0, reports={})
        self._cells = self._failed = 0  # of this run
        self._samples = 0.0
        self._started = self._last_line = time.monotonic()
        self._bar: Progress | None = None

    def start(self, begun: Begun) -> None:
        self._begun = begun
        if self._console.is_terminal and begun.missing:
            self._bar = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[state]}"),
                console=self._console,
                transient=True,
            )
            total = begun.there + begun.missing
            self._task = self._bar.add_task("sweep", total=total, completed=begun.there, state="loading the model")
            self._bar.start()

    def ready(self) -> None:
        self._started = time.monotonic()
        if self._bar:
            self._bar.update(self._task, state="working on the first samples")

    def outcome(self, answered: Answered) -> None:
        for label in answered.stopped:
            self.event(f"racing stopped {label}")
        self._samples += answered.unit.cells / self._begun.points
        self._cells += answered.unit.cells + answered.left_out
        self._failed += len(answered.outcome.failures)
        done = self._begun.there + self._cells
        if self._bar:
            self._bar.update(self._task, completed=done, state=self.state)
        elif time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._last_line = time.monotonic()
            self._console.print(f"{done} of {self._begun.there + self._begun.missing} cells, {self.state}")
        for note in answered.outcome.notes:
            self.event(note)

    def finish(self) -> None:
        self.abandon()

    def abandon(self) -> None:
        if self._bar:
            self._bar.stop()

    def event(self, line: str) -> None:
        self._console.print(Text("note", "yellow"), line, soft_wrap=True)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    @property
    def state(self) -> str:
        rate = self._samples / self.seconds if self.seconds else 0.0
        left = (self._begun.missing - self._cells) / self._cells * self.seconds if self._cells else 0.0
        failed = f", {self._failed} samples failed" if self._failed else ""
        return f"{rate:.3g} samples/s x {self._begun.points} points, {duration(left)} left{failed}"
