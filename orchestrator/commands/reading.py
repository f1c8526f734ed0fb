"""Commands that look at experiments; only tables, pictures and pages are written."""

from __future__ import annotations

from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.commands.calling import command
from orchestrator.commands.options import Picture, Place, Points, choices, inches
from orchestrator.commands.shown import (
    console_of_command,
    draw,
    draw_models,
    make_benchmark_table,
    show_benchmark_table,
    write_results,
    write_suite_pages,
)
from results.escaping import terminal_text


class Format(StrEnum):
    """How a comparison is printed."""

    TABLE = "table"
    CSV = "csv"
    MARKDOWN = "markdown"
    LATEX = "latex"


class Drawing(StrEnum):
    """File of a figure for a paper."""

    PDF = "pdf"
    SVG = "svg"
    PGF = "pgf"
    PNG = "png"


class By(StrEnum):
    """What stands beside one another in the papers' table."""

    BENCHMARK = "benchmark"
    MODEL = "model"


class ExportFormat(StrEnum):
    """In which form per-sample files are written."""

    CSV = "csv"
    LLAVA = "llava"
    LMMS_EVAL = "lmms-eval"
    SERVER = "server"


@command
def report(
    experiment: Annotated[Path, typer.Argument(help="Experiment directory or URI, or a suite's.", show_default=False)],
) -> None:
    """Write tables, pictures and the folder of pages again, from the cells; nothing is computed."""
    from orchestrator.show import show_notes
    from results.location import located
    from results.suites import is_suite, results_of

    console = console_of_command()
    with located(experiment, exists=True) as folder:
        for found in results_of([folder]):
            write_results(console, found.experiment)
            show_notes(console, found.experiment.notes)
        if is_suite(folder):
            write_suite_pages(console, folder)


@command
def dashboard(
    experiments: Annotated[
        list[Path], typer.Argument(help="Experiment directories or URIs, or suites', finished or running.")
    ],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8050,
    host: Annotated[
        str,
        typer.Option(help="Address to listen on. Another than this machine's own opens the results to the network."),
    ] = "127.0.0.1",
    name: Annotated[
        list[str] | None, typer.Option("--name", help="A further name that this machine is reached by; repeatable.")
    ] = None,
    prefix: Annotated[
        str, typer.Option(help="Path before ours where a proxy stands between: /user/me/proxy/8050/ of JupyterHub.")
    ] = "/",
) -> None:
    """Look at experiments in the browser, live while they run: pictures, numbers, and every flipped answer.

    Of a suite also its table: methods by benchmarks, beside what papers print.
    """
    from dashboards.app import serve
    from dashboards.live.access import is_loopback
    from results.location import watched
    from strategies.errors import UsageError

    if not is_loopback(host):
        typer.echo(
            f"warning: everybody who reaches {host} can read these experiments; there is no password. From another "
            "machine, `ssh -L 8050:127.0.0.1:8050 THIS_MACHINE` needs no open port",
            err=True,
        )
    try:
        with watched(experiments) as folders:
            serve(folders, host, port, name or (), f"/{prefix.strip('/')}/".replace("//", "/"))
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"--host {host} --port {port}: {reason}; give another --port, or 0 for a free one") from error


@command
def figure(
    experiment: Place,
    panel: Annotated[
        str, typer.Argument(help="Page, or PAGE/PANEL: layer, tokens, heat, alpha, layer/difference, ...")
    ],
    width: Annotated[str, typer.Option(help="Of the paper's column: 3.25in, 84mm, 8.4cm or 234pt.")] = "3.25in",
    form: Annotated[
        Drawing, typer.Option("--format", help="Of the file; pgf needs a TeX system, png has 300 dots an inch.")
    ] = Drawing.PDF,
    choose: Annotated[
        list[str] | None,
        typer.Option("--choose", metavar="NAME=VALUE", help="As the page's address: strategy=fastv, layer=2, kept=64."),
    ] = None,
    title: Annotated[bool, typer.Option("--title", help="Print the title too, which a caption says.")] = False,
    out: Annotated[Path | None, typer.Option(help="The file; by default in EXPERIMENT/exports.")] = None,
) -> None:
    """Draw one panel of the pages for a paper: as wide as its column, text of 8 pt."""
    from dashboards.chosen_panel import chosen_panel
    from dashboards.paper import paper_figure
    from dashboards.report_tables import source_of_numbers
    from results.disk import make_folder, write_whole
    from results.location import opened

    page, _, name = panel.partition("/")
    with opened(experiment) as found:
        drawn, source = chosen_panel(found.path, page, name or None, choices(choose or ()))
        asked = int(drawn.rows["n"].max()) if "n" in drawn.rows else len(source.answers.samples)
        content = paper_figure(drawn.figure, form, inches(width), source_of_numbers(found, asked), title)
        path = out or found.path / "exports" / f"{page}-{drawn.name}.{form}"
        make_folder(path.parent, below=found.path if out is None else path.parent)
        write_whole(path, content)
    console_of_command().print(str(path), soft_wrap=True)


@command
def status(
    experiment: Annotated[Path, typer.Argument(help="Experiment directory or URI, or a suite's.", show_default=False)],
) -> None:
    """Say how far an experiment is, and what failed; of a suite how far each of its experiments is."""
    from orchestrator.show import show_status
    from orchestrator.show_suite import show_suite_status
    from results.experiment import Experiment
    from results.location import driver_of, located
    from results.suites import is_suite

    with located(experiment, exists=True) as folder:
        if is_suite(folder):
            show_suite_status(console_of_command(), folder, experiment)
        else:
            show_status(console_of_command(), Experiment.open(folder), driver_of(experiment))


@command
def table(
    places: Annotated[list[Path], typer.Argument(help="A suite's folder or URI, or experiments of one grid.")],
    against: Annotated[
        str | None, typer.Option(help="Hold all methods against this one at each budget, e.g. random.")
    ] = None,
    published: Annotated[
        str | None,
        typer.Option(
            help="Papers' figures of LLaVA-1.5-7B beside yours: A or B, copied from paper to paper; C, re-run."
        ),
    ] = None,
    cost: Annotated[
        bool, typer.Option("--cost", help="TFLOP, key-value cache, and what `saccade latency` has measured.")
    ] = False,
    by: Annotated[By, typer.Option(help="Columns: benchmarks, or of several models their means.")] = By.BENCHMARK,
    picture: Picture = None,
    form: Annotated[Format, typer.Option("--format", help="How to print it.")] = Format.TABLE,
) -> None:
    """Put a suite's benchmarks into the papers' table: method x budget x benchmark, and the mean of the un-pruned."""
    from results.analysis.by_model import by_model
    from results.exchange.benchmark_text import rendered
    from results.location import located

    with ExitStack() as stack:
        folders = [stack.enter_context(located(place, exists=True)) for place in places]
        made = make_benchmark_table(folders, against, published, cost)
        if picture is not None:
            draw_models(made, picture)
        made = by_model(made) if by is By.MODEL else made
        if form is Format.TABLE:
            show_benchmark_table(console_of_command(), made)
        else:
            typer.echo(rendered(made, form.value), nl=False)


@command
def compare(
    experiments: Annotated[list[Path], typer.Argument(help="Experiment directories or URIs, or imported ones.")],
    points: Points = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="Compare with these grid points (words or a glob) of the same layer and rank, not with un-pruned."
        ),
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="How to print it.")] = Format.TABLE,
    picture: Picture = None,
) -> None:
    """Put experiments or grid points side by side, with differences, intervals, cost, and a recommendation."""
    from orchestrator.show import text_table
    from results.exchange.compare import compare as compared
    from results.exchange.compare_text import printable, rendered
    from results.location import located

    with ExitStack() as stack:
        folders = [stack.enter_context(located(experiment, exists=True)) for experiment in experiments]
        result = compared(folders, points or (), reference)
    for note in result.notes:
        typer.echo(f"note {terminal_text(note)}", err=True)  # beside a table that may go into a file
    if picture is not None:
        draw(result.rows, picture)
    if form is not Format.TABLE:
        typer.echo(rendered(result, form.value), nl=False)
        return
    console = console_of_command()
    typer.echo(text_table(*printable(result.rows)))
    for line in result.recommendation:
        console.print(line, soft_wrap=True)


@command
def export(
    experiment: Place,
    form: Annotated[ExportFormat, typer.Option("--format", help="Whose per-sample files.")] = ExportFormat.CSV,
    out: Annotated[Path | None, typer.Option(help="Directory or URI; by default in EXPERIMENT/exports.")] = None,
    points: Points = None,
) -> None:
    """Write answers and scores, sample by sample.

    `--format csv`: all in one tidy table, a row a grid point and sample, as `Experiment.cells()` in Python. `llava`:
    LLaVA's own answer files, one a grid point. `lmms-eval`: its per-sample files. `server`: what the server of VQAv2
    (test-dev) or VizWiz judges.
    """
    from orchestrator.show import named
    from results.exchange.asked_for import Export
    from results.exchange.llava_answers import write_llava_answers
    from results.exchange.lmms_samples import write_lmms_samples
    from results.exchange.server_answers import write_server_answers
    from results.exchange.tidy import write_tidy
    from results.location import located, opened
    from results.wording import plural

    write: Export = {
        ExportFormat.CSV: write_tidy,
        ExportFormat.LLAVA: write_llava_answers,
        ExportFormat.LMMS_EVAL: write_lmms_samples,
        ExportFormat.SERVER: write_server_answers,
    }[form]
    with ExitStack() as stack:
        source = stack.enter_context(opened(experiment))
        folder = stack.enter_context(located(out)) if out else source.path / "exports" / form.replace("-", "_")
        files = write(source, folder, points or ())
    console_of_command().print(f"{plural(len(files), 'file')}: {named(files, folder)}", soft_wrap=True)
