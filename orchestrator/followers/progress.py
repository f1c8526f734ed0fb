"""Telling how far a sweep is: a live bar on a terminal, one in a notebook, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from html import escape
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

from orchestrator.followers.base import Answered, Begun, Follower
from results.durations import duration

LINE_EVERY_S = 10.0


class Bar(Protocol):
    """Shows how many cells are there."""

    def show(self, done: int, state: str) -> None: ...

    def stop(self) -> None: ...


class TerminalBar:
    """One that moves on a terminal, and is gone in the end."""

    def __init__(self, console: Console, done: int, total: int, state: str) -> None:
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[state]}"),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("sweep", total=total, completed=done, state=state)
        self._bar.start()

    def show(self, done: int, state: str) -> None:
        self._bar.update(self._task, completed=done, state=state)

    def stop(self) -> None:
        self._bar.stop()


class NotebookBar:
    """One below a notebook's cell, by the browser's own element: no widget has to be installed."""

    def __init__(self, done: int, total: int, state: str) -> None:
        from IPython.display import display

        self._total, self._done = total, done
        self._handle: Any = display(self._html(done, state), display_id=True)

    def _html(self, done: int, state: str) -> Any:
        from IPython.display import HTML

        return HTML(f'<progress value="{done}" max="{self._total}"></progress> {escape(state)}')

    def show(self, done: int, state: str) -> None:
        self._done = done
        self._handle.update(self._html(done, state))

    def stop(self) -> None:
        self._handle.update(self._html(self._done, f"{self._done} of {self._total} cells"))


def in_notebook() -> bool:
    """Whether a notebook's kernel runs this."""
    return "ipykernel" in sys.modules


class SweepProgress(Follower):
    """Counts cells; speed and time left are counted from `ready` on, when an engine is loaded."""

    what = "the progress line"

    def __init__(self, console: Console) -> None:
        self._console = console
        self._begun = Begun(points=0, there=0, missing=0, reports={})
        self._cells = self._failed = 0  # of this run
        self._samples = 0.0
        self._started = self._last_line = time.monotonic()
        self._bar: Bar | None = None

    def start(self, begun: Begun) -> None:
        self._begun = begun
        total = begun.there + begun.missing
        if begun.missing and in_notebook() and not self._console.quiet:
            self._bar = NotebookBar(begun.there, total, "loading the model")
        elif begun.missing and self._console.is_terminal:
            self._bar = TerminalBar(self._console, begun.there, total, "loading the model")

    def ready(self) -> None:
        self._started = time.monotonic()
        if self._bar:
            self._bar.show(self._begun.there, "working on the first samples")

    def outcome(self, answered: Answered) -> None:
        for label in answered.stopped:
            self.event(f"racing stopped {label}")
        self._samples += answered.unit.cells / self._begun.points
        self._cells += answered.unit.cells + answered.left_out
        self._failed += len(answered.outcome.failures)
        done = self._begun.there + self._cells
        if self._bar:
            self._bar.show(done, self.state)
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
