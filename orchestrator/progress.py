"""Telling how far a sweep is: a live bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

from results.durations import duration

LINE_EVERY_S = 10.0


class SweepProgress:
    """Counts cells; speed and time left are counted from `ready` on, when an engine is loaded."""

    def __init__(self, console: Console, there: int, missing: int, points: int) -> None:
        """Start at the cells that are there; nothing is shown yet.

        Args:
            console: Where to show it.
            there: Cells of earlier runs.
            missing: Cells to be computed.
            points: Of the grid.
        """
        self._console = console
        self._there, self._missing, self._points = there, missing, points
        self._cells = self._failed = 0  # of this run
        self._samples = 0.0
        self._started = self._last_line = time.monotonic()
        self._bar: Progress | None = None
        if console.is_terminal and missing:
            self._bar = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[state]}"),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task("sweep", total=there + missing, completed=there, state="loading the model")

    def __enter__(self) -> SweepProgress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def ready(self) -> None:
        """Somebody begins to answer."""
        self._started = time.monotonic()
        if self._bar:
            self._bar.update(self._task, state="working on the first samples")

    def advance(self, samples: float, cells: int, failed: int) -> None:
        """Count a finished unit.

        Args:
            samples: Sample equivalents: cells of the unit over the points of the grid.
            cells: Cells, answered or given up.
            failed: Samples given up.
        """
        self._samples += samples
        self._cells += cells
        self._failed += failed
        if self._bar:
            self._bar.update(self._task, completed=self._there + self._cells, state=self.state)
        elif time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._last_line = time.monotonic()
            done, total = self._there + self._cells, self._there + self._missing
            self._console.print(f"{done} of {total} cells, {self.state}")

    def event(self, line: str) -> None:
        """Say something that is worth a line of its own."""
        self._console.print(Text("note", "yellow"), line, soft_wrap=True)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    @property
    def state(self) -> str:
        rate = self._samples / self.seconds if self.seconds else 0.0
        left = (self._missing - self._cells) / self._cells * self.seconds if self._cells else 0.0
        failed = f", {self._failed} samples failed" if self._failed else ""
        return f"{rate:.3g} samples/s x {self._points} points, {duration(left)} left{failed}"
