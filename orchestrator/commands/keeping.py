"""Commands that check experiments, or make others of them; no cell is computed for a sweep."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.commands.calling import command
from orchestrator.commands.options import NewOut, Place, Scorer, Sources
from orchestrator.commands.shown import console_of_command, counter, teller, write_results
from orchestrator.standard_streams import USER_ERROR

if TYPE_CHECKING:
    from orchestrator.rewrite import Rewritten


@command
def import_(
    files: Annotated[list[Path], typer.Argument(help="Result files of the original projects.")],
    out: NewOut,
) -> None:
    """Read the original projects' result files, to stand beside ours; says which of their numbers cannot be."""
    from rich.text import Text

    from orchestrator.show import show_notes
    from results.exchange.imports import import_files
    from results.location import written

    console = console_of_command()
    with written(out, teller(console)) as folder:
        imported = import_files(files, folder)
    rows = imported.rows
    console.print(f"{len(rows)} figures of {rows['experiment'].nunique()} runs in {imported.path}", soft_wrap=True)
    show_notes(console, (f"{file}: skipped: a file of no kind that is known" for file in imported.skipped))
    for (name, flag), group in rows[rows["flags"] != ""].groupby(["experiment", "flags"], sort=False):
        console.print(Text(str(name), "yellow"), f"{len(group)} of them: {flag}", soft_wrap=True)


@command
def merge(
    experiments: Annotated[list[Path], typer.Argument(help="Experiment directories of one model, data and settings.")],
    out: NewOut,
    other_sources: Annotated[
        bool, typer.Option("--other-sources", help="Accept cells that another version of the sources computed.")
    ] = False,
) -> None:
    """Put experiments together: all their grid points and samples, every cell once. The originals stay as they are."""
    from orchestrator.show import show_merged, show_notes
    from orchestrator.tune.trial_records import STATE
    from orchestrator.tune.trials import tell_all
    from results.inventory import merge as merged
    from results.location import located, written

    console = console_of_command()
    with ExitStack() as stack:
        folders = [stack.enter_context(located(experiment, exists=True)) for experiment in experiments]
        result = merged(folders, stack.enter_context(written(out, teller(console))), other_sources)
        show_merged(console, result)
        if any((folder / STATE).is_file() for folder in folders):
            show_notes(console, tell_all(result.experiment))
        write_results(console, result.experiment)


@command
def migrate(
    experiment: Annotated[Path, typer.Argument(help="Experiment directory or URI of an older format.")],
    out: NewOut,
    assume_current: Annotated[
        bool,
        typer.Option("--assume-current", help="You know that its version asked, judged and computed as this one does."),
    ] = False,
) -> None:
    """Bring an experiment of an older format into today's, to add cells to it. The original stays as it is."""
    from orchestrator.rewrite import migrate as migrated

    _rewrite(experiment, out, lambda source, folder: migrated(source, folder, assume_current))


@command
def rescore(
    experiment: Place,
    out: NewOut,
    scorer: Scorer = None,
) -> None:
    """Judge an experiment's answers again; no model runs. The original stays as it is."""
    from orchestrator.rewrite import rescore as rescored

    _rewrite(experiment, out, lambda source, folder: rescored(source, folder, scorer))


@command
def verify(
    experiment: Place,
    sources: Sources,
    recompute: Annotated[
        int, typer.Option(min=0, help="Compute so many cells, drawn at random, again by transformers alone.")
    ] = 0,
    seed: Annotated[int | None, typer.Option(help="Seed of the draw; by default one that nobody could know.")] = None,
) -> None:
    """Check every file of an experiment: whole, every cell once, model and data unchanged. Exit code 2 where not."""
    from rich.text import Text

    from results.inventory import verify as verified
    from results.location import opened

    console = console_of_command()
    with opened(experiment) as found:
        findings = verified(found)
        if recompute:
            from orchestrator.recompute import recompute as recomputed

            result = recomputed(
                found,
                recompute,
                model=sources.model,
                base=sources.base,
                data=sources.data,
                seed=seed,
                progress=counter(console),
            )
            findings += result.findings()
    for finding in findings:
        mark = Text("ok  ", "green") if finding.well else Text("bad ", "red")
        console.print(mark, finding.text, soft_wrap=True)
    if not all(finding.well for finding in findings):
        raise typer.Exit(USER_ERROR)


@command
def tune(
    experiment: Place,
    callback: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CLASS", help="A Tune callback to tell, as in a sweep file: CLASS, or `CLASS: {ARGUMENT: VALUE}`."
        ),
    ] = None,
) -> None:
    """Write Ray Tune's view of an experiment again, from its cells, and tell it to callbacks; nothing is computed."""
    from orchestrator.show import show_notes
    from orchestrator.sweep.document import parse_callbacks
    from orchestrator.tune.trials import tell_all
    from results.experiment import Experiment
    from results.location import uri_of, written

    console = console_of_command()
    with written(experiment, teller(console), exists=True, everything=True) as folder:
        found = Experiment.open(folder)
        show_notes(console, tell_all(found, parse_callbacks(callback or ())))
    console.print(f"{len(found.points)} trials in {uri_of(experiment) or experiment}", soft_wrap=True)


def _rewrite(source: Path, out: Path, rewrite: Callable[[Path, Path], Rewritten]) -> None:
    from orchestrator.show import show_notes
    from results.location import located, written

    console = console_of_command()
    with ExitStack() as stack:
        folder = stack.enter_context(located(source, exists=True))
        result = rewrite(folder, stack.enter_context(written(out, teller(console))))
        judged = f", {result.changed} of them judged otherwise" if result.changed else ""
        console.print(f"{result.cells} cells in {out}{judged}", highlight=False, soft_wrap=True)
        show_notes(console, result.notes)
        write_results(console, result.experiment)
