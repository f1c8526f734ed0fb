"""Commands that say what there is to choose from: sweeps, strategies and benchmarks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.commands.calling import command
from orchestrator.commands.options import Data, Scorer, Shipped
from orchestrator.commands.shown import console_of_command
from orchestrator.standard_streams import USER_ERROR

CHECK = "check"


@command
def shipped() -> None:
    """List the sweeps and suites that come with saccade, and how many cells each has on the model in its file."""
    from orchestrator.sweep.source import SUITES, SWEEPS, headline, shipped_sweeps, shipped_text

    rows = [
        (name, kind.removesuffix("s"), headline(shipped_text(name)), _size(name))
        for kind in (SWEEPS, SUITES)
        for name in shipped_sweeps(kind)
    ]
    _print_table(("name", "kind", "what it asks", "cells"), rows)


@command
def show(name: Shipped) -> None:
    """Print a shipped sweep's file."""
    from orchestrator.sweep.source import shipped_text

    typer.echo(shipped_text(name), nl=False)


@command
def init(
    name: Shipped,
    file: Annotated[Path | None, typer.Argument(help="File to make; by default NAME.yaml, here.")] = None,
) -> None:
    """Copy a shipped sweep into a file of your own, to be changed."""
    from orchestrator.sweep.source import shipped_text
    from strategies.errors import UsageError

    text, place = shipped_text(name), file or Path(f"{name}.yaml")
    try:
        with place.open("x", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError as error:
        raise UsageError(f"{place}: is there already, and stays as it is; name another file") from error
    except OSError as error:
        raise UsageError(f"{place}: cannot be written: {error.strerror}") from error
    typer.echo(f"{place}; run it with: saccade run {place}")


def _size(name: str) -> str:
    """Cells of a shipped sweep on its own model; empty where that is not here."""
    from orchestrator.suite import prepare_suite
    from orchestrator.sweep.prepare import prepare
    from orchestrator.sweep.spec import load_sweep
    from orchestrator.sweep.suite import is_suite, load_suite
    from strategies.errors import SaccadeError

    try:
        if is_suite(name):
            found = [one.prepared for one in prepare_suite(load_suite(name))[0]]
        else:
            found = [prepare(load_sweep(name))]
    except SaccadeError:
        return ""
    return f"{sum(len(one.spec.points) * len(one.samples) for one in found):,}"


@command
def strategies(
    name: Annotated[
        str | None, typer.Argument(help="One of them, or ./FILE.py:NAME, to be shown in full; or `check`.")
    ] = None,
    rule: Annotated[str | None, typer.Argument(help="After `check`: what is to be tried.")] = None,
) -> None:
    """List the strategies that a sweep may name: what each reads, where it acts, its parameters, its source.

    `saccade strategies check ./FILE.py:NAME` tries a rule of your own, or one of ours, on the embedded model; exit code
    2 if it breaks a promise.
    """
    from orchestrator.listing import StrategyRow, every_strategy, in_full, strategy_rows
    from orchestrator.sweep.own_rules import rule_of
    from strategies.errors import UsageError

    if name == CHECK and rule is not None:
        from workers.contract import laboratory, promises
        from workers.embedded.location import DATA_DIR, MODEL_DIR

        _print_promises(promises(laboratory(MODEL_DIR, DATA_DIR), rule_of(rule, Path())))
    elif name == CHECK or rule is not None:
        raise UsageError(
            f"strategies {name}: write `saccade strategies`, `strategies NAME`, or `strategies check NAME`"
        )
    elif name is None:
        listed, notes = every_strategy()
        _print_table(StrategyRow._fields, strategy_rows(listed))
        _print_lines(("note", note) for note in notes)
    else:
        _print_lines(in_full(rule_of(name, Path())))


@command
def tasks(
    name: Annotated[
        str | None, typer.Argument(help="One of them, or ./FILE.py:NAME, to be shown in full; or `check`.")
    ] = None,
    task: Annotated[str | None, typer.Argument(help="After `check`: what is to be tried.")] = None,
    data: Data = None,
    scorer: Scorer = None,
) -> None:
    """List the benchmarks that a sweep may name: what each asks, which files it wants, which rules may judge it.

    `saccade tasks check ./FILE.py:NAME --data DIR` tries a benchmark of your own, or one of ours, on its files; exit
    code 2 if it breaks a promise.
    """
    from orchestrator.listing import TaskRow, every_task, task_in_full, task_rows
    from orchestrator.sweep.own_rules import task_of
    from orchestrator.sweep.spec import EMBEDDED
    from strategies.errors import UsageError
    from workers.embedded.location import DATA_DIR
    from workers.foreign import expanded
    from workers.tasks.contract import task_promises

    if name == CHECK and task is not None:
        folder = DATA_DIR if data == EMBEDDED else expanded(Path(data or "."))
        _print_promises(task_promises(task_of(task, Path()), str(folder.absolute()), {"scorer": scorer}))
    elif name == CHECK or task is not None:
        raise UsageError(f"tasks {name}: write `saccade tasks`, `tasks NAME`, or `tasks check NAME --data DIR`")
    elif name is None:
        listed, notes = every_task()
        _print_table(TaskRow._fields, task_rows(listed))
        _print_lines(("note", note) for note in notes)
    else:
        _print_lines(task_in_full(task_of(name, Path())))


def _print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_lines=True)
    for name in header:
        table.add_column(name, no_wrap=name == header[0], overflow="fold")
    for row in rows:
        table.add_row(*(cell.replace("`", "") for cell in row))
    console_of_command().print(table)


def _print_lines(lines: Iterable[tuple[str, str]]) -> None:
    """What it is called, and the text; a text without a name stands by itself."""
    console = console_of_command()
    for name, text in lines:
        console.print(f"{name}: {text.replace('`', '')}" if name else f"\n{text}", soft_wrap=True)


def _print_promises(promises: Iterable[tuple[str, str]]) -> None:
    """A line each: its text, and what is wrong."""
    from rich.text import Text

    console, broken = console_of_command(), False
    for text, fault in promises:
        mark = Text("FAIL", "red") if fault else Text("ok  ", "green")
        console.print(mark, f"{text}: {fault}" if fault else text, soft_wrap=True)
        broken |= bool(fault)
    if broken:
        raise typer.Exit(USER_ERROR)
