"""The command `saccade`: parse, call, print. Imports happen inside the commands, so that help is there at once."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cluster.limits import SAMPLE_S
from orchestrator.ending import ended_by_signals
from orchestrator.standard_streams import USER_ERROR, standard_streams
from results.escaping import terminal_text
from results.import_path import ImportPathError, check_origin, leave_out_current_folder

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from orchestrator.rewrite import Rewritten
    from orchestrator.run import RunResult
    from orchestrator.sweep.prepare import Prepared
    from results.experiment import Experiment

LOG_WIDTH = 120  # of a file or pipe, where rich would wrap the tables at 80
COUNTED_S = 10.0  # between two lines of a command that does one thing after the other


class Format(StrEnum):
    """How a comparison is printed."""

    TABLE = "table"
    CSV = "csv"
    MARKDOWN = "markdown"
    LATEX = "latex"


class ExportFormat(StrEnum):
    """Whose per-sample files are written."""

    LMMS_EVAL = "lmms-eval"


app = typer.Typer(
    name="saccade",
    help="What does a vision-language model lose when visual tokens are dropped: by which rule, where, and how many?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Sweep = Annotated[str, typer.Argument(help="A sweep file, or a shipped sweep's name: layer_cutoff, text_weighted, ...")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change the file, e.g. grid[0].head=sum; may be given repeatedly."),
]
Model = Annotated[
    str | None, typer.Option(help="Checkpoint directory or hub id, instead of the file's; `embedded`: ours.")
]
Base = Annotated[str | None, typer.Option("--model-base", help="What an adapter (LoRA) changes: directory or hub id.")]
Data = Annotated[str | None, typer.Option(help="Benchmark directory, instead of the file's; `embedded`: ours.")]
Samples = Annotated[str | None, typer.Option(help="`all`, or how many of the first samples, instead of the file's.")]
Out = Annotated[
    Path | None, typer.Option(help="Experiment: a directory or s3://, gs://, abfs:// URI; by default experiments/NAME.")
]
Points = Annotated[
    list[str] | None,
    typer.Option(
        "--points", help="Only grid points with these words, `fastv layer=2`, or a glob, `fastv*`; repeatable."
    ),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Number of Ray actors; by default one for each GPU, or CPU core.")
]


Address = Annotated[str | None, typer.Option(help="Of a running Ray cluster; else RAY_ADDRESS, else none.")]
GpusPerWorker = Annotated[
    float | None,
    typer.Option(min=0.0, help="GPUs of an actor: by default 1 where there are any; 0.5 puts two on one."),
]
SampleTimeout = Annotated[
    int,
    typer.Option(
        min=1,
        max=10**7,
        help="Seconds without an answer after which a worker or a sample counts as hanging: the one is replaced, the "
        "other recorded as failed. Where units usually take long, they get more.",
    ),
]
Local = Annotated[bool, typer.Option("--local", help="In this process, without Ray: for debuggers.")]


@app.command()
def plan(
    sweep: Sweep,
    model: Model = None,
    base: Base = None,
    data: Data = None,
    samples: Samples = None,
    out: Out = None,
    workers: Workers = None,
    changes: Set = None,
    address: Address = None,
) -> None:
    """Say what a sweep would compute, and what that costs; nothing is computed or written."""
    with _user_errors():
        from orchestrator.cluster.joining import join_named
        from orchestrator.run import plan_and_stops
        from orchestrator.show import show_plan
        from results.places import located

        join_named(address)
        prepared = _prepare(sweep, model, base, data, samples, changes)
        with located(out or prepared.default_out) as folder:
            plan, stops = plan_and_stops(prepared, folder, workers or 1)
            show_plan(_console(), prepared, plan, folder, stops)


@app.command()
def run(
    sweep: Sweep,
    model: Model = None,
    base: Base = None,
    data: Data = None,
    samples: Samples = None,
    out: Out = None,
    workers: Workers = None,
    changes: Set = None,
    local: Local = False,
    address: Address = None,
    gpus_per_worker: GpusPerWorker = None,
    pictures: Annotated[
        int, typer.Option(min=0, help="Images to keep for the sample explorer, flipped samples first; 0: none.")
    ] = 500,
    sample_timeout: SampleTimeout = SAMPLE_S,
) -> None:
    """Compute the missing cells of a sweep and show its table. The same command again goes on where it stopped."""
    with _user_errors(resume=True):
        from rich.text import Text

        from orchestrator.cluster.joining import join_named
        from orchestrator.cluster.limits import Limits
        from orchestrator.run import RunOptions, run_sweep
        from results.places import followed, uri_of

        console = _console()
        if not local:
            join_named(address)  # before the sweep is read: `dtype: auto` depends on it
        prepared = _prepare(sweep, model, base, data, samples, changes, gpu=True if gpus_per_worker else None)
        place = out or prepared.default_out
        title = Text.assemble((prepared.spec.name, "bold"), ":")
        size = f"{len(prepared.spec.points)} grid points x {len(prepared.samples)} samples"
        console.print(title, f"{size} in {uri_of(place) or place}", soft_wrap=True)
        options = RunOptions(
            workers=workers, local=local, address=address, gpus_per_worker=gpus_per_worker, pictures=pictures,
            limits=Limits.given(sample_timeout),
        )  # fmt: skip
        with followed(place, _teller(console)) as folder:
            result = run_sweep(prepared, folder, options, console)
            _show_result(console, result)


@app.command()
def report(
    experiment: Annotated[Path, typer.Argument(help="Experiment directory or URI.")],
) -> None:
    """Write tables, pictures and the folder of pages again, from the cells; nothing is computed."""
    with _user_errors():
        from orchestrator.show import show_notes
        from results.places import opened

        console = _console()
        with opened(experiment) as found:
            _write_results(console, found)
            show_notes(console, found.notes)


@app.command()
def dashboard(
    experiments: Annotated[list[Path], typer.Argument(help="Experiment directories or URIs, finished or running.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8050,
    host: Annotated[
        str,
        typer.Option(help="Address to listen on. Another than this machine's own opens the results to the network."),
    ] = "127.0.0.1",
    name: Annotated[
        list[str] | None, typer.Option("--name", help="A further name that this machine is reached by; repeatable.")
    ] = None,
) -> None:
    """Look at experiments in the browser, live while they run: pictures, numbers, and every flipped answer."""
    with _user_errors():
        from dashboards.app import serve
        from dashboards.live.access import is_loopback
        from results.disk import StoreError
        from results.places import watched

        if not is_loopback(host):
            typer.echo(
                f"warning: everybody who reaches {host} can read these experiments; there is no password. From another "
                "machine, `ssh -L 8050:127.0.0.1:8050 THIS_MACHINE` needs no open port",
                err=True,
            )
        try:
            with watched(experiments) as folders:
                serve(folders, host, port, name or ())
        except OSError as error:
            reason = error.strerror or str(error)
            raise StoreError(
                f"--host {host} --port {port}: {reason}; give another --port, or 0 for a free one"
            ) from error


@app.command()
def export(
    experiment: Annotated[Path, typer.Argument(help="Experiment directory or URI.")],
    form: Annotated[ExportFormat, typer.Option("--format", help="Whose per-sample files.")] = ExportFormat.LMMS_EVAL,
    out: Annotated[Path | None, typer.Option(help="Directory or URI; by default EXPERIMENT/exports/lmms_eval.")] = None,
    points: Points = None,
) -> None:
    """Write each grid point's answers and scores, sample by sample, in another harness's form."""
    with _user_errors():
        from orchestrator.show import named
        from results.exchange.lmms_samples import write_lmms_samples
        from results.places import located, opened

        with ExitStack() as stack:
            source = stack.enter_context(opened(experiment))
            folder = stack.enter_context(located(out)) if out else source.path / "exports" / "lmms_eval"
            files = write_lmms_samples(source, folder, points or ())
        _console().print(f"{len(files)} grid points: {named(files, folder)}", soft_wrap=True)


@app.command()
def compare(
    experiments: Annotated[list[Path], typer.Argument(help="Experiment directories or URIs, or imported ones.")],
    points: Points = None,
    reference: Annotated[
        str | None,
        typer.Option(help="Compare with the grid points of this name (of the same layer and rank), not un-pruned."),
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="How to print it.")] = Format.TABLE,
    picture: Annotated[Path | None, typer.Option(help="Draw the curves into this file, .png or .pdf.")] = None,
) -> None:
    """Put experiments or grid points side by side, with differences, intervals, cost, and a recommendation."""
    with _user_errors():
        from orchestrator.show import text_table
        from results.exchange.compare import compare as compared
        from results.exchange.compare import printable, rendered
        from results.places import located

        with ExitStack() as stack:
            folders = [stack.enter_context(located(experiment, exists=True)) for experiment in experiments]
            result = compared(folders, points or (), reference)
        for note in result.notes:
            typer.echo(f"note {terminal_text(note)}", err=True)  # beside a table that may go into a file
        if picture is not None:
            _draw(result.rows, picture)
        if form is not Format.TABLE:
            typer.echo(rendered(result, form.value), nl=False)
            return
        console = _console()
        typer.echo(text_table(*printable(result.rows)))
        for line in result.recommendation:
            console.print(line, soft_wrap=True)


@app.command("import")
def import_(
    files: Annotated[list[Path], typer.Argument(help="Result files of the original projects.")],
    out: Annotated[Path, typer.Option(help="Directory or URI to make.")],
) -> None:
    """Read the original projects' result files, to stand beside ours; says which of their numbers cannot be."""
    with _user_errors():
        from rich.text import Text

        from orchestrator.show import show_notes
        from results.exchange.imports import import_files
        from results.places import written

        console = _console()
        with written(out, _teller(console)) as folder:
            imported = import_files(files, folder)
        rows = imported.rows
        console.print(f"{len(rows)} figures of {rows['experiment'].nunique()} runs in {imported.path}", soft_wrap=True)
        show_notes(console, (f"{file}: skipped: a file of no kind that is known" for file in imported.skipped))
        for (name, flag), group in rows[rows["flags"] != ""].groupby(["experiment", "flags"], sort=False):
            console.print(Text(str(name), "yellow"), f"{len(group)} of them: {flag}", soft_wrap=True)


@app.command()
def latency(
    sweep: Sweep,
    model: Model = None,
    base: Base = None,
    data: Data = None,
    samples: Samples = None,
    out: Out = None,
    changes: Set = None,
    points: Points = None,
    images: Annotated[int, typer.Option(min=1, help="Questions with an image to measure on.")] = 5,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds that count.")] = 5,
    warmup: Annotated[int, typer.Option(min=0, help="Rounds before them.")] = 1,
    decode_tokens: Annotated[int, typer.Option(min=1, help="Tokens decoded after the first.")] = 16,
) -> None:
    """Measure grid points one at a time, with tokens really dropped; writes EXPERIMENT/latency.json."""
    with _user_errors():
        from orchestrator.latency import chosen_points, write_latency
        from orchestrator.show import latency_text
        from results.places import followed

        console = _console()
        prepared = _prepare(sweep, model, base, data, samples, changes)
        chosen = chosen_points(prepared.spec.points, points or ())
        count = (len(chosen) + 1) * images * (repeats + warmup)
        console.print(f"{len(chosen)} grid points and the un-pruned model: {count} measurements")
        rounds: dict[str, int] = {
            "images": images,
            "repeats": repeats,
            "warmup": warmup,
            "decode_tokens": decode_tokens,
        }
        with followed(out or prepared.default_out, _teller(console)) as folder:
            path, rows = write_latency(prepared, folder, chosen, **rounds, progress=_counter(console))
        typer.echo(latency_text(rows))
        console.print(f"medians of {images * repeats} measurements, in {path}", soft_wrap=True)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def bench(context: typer.Context) -> None:
    """Time the shared engine beside real Hugging Face baselines in one process; `saccade bench --help` has options."""
    with _user_errors():
        from workers.benchmark.bench import main as bench_main

        raise typer.Exit(bench_main(context.args))


@app.command()
def ablate(
    sweep: Sweep = "head_ablation",
    model: Model = None,
    base: Base = None,
    data: Data = None,
    samples: Annotated[
        str | None, typer.Option(help="Questions that choose; the others test the choice. By default the sweep file's.")
    ] = None,
    changes: Set = None,
    out: Annotated[Path, typer.Option(help="Directory; each stage is an experiment in it.")] = Path(
        "experiments/ablate"
    ),
    workers: Workers = None,
    local: Local = False,
    address: Address = None,
    gpus_per_worker: GpusPerWorker = None,
    sample_timeout: SampleTimeout = SAMPLE_S,
) -> None:
    """Choose a head rule, then a query rule with it, test the pair on other questions, and sort the flipped answers."""
    with _user_errors(resume=True):
        from rich.text import Text

        from orchestrator.ablate import ablate as ablated
        from orchestrator.ablate import choice_lines
        from orchestrator.cluster.joining import join_named
        from orchestrator.cluster.limits import Limits
        from orchestrator.run import RunOptions, run_sweep
        from results.places import followed

        console = _console()
        if not local:
            join_named(address)
        options = RunOptions(
            workers=workers, local=local, address=address, gpus_per_worker=gpus_per_worker,
            limits=Limits.given(sample_timeout),
        )  # fmt: skip

        def runner(prepared: Prepared, folder: Path) -> Experiment:
            console.print(Text.assemble((folder.name, "bold"), f": {len(prepared.spec.points)} grid points"))
            with followed(folder, _teller(console)):  # a stage is an experiment that `saccade run` may write into too
                experiment = run_sweep(prepared, folder, options, console).experiment
                _write_results(console, experiment)
            return experiment

        overrides = _overrides(model, base, data, samples, changes)
        with followed(out, _teller(console)) as folder:
            result = ablated(folder, sweep, overrides, runner)
        for choice in (result.heads, result.queries):
            for line in choice_lines(choice):
                console.print(line, soft_wrap=True)
        console.print(f"report: {result.report}", soft_wrap=True)


@app.command()
def status(
    experiment: Annotated[Path, typer.Argument(help="Experiment directory or URI.")],
) -> None:
    """Say how far an experiment is, and what failed."""
    with _user_errors():
        from orchestrator.show import show_status
        from results.places import driver_of, opened

        with opened(experiment) as found:
            show_status(_console(), found, driver_of(experiment))


@app.command()
def merge(
    experiments: Annotated[list[Path], typer.Argument(help="Experiment directories of one model, data and settings.")],
    out: Annotated[Path, typer.Option(help="Directory or URI to make.")],
    other_sources: Annotated[
        bool, typer.Option("--other-sources", help="Accept cells that another version of the sources computed.")
    ] = False,
) -> None:
    """Put experiments together: all their grid points and samples, every cell once. The originals stay as they are."""
    with _user_errors():
        from orchestrator.show import show_merged, show_notes
        from orchestrator.tune.trial_records import STATE
        from orchestrator.tune.trials import tell_all
        from results.inventory import merge as merged
        from results.places import located, written

        console = _console()
        with ExitStack() as stack:
            folders = [stack.enter_context(located(experiment, exists=True)) for experiment in experiments]
            result = merged(folders, stack.enter_context(written(out, _teller(console))), other_sources)
            show_merged(console, result)
            if any((folder / STATE).is_file() for folder in folders):
                show_notes(console, tell_all(result.experiment))
            _write_results(console, result.experiment)


@app.command()
def migrate(
    experiment: Annotated[Path, typer.Argument(help="Experiment directory or URI of an older format.")],
    out: Annotated[Path, typer.Option(help="Directory or URI to make.")],
    assume_current: Annotated[
        bool,
        typer.Option("--assume-current", help="Its version asked, judged and computed as this one does: you know it."),
    ] = False,
) -> None:
    """Bring an experiment of an older format into today's, to add cells to it. The original stays as it is."""
    with _user_errors():
        from orchestrator.rewrite import migrate as migrated

        _rewrite(experiment, out, lambda source, folder: migrated(source, folder, assume_current))


@app.command()
def rescore(
    experiment: Annotated[Path, typer.Argument(help="Experiment directory or URI.")],
    out: Annotated[Path, typer.Option(help="Directory or URI to make.")],
    scorer: Annotated[str | None, typer.Option(help="Another scoring rule; else the same one, as it is today.")] = None,
) -> None:
    """Judge an experiment's answers again; no model runs. The original stays as it is."""
    with _user_errors():
        from orchestrator.rewrite import rescore as rescored

        _rewrite(experiment, out, lambda source, folder: rescored(source, folder, scorer))


@app.command()
def verify(
    experiment: Annotated[Path, typer.Argument(help="Experiment directory or URI.")],
    recompute: Annotated[
        int, typer.Option(min=0, help="Compute so many cells, drawn at random, again by transformers alone.")
    ] = 0,
    model: Model = None,
    base: Base = None,
    data: Data = None,
    seed: Annotated[int | None, typer.Option(help="Of the draw; by default one that nobody could know.")] = None,
) -> None:
    """Check every file of an experiment: whole, every cell once, model and data unchanged. Exit code 2 where not."""
    with _user_errors():
        from rich.text import Text

        from results.inventory import verify as verified
        from results.places import opened

        console = _console()
        with opened(experiment) as found:
            findings = verified(found)
            if recompute:
                from orchestrator.recompute import recompute as recomputed

                result = recomputed(
                    found, recompute, model=model, base=base, data=data, seed=seed, progress=_counter(console)
                )
                findings += result.findings()
        for finding in findings:
            mark = Text("ok  ", "green") if finding.well else Text("bad ", "red")
            console.print(mark, finding.text, soft_wrap=True)
        if not all(finding.well for finding in findings):
            raise typer.Exit(USER_ERROR)


@app.command()
def doctor(
    sweep: Annotated[
        str | None, typer.Argument(help="A sweep file, or a shipped sweep's name, to check as well.")
    ] = None,
    model: Model = None,
    base: Base = None,
    data: Data = None,
    samples: Samples = None,
    out: Out = None,
    changes: Set = None,
) -> None:
    """Say whether a sweep would run on this machine, and what to mend if not. Exit code 2 if something stops it."""
    with _user_errors():
        from rich.text import Text

        from orchestrator.doctor import examine

        console = _console()
        marks = {"ok": Text("ok  ", "green"), "note": Text("note", "yellow"), "stop": Text("STOP", "red")}
        load = None if sweep is None else lambda: _prepare(sweep, model, base, data, samples, changes)
        stopped = 0
        for check in examine(load, out):
            stopped += check.mark == "stop"
            console.print(marks[check.mark], Text(check.what, "bold"), check.text, soft_wrap=True)
        if stopped:
            raise typer.Exit(USER_ERROR)


@app.command()
def tune(
    experiment: Annotated[Path, typer.Argument(help="Experiment directory or URI.")],
    callback: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CLASS", help="A Tune callback to tell, as in a sweep file: CLASS, or `CLASS: {ARGUMENT: VALUE}`."
        ),
    ] = None,
) -> None:
    """Write Ray Tune's view of an experiment again, from its cells, and tell it to callbacks; nothing is computed."""
    with _user_errors():
        from orchestrator.show import show_notes
        from orchestrator.sweep.document import parse_callbacks
        from orchestrator.tune.trials import tell_all
        from results.experiment import Experiment
        from results.places import uri_of, written

        console = _console()
        with written(experiment, _teller(console), exists=True, everything=True) as folder:
            found = Experiment.open(folder)
            show_notes(console, tell_all(found, parse_callbacks(callback or ())))
        console.print(f"{len(found.points)} trials in {uri_of(experiment) or experiment}", soft_wrap=True)


def main() -> None:
    """Entry point of the script."""
    leave_out_current_folder()
    with standard_streams():
        app()


def _prepare(
    sweep: str,
    model: str | None,
    base: str | None,
    data: str | None,
    samples: str | None,
    changes: list[str] | None = None,
    gpu: bool | None = None,
) -> Prepared:
    from orchestrator.sweep.prepare import prepare
    from orchestrator.sweep.spec import load_sweep

    return prepare(load_sweep(sweep, _overrides(model, base, data, samples, changes), gpu))


def _overrides(
    model: str | None, base: str | None, data: str | None, samples: str | None, changes: list[str] | None
) -> dict[str, Any]:
    """What a command line says otherwise than the sweep file, by place."""
    from orchestrator.sweep.spec import SpecError
    from results.yaml_text import YamlError, parse_yaml

    overrides: dict[str, Any] = {}
    for change in changes or ():
        place, sign, value = change.partition("=")
        if not sign or not place:
            raise SpecError(f"--set {change}: write KEY=VALUE, for example measure.spectra.samples=50")
        try:
            overrides[place.strip()] = parse_yaml(value)
        except YamlError as error:
            raise SpecError(f"--set {change}: the value is not YAML ({error})") from error
    if samples is not None:
        overrides["samples"] = _sample_count(samples)
    overrides |= {name: value for name, value in (("model", model), ("data", data)) if value is not None}
    if base is not None:
        overrides["model.base"] = base
    return overrides


def _sample_count(samples: str | None) -> str | int | None:
    from orchestrator.sweep.spec import SpecError

    if samples is None or samples == "all":
        return samples
    if not (samples.isdecimal() and len(samples) < 20 and int(samples) > 0):
        raise SpecError(f"--samples {samples}: give `all` or a whole number above 0")
    return int(samples)


def _teller(console: Console) -> Callable[[str], None]:
    return partial(console.print, soft_wrap=True)


def _console() -> Console:
    from orchestrator.show import PlainConsole

    return PlainConsole(width=shutil.get_terminal_size((LOG_WIDTH, 24)).columns)


def _counter(console: Console) -> Callable[[int, int], None]:
    """Says now and then how far a command has come that does one thing after the other."""
    began = last = time.monotonic()

    def count(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > COUNTED_S and 0 < done < total:
            last = now
            console.print(f"{done} of {total}, {(now - began) / done * (total - done):.0f} s left", highlight=False)

    return count


@contextmanager
def _user_errors(resume: bool = False) -> Iterator[None]:
    """Turn what a user can mend into one line each on stderr and exit code 2. Only our own bugs show a traceback."""
    try:
        check_origin()  # before any of our packages is imported
    except ImportPathError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(USER_ERROR) from None
    with ended_by_signals() as ending:
        try:
            with _mendable():
                yield
            if not ending.terminated:
                return
        except (KeyboardInterrupt, ImportError) as error:  # a library that is being imported may say it so
            if isinstance(error, ImportError) and not ending.terminated:
                raise
        kept = "finished cells are kept: " if resume else ""
        typer.echo(f"{ending.text}; {kept}give the same command again{' to go on' if resume else ''}", err=True)
        raise typer.Exit(ending.exit_code)


@contextmanager
def _mendable() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        from orchestrator.cluster.faults import SweepError
        from orchestrator.cluster.joining import PoolError
        from orchestrator.sweep.spec import SpecError
        from results.disk import StoreError
        from workers.families.config import ModelError
        from workers.tasks.base import DataError

        kinds = (SpecError, StoreError, ModelError, DataError, PoolError, SweepError)
        if not isinstance(error, kinds):
            raise
        typer.echo(terminal_text(str(error)), err=True)
        raise typer.Exit(USER_ERROR) from None


def _rewrite(source: Path, out: Path, rewrite: Callable[[Path, Path], Rewritten]) -> None:
    from orchestrator.show import show_notes
    from results.places import located, written

    console = _console()
    with ExitStack() as stack:
        folder = stack.enter_context(located(source, exists=True))
        result = rewrite(folder, stack.enter_context(written(out, _teller(console))))
        judged = f", {result.changed} of them judged otherwise" if result.changed else ""
        console.print(f"{result.cells} cells in {out}{judged}", highlight=False, soft_wrap=True)
        show_notes(console, result.notes)
        _write_results(console, result.experiment)


def _show_result(console: Console, result: RunResult) -> None:
    from orchestrator.show import accuracy_table, show_failures, show_notes, show_stops, show_warnings, size_text
    from results.analysis.metrics import answers, summarise
    from results.analysis.task_metrics import headline, task_metrics
    from results.durations import duration
    from results.pictures import Pictures

    experiment = result.experiment
    figures = headline(task_metrics(experiment), experiment)
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
    _write_results(console, experiment)
    failures = experiment.failures()
    if len(failures):
        show_failures(console, failures)
    show_notes(console, result.warnings)


def _draw(rows: pd.DataFrame, picture: Path) -> None:
    from dashboards.plots import write_comparison
    from results.disk import StoreError
    from results.places import local_folder, uri_of

    if uri_of(picture):
        raise StoreError(f"--picture {uri_of(picture)}: a picture is written on this machine; give a path")
    if picture.suffix.lower() not in (".png", ".pdf"):
        raise StoreError(f"--picture {picture}: the name must end in .png or .pdf")
    try:
        write_comparison(rows, local_folder(picture))
    except ValueError as error:
        raise StoreError(f"--picture {picture}: {error}") from error


def _write_results(console: Console, experiment: Experiment) -> None:
    from dashboards.plots import write_plots
    from dashboards.report import write_report
    from orchestrator.show import named
    from results.exchange.exports import write_exports

    files = write_exports(experiment)
    plots = write_plots(experiment)
    page = write_report(experiment, plots, _teller(console))
    pictures = [file for file in plots if file.suffix == ".png"]
    for what, paths in (("tables: ", files), ("plots:  ", pictures), ("pages:  ", [page])):
        if paths:
            console.print(what + named(paths, experiment.path / "exports"), soft_wrap=True)
