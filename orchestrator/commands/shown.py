"""What commands print, and the files that they leave beside an experiment."""

from __future__ import annotations

import importlib
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from orchestrator.run import RunResult
    from results.analysis.benchmark_table import BenchmarkTable
    from results.experiment import Experiment

LOG_WIDTH = 120  # of a file or pipe, where rich would wrap the tables at 80
COUNTED_S = 10.0  # between two lines of a command that does one thing after the other


def console_of_command() -> Console:
    from orchestrator.show import PlainConsole

    return PlainConsole(width=shutil.get_terminal_size((LOG_WIDTH, 24)).columns)


def teller(console: Console) -> Callable[[str], None]:
    return partial(console.print, soft_wrap=True)


def counter(console: Console) -> Callable[[int, int], None]:
    """Says now and then how far a command has come that does one thing after the other."""
    began = last = time.monotonic()

    def count(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > COUNTED_S and 0 < done < total:
            last = now
            console.print(f"{done} of {total}, {(now - began) / done * (total - done):.0f} s left", highlight=False)

    return count


def import_ahead() -> threading.Thread:
    """Import what shows results beside a sweep, whose process waits for its engines anyway."""

    def imports() -> None:
        for module in ("dashboards.plots", "dashboards.report", "results.exchange.exports"):
            importlib.import_module(module)

    thread = threading.Thread(target=imports, name="saccade-imports", daemon=True)
    thread.start()
    return thread


def show_result(console: Console, result: RunResult) -> None:
    from orchestrator.show import accuracy_table, show_failures, show_notes, show_stops, show_warnings, size_text
    from results.analysis.metrics import answers, summarise
    from results.analysis.task_metrics import headline, task_metrics
    from results.durations import duration
    from results.pictures import Pictures

    experiment = result.experiment
    figures = headline(task_metrics(experiment))
    rows = summarise(answers(experiment))
    console.print(accuracy_table(rows, figures))
    show_warnings(console, rows)
    idle = "no cell was computed" if result.failed else "nothing was missing"
    done = f"{result.computed} cells in {duration(result.seconds)}" if result.computed else idle
    if result.peak_bytes:
        done += f", at most {result.peak_bytes / 2**30:.3g} GiB of a GPU's memory"
    console.print(f"{done}; results in {experiment.path}", soft_wrap=True)
    if result.stops is not None:
        show_stops(console, result.stops, {point.key: point.label for point in experiment.points})
    pictures = Pictures(experiment)
    size = size_text(pictures.size_bytes)
    console.print(f"pictures of {len(pictures.samples)} samples: {size}")
    failures = experiment.failures()
    if len(failures):
        show_failures(console, failures)
    show_notes(console, result.warnings)


class Files:
    """What lies beside the cells of an experiment, for people."""

    def __init__(self, ahead: threading.Thread | None = None) -> None:
        """Nothing is written yet.

        Args:
            ahead: See `import_ahead`.
        """
        self._ahead = ahead
        self._tables: list[Path] = []
        self._plots: list[Path] = []

    def write(self, experiment: Experiment) -> None:
        """Tables and plots, which need the cells alone."""
        if self._ahead is not None:
            self._ahead.join()
        from dashboards.plots import write_plots
        from results.exchange.exports import write_exports

        self._tables, self._plots = write_exports(experiment), write_plots(experiment)

    def show(self, console: Console, experiment: Experiment) -> None:
        """The pages, which show recorded pictures too; and say where everything is."""
        from dashboards.report import write_report
        from orchestrator.show import named

        page = write_report(experiment, self._plots, teller(console))
        pictures = [file for file in self._plots if file.suffix == ".png"]
        for what, paths in (("tables: ", self._tables), ("plots:  ", pictures), ("pages:  ", [page])):
            if paths:
                console.print(what + named(paths, experiment.path / "exports"), soft_wrap=True)


def write_results(console: Console, experiment: Experiment) -> None:
    files = Files()
    files.write(experiment)
    files.show(console, experiment)


def write_suite_pages(console: Console, folder: Path) -> None:
    from dashboards.suite_report import write_suite_report

    console.print(f"table:  {write_suite_report(folder, teller(console))}", soft_wrap=True)


def make_benchmark_table(
    folders: Sequence[Path], against: str | None = None, published: str | None = None, cost: bool = False
) -> BenchmarkTable:
    """Of a suite, or of experiments side by side."""
    from results.analysis.suite_table import suite_table
    from results.suites import left_out_of, results_of

    found, left_out = results_of(folders), left_out_of(folders)
    return suite_table(found, left_out, against=against, published=published, cost=cost)


def show_benchmark_table(console: Console, table: BenchmarkTable) -> None:
    from orchestrator.show import show_notes, text_table
    from results.exchange.benchmark_text import NOTE, printable

    console.print(text_table(*printable(table)), soft_wrap=True, highlight=False)
    console.print(NOTE, soft_wrap=True)
    show_notes(console, table.notes)


def draw(rows: pd.DataFrame, picture: Path) -> None:
    from dashboards.plots import write_comparison

    write_picture(picture, lambda path: write_comparison(rows, path))


def draw_models(table: BenchmarkTable, picture: Path) -> None:
    from dashboards.model_plot import write_model_plot
    from results.analysis.by_model import model_curves

    write_picture(picture, lambda path: write_model_plot(model_curves(table), path))


def write_picture(picture: Path, write: Callable[[Path], None]) -> None:
    from results.location import local_folder, uri_of
    from strategies.errors import UsageError

    if uri_of(picture):
        raise UsageError(f"--picture {uri_of(picture)}: a picture is written on this machine; give a path")
    if picture.suffix.lower() not in (".png", ".pdf"):
        raise UsageError(f"--picture {picture}: the name must end in .png or .pdf")
    try:
        write(local_folder(picture))
    except UsageError as error:
        raise UsageError(f"--picture {picture}: {error}") from error
