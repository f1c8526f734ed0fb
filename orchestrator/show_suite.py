"""How far a suite is, a line an experiment."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from results.experiment import Experiment
from results.location import driver_of
from results.stops import read_stops
from results.suites import begun, read_suite
from results.wording import plural


def show_suite_status(console: Console, folder: Path, place: Path) -> None:
    """Say of each experiment how far it is, and how more of it is told.

    Args:
        console: Where to print.
        folder: Of the suite.
        place: What it was called by: its folder or a URI.

    Raises:
        StoreError: The suite's file, or an experiment, cannot be read.
    """
    suite, there = read_suite(folder), begun(folder)
    table = Table("experiment", box=None, pad_edge=False)
    for name in ("cells", "missing", "failed samples"):
        table.add_column(name, justify="right")
    table.add_column("now")
    left = False
    for member in suite.members:
        name = member.folder.as_posix()
        if member not in there:
            table.add_row(name, "", "", "", "has not begun")
            left = True
            continue
        experiment = Experiment.open(folder / member.folder)
        stops = read_stops(experiment)
        total = experiment.manifest.samples * len(experiment.points) - (stops.saved if stops else 0)
        cells, failed = len(experiment.whole()), len(experiment.failures())
        driver = driver_of(place / member.folder)
        now = driver or ("complete" if cells >= total else "stopped")
        left |= cells < total and not driver
        table.add_row(name, str(cells), str(max(total - cells, 0) or ""), str(failed or ""), now)
    begun_text = f": {len(there)} of {plural(len(suite.members), 'experiment')} begun"
    console.print(Text.assemble((suite.name, "bold"), begun_text), soft_wrap=True)
    console.print(table)
    if left:
        console.print("give the same `saccade run` again to compute what is missing")
    if there:
        example = place / there[0].folder
        console.print(f"more of one: saccade status {example}", highlight=False, markup=False, soft_wrap=True)
