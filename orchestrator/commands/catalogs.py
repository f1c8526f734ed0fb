"""Commands that say what there is to choose from: strategies and benchmarks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.commands.calling import command
from orchestrator.commands.options import Data, Scorer
from orchestrator.commands.shown import console_of_command
from orchestrator.standard_streams import USER_ERROR

CHECK = "check"


@command
def strategies(
    name: Annotated[
        str | None, typer.Argument(help="One of them, or ./FILE.py:NAME, to be shown in full; or `check`.")
    ] = None,
    rule: Annotated[str | None, typer.Argument(help="After `check`: what is to be tried.")] = None,
) -> None:
    """List the strategies that a sweep may name: what each reads, where it acts, its parameters, its source.

    `saccade strategies check ./FILE.py:NAME` tries a rule of your own, or one of ours, on the embedded model; exit code
    code 2 if it breaks a promise.
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
