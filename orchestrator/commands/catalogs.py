"""Commands that say what there is to choose from: strategies and benchmarks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

import typer

from orchestrator.commands.calling import command
from orchestrator.commands.shown import console_of_command


@command
def strategies(
    name: Annotated[str | None, typer.Argument(help="One of them, to be shown in full.")] = None,
) -> None:
    """List the strategies that a sweep may name: what each reads, where it acts, its parameters, its source."""
    from orchestrator.listing import StrategyRow, in_full, strategy_rows
    from strategies import catalog

    if name is None:
        _print_table(StrategyRow._fields, strategy_rows(catalog.CATALOG.values()))
    else:
        _print_lines(in_full(catalog.get(name)))


@command
def tasks(name: Annotated[str | None, typer.Argument(help="One of them, to be shown in full.")] = None) -> None:
    """List the benchmarks that a sweep may name: what each asks, which files it wants, which rules may judge it."""
    from orchestrator.listing import TaskRow, task_rows
    from workers.tasks import catalog

    if name is None:
        _print_table(TaskRow._fields, task_rows(catalog.CATALOG.values()))
    else:
        task = catalog.get(name)
        _print_lines([*zip(TaskRow._fields, task_rows([task])[0], strict=True), ("source", task.source)])


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
