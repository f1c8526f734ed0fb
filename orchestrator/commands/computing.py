"""Commands that read a sweep file: what it costs, what is missing, how fast one grid point is."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.commands.calling import command, resumable
from orchestrator.commands.options import Changes, Cluster, GpuMemory, Out, Points, Sweep, Workers
from orchestrator.commands.shown import (
    Files,
    console_of_command,
    counter,
    import_ahead,
    make_benchmark_table,
    show_benchmark_table,
    show_result,
    teller,
    write_results,
    write_suite_pages,
)
from orchestrator.standard_streams import USER_ERROR

if TYPE_CHECKING:
    from orchestrator.sweep.prepare import Prepared
    from results.experiment import Experiment
    from results.timeline import Timeline


@command
def plan(
    sweep: Sweep,
    changes: Changes,
    cluster: Cluster,
    out: Out = None,
    gpu_memory: GpuMemory = None,
    points: Points = None,
) -> None:
    """Say what a sweep would compute, and what that costs in time, memory and disk; nothing is computed or written."""
    from rich.text import Text

    from orchestrator.run import plan_and_stops
    from orchestrator.show import show_notes, show_plan
    from orchestrator.suite import prepare_suite
    from orchestrator.sweep.gpu_memory import card_bytes, memory_forecast, memory_text
    from orchestrator.sweep.suite import is_suite, load_suite
    from orchestrator.sweep.time_taken import time_text
    from results.location import located

    cluster.join()
    card, console = card_bytes(gpu_memory), console_of_command()

    def show(prepared: Prepared, place: Path) -> None:
        memory = None if card is None else memory_text(memory_forecast(prepared, card), card)
        with located(place) as folder:
            found, stops = plan_and_stops(prepared, folder, cluster.workers or 1)
            time = time_text(found, prepared, cluster.workers)
            show_plan(console, prepared, found, folder, stops, memory, time, points or ())

    if is_suite(sweep):
        suite = load_suite(sweep, changes.by_place())
        members, left_out = prepare_suite(suite, keep_going=True)
        for one in members:
            console.print(Text(one.member.title, "bold"))
            show(one.prepared, (out or Path("experiments") / suite.name) / one.member.folder)
        show_notes(console, left_out)
        return
    prepared = changes.prepared(sweep)
    show(prepared, out or prepared.default_out)


@resumable
def run(
    sweep: Sweep,
    changes: Changes,
    workers: Workers,
    out: Out = None,
    pictures: Annotated[
        int, typer.Option(min=0, help="Images to keep for the sample explorer, flipped samples first; 0: none.")
    ] = 500,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Of a suite: leave out benchmarks whose files are missing.")
    ] = False,
) -> None:
    """Compute the missing cells of a sweep or suite, and show its table. The same command again goes on from there."""
    from results.timeline import Timeline

    timeline = Timeline()
    from rich.text import Text

    from orchestrator.crew import Crew
    from orchestrator.run import prepare_beside, run_sweep
    from orchestrator.sweep.suite import is_suite
    from results.location import followed, uri_of

    console = console_of_command()
    workers.join()
    if is_suite(sweep):
        _run_suite(sweep, changes, workers, out, pictures, keep_going, timeline)
        return
    spec, options = (
        changes.spec(sweep, gpu=True if workers.gpus_per_worker else None),
        workers.options(pictures=pictures),
    )
    place = out or spec.default_out
    timeline.add("sweep file", 0.0)
    with Crew(options, workers.local, timeline=timeline) as crew:
        prepared = prepare_beside(crew, spec, place)
        size = f"{len(spec.points)} grid points x {len(prepared.samples)} samples"
        console.print(Text.assemble((spec.name, "bold"), ":"), f"{size} in {uri_of(place) or place}", soft_wrap=True)
        with followed(place, teller(console)) as folder:
            files = Files(import_ahead())
            result = run_sweep(prepared, folder, options, console, crew, files.write)
            show_result(console, result)
            with timeline.span("pages"):
                files.show(console, result.experiment)
            crew.wait()
            timeline.write(result.experiment)
    if spent := timeline.record.text:
        console.print(spent, soft_wrap=True)


def _run_suite(
    source: str,
    changes: Changes,
    workers: Workers,
    out: Path | None,
    pictures: int,
    keep_going: bool,
    timeline: Timeline,
) -> None:
    from orchestrator.crew import Crew
    from orchestrator.show import show_notes
    from orchestrator.suite import prepare_suite, run_suite
    from orchestrator.sweep.suite import load_suite
    from results.location import followed

    console = console_of_command()
    suite = load_suite(source, changes.by_place(), gpu=True if workers.gpus_per_worker else None)
    options = workers.options(pictures=pictures)
    place = out or Path("experiments") / suite.name
    timeline.add("sweep file", 0.0)
    with Crew(options, workers.local, stays=True, timeline=timeline) as crew:
        members, left_out = prepare_suite(suite, keep_going, crew, place)
        with followed(place, teller(console)) as folder:
            results = run_suite(suite, members, folder, options, console, partial(show_result, console), crew)
            crew.go()
            show_benchmark_table(console, make_benchmark_table([folder]))
            show_notes(console, left_out)
            for result in results:  # pages take as long as a small benchmark; nobody waits for them to see the table
                write_results(console, result.experiment)
            write_suite_pages(console, folder)


@resumable
def ablate(
    changes: Changes,
    workers: Workers,
    sweep: Sweep = "head_ablation",
    out: Annotated[Path, typer.Option(help="Directory; each stage is an experiment in it.")] = Path(
        "experiments/ablate"
    ),
) -> None:
    """Choose a head rule, then a query rule with it, test the pair on other questions, and sort the flipped answers.

    --samples says how many questions choose; the others test the choice.
    """
    from rich.text import Text

    from orchestrator.ablate import ablate as ablated
    from orchestrator.ablate import choice_lines
    from orchestrator.crew import Crew
    from orchestrator.run import run_sweep
    from results.location import followed
    from results.timeline import Timeline

    console = console_of_command()
    workers.join()
    options = workers.options()
    crew = Crew(options, workers.local, stays=True)

    def runner(prepared: Prepared, folder: Path) -> Experiment:
        console.print(Text.assemble((folder.name, "bold"), f": {len(prepared.spec.points)} grid points"))
        with followed(folder, teller(console)):  # a stage is an experiment that `saccade run` may write into too
            crew.timeline = Timeline()  # each is a run of its own
            experiment = run_sweep(prepared, folder, options, console, crew).experiment
            write_results(console, experiment)
        return experiment

    overrides = changes.by_place()
    with crew, followed(out, teller(console)) as folder:
        result = ablated(folder, sweep, overrides, runner)
    for choice in (result.heads, result.queries):
        for line in choice_lines(choice):
            console.print(line, soft_wrap=True)
    console.print(f"report: {result.report}", soft_wrap=True)


@command
def latency(
    sweep: Sweep,
    changes: Changes,
    out: Out = None,
    points: Points = None,
    images: Annotated[int, typer.Option(min=1, help="Questions with an image to measure on.")] = 5,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds that count.")] = 5,
    warmup: Annotated[int, typer.Option(min=0, help="Rounds before them.")] = 1,
    decode_tokens: Annotated[int, typer.Option(min=1, help="Tokens decoded after the first.")] = 16,
    benchmark: Annotated[
        str | None, typer.Option(help="Of a suite: measure on this one, with each model; by default on the first.")
    ] = None,
) -> None:
    """Measure grid points one at a time, with tokens really dropped; writes EXPERIMENT/latency.json."""
    from orchestrator.latency import chosen_points, write_latency
    from orchestrator.show import latency_text
    from results.location import followed

    console = console_of_command()
    rounds: dict[str, int] = {
        "images": images,
        "repeats": repeats,
        "warmup": warmup,
        "decode_tokens": decode_tokens,
    }
    for prepared, place in _measured(sweep, changes, out, benchmark):
        chosen = chosen_points(prepared.spec.points, points or ())
        count = (len(chosen) + 1) * images * (repeats + warmup)
        console.print(f"{len(chosen)} grid points and the un-pruned model: {count} measurements")
        with followed(place, teller(console)) as folder:
            path, rows = write_latency(prepared, folder, chosen, **rounds, progress=counter(console))
        typer.echo(latency_text(rows))
        console.print(f"medians of {images * repeats} measurements, in {path}", soft_wrap=True)


def _measured(sweep: str, changes: Changes, out: Path | None, benchmark: str | None) -> Iterator[tuple[Prepared, Path]]:
    """The sweep and its folder; of a suite one benchmark of each model."""
    from orchestrator.suite import one_a_model
    from orchestrator.sweep.suite import is_suite, load_suite

    if not is_suite(sweep):
        prepared = changes.prepared(sweep)
        yield prepared, out or prepared.default_out
        return
    suite = load_suite(sweep, changes.by_place())
    for one in one_a_model(suite, benchmark):
        yield one.prepared, (out or Path("experiments") / suite.name) / one.member.folder


@command
def calibrate(
    sweep: Sweep,
    changes: Changes,
    tokens: Annotated[
        list[int] | None, typer.Option(min=1, help="Visual tokens of a layer on average; repeatable. [192, 128, 64]")
    ] = None,
    questions: Annotated[int, typer.Option(min=1, help="How many questions to ask: the first with an image.")] = 32,
) -> None:
    """Find how many tokens `fitprune` drops in which layer of a model: prints lines for the grid of a sweep file."""
    from orchestrator.calibrate import calibrated

    def tried(share: float) -> None:
        typer.echo(f"a layer may lose {100 * share:.3g} % of the attention ...", err=True)

    for line in calibrated(changes.prepared(sweep), tokens or (192, 128, 64), questions, tried):
        typer.echo(line)


@command
def bench(context: typer.Context) -> None:
    """Time the shared engine beside real Hugging Face baselines in one process; `saccade bench --help` has options."""
    from workers.speed_test.bench import main as bench_main

    raise typer.Exit(bench_main(context.args))


@command
def doctor(
    changes: Changes,
    sweep: Annotated[
        str | None, typer.Argument(help="A sweep file, or a shipped sweep's name, to check as well.")
    ] = None,
    out: Out = None,
    gpu_memory: GpuMemory = None,
) -> None:
    """Say whether a sweep would run on this machine, and what to mend if not. Exit code 2 if something stops it."""
    from rich.text import Text

    from orchestrator.doctor import examine

    console = console_of_command()
    marks = {"ok": Text("ok  ", "green"), "note": Text("note", "yellow"), "stop": Text("STOP", "red")}
    load = None if sweep is None else lambda: changes.prepared(sweep)
    stopped = 0
    for check in examine(load, out, gpu_memory):
        stopped += check.mark == "stop"
        console.print(marks[check.mark], Text(check.what, "bold"), check.text, soft_wrap=True)
    if stopped:
        raise typer.Exit(USER_ERROR)
