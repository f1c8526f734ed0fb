"""What there is to choose from, as tables: strategies and benchmarks, in the terminal and in the documents.

Both are made of the catalogs alone, so that what is listed there is listed here. ``python -m orchestrator.listing``
renews the tables of the documents, and a test says when that is due.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from strategies import catalog, own
from strategies.catalog import REQUIRED, Strategy
from strategies.limits import AtMostHeads, Range
from strategies.positions import Positions
from workers import evidence
from workers.json_file import read_text
from workers.sites import Site
from workers.tasks import answers
from workers.tasks import catalog as tasks
from workers.tasks import own as own_tasks
from workers.tasks.base import Task

DOCUMENTS = Path(__file__).parents[1] / "docs"
MANY = 4  # words of a choice that a table shows


class StrategyRow(NamedTuple):
    """One strategy as a line of the table."""

    name: str
    family: str
    reads: str
    acts: str
    parameters: str
    source: str


class TaskRow(NamedTuple):
    """One benchmark as a line of the table."""

    task: str
    asks: str
    files: str
    splits: str
    scorers: str
    figures: str


def every_strategy() -> tuple[list[Strategy], list[str]]:
    """Ours, and those of installed packages, which are imported; and a line for each of these that cannot be used."""
    found, notes = list(catalog.CATALOG.values()), own.collisions()
    for name in dict.fromkeys(point.name for point in own.packaged()):
        try:
            rule = own.from_package(name)
        except own.RuleError as error:
            notes.append(str(error))
        else:
            found += [] if rule is None else [rule]
    return found, notes


def every_task() -> tuple[list[Task], list[str]]:
    """Ours, and those of installed packages, which are imported; and a line for each of these that cannot be used."""
    found, notes = list(tasks.CATALOG.values()), own_tasks.collisions()
    for name in dict.fromkeys(point.name for point in own_tasks.packaged()):
        try:
            task = own_tasks.from_package(name)
        except own_tasks.TaskError as error:
            notes.append(str(error))
        else:
            found += [] if task is None else [task]
    return found, notes


def strategy_rows(strategies: Iterable[Strategy]) -> list[StrategyRow]:
    """In the order in which they are given."""
    return [
        StrategyRow(
            name=one.name,
            family=_family(one),
            reads=evidence.words(_needs(one)) or "nothing",
            acts=_acts(one),
            parameters="; ".join(f"{name}: {said}" for name, said in parameters(one, MANY)),
            source=one.source,
        )
        for one in strategies
    ]


def task_rows(listed: Iterable[Task]) -> list[TaskRow]:
    """In the order in which they are given."""
    return [
        TaskRow(f"`{one.name}`", one.asks, one.files, one.splits, ", ".join(f"`{s}`" for s in one.scorers), one.figures)
        for one in listed
    ]


def parameters(strategy: Strategy, many: int = sys.maxsize) -> list[tuple[str, str]]:
    """Name and admissible values of each, the default with them; of a choice of words the first ``many``."""
    hints = get_type_hints(strategy.function, include_extras=True)
    return [
        (
            name,
            _values(hints.get(name), many)
            + (", to be given" if default is REQUIRED else f", default {_word(default)}"),
        )
        for name, default in strategy.params.items()
    ]


def in_full(strategy: Strategy) -> list[tuple[str, str]]:
    """All that is known of a strategy: what, and in which words."""
    row, module = strategy_rows([strategy])[0], inspect.getmodule(strategy.function)
    lines = [("strategy", row.name), ("family", row.family), ("reads", row.reads), ("acts", row.acts)]
    lines += [(f"parameter {name}", said) for name, said in parameters(strategy)]
    lines += [("positions", _positions(strategy)), ("source", row.source), ("hash", strategy.source_hash)]
    return lines + [("", text) for what in (strategy.function, module) if (text := inspect.getdoc(what))]


def task_in_full(task: Task) -> list[tuple[str, str]]:
    """All that is known of a benchmark: what, and in which words."""
    lines = [pair for pair in zip(TaskRow._fields, task_rows([task])[0], strict=True) if pair[1]]
    own = {judge.__name__: judge for judge in task.judges}
    judges = ((name, own.get(name) or answers.SCORERS[name]) for name in task.scorers)
    lines += [(f"scorer {name}", (inspect.getdoc(judge) or "").partition("\n")[0]) for name, judge in judges]
    lines += [("usual split", task.split), ("headline", task.headline), ("source", task.source)]
    lines += [("hash", task.source_hash)]
    load = task.load.load if isinstance(task.load, own_tasks.Loading) else task.load
    load = load.func if isinstance(load, partial) else load
    told = (load, inspect.getmodule(load))
    return [pair for pair in lines if pair[1]] + [("", text) for what in told if (text := inspect.getdoc(what))]


def renewed(text: str) -> str:
    """A document with its tables as they are to be."""
    tables = {
        "strategies": _markdown(StrategyRow._fields, strategy_rows(catalog.CATALOG.values())),
        "tasks": _markdown(TaskRow._fields, task_rows(tasks.CATALOG.values())),
    }
    for name, table in tables.items():
        begin, end = f"<!-- {name}: made by `make docs` -->", f"<!-- end of {name} -->"
        block = f"{begin}\n{table}\n{end}"
        text = re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", block.replace("\\", r"\\"), text, flags=re.DOTALL)
    return text


def main() -> None:
    """Write the tables of the documents anew."""
    for file in sorted(DOCUMENTS.glob("*.md")):
        old = read_text(file)
        if (new := renewed(old)) != old:
            file.write_text(new, encoding="utf-8")
            print(f"{file.name}: renewed")


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [header, ["---"] * len(header), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _family(strategy: Strategy) -> str:
    if strategy.schedule is not None:
        return "stages"
    providers = [evidence.PROVIDERS[name.partition("@")[0]] for name in strategy.needs]
    if not providers:
        return "control"
    if any(one.site in (Site.TOWER, Site.QUESTION) for one in providers):
        return "vision tower"
    attends = any((one.layer_before and one.field) or one.layer_ahead for one in providers)
    return "attention" if attends else "features"


def _needs(strategy: Strategy) -> frozenset[str]:
    """What it reads, in any of its stages."""
    if strategy.schedule is None:
        return strategy.needs
    stages = strategy.stages(_first_layer(strategy), sys.maxsize, _said_nothing(strategy))
    return frozenset[str]().union(*(catalog.get(stage.strategy).needs for stage in stages))


def _positions(strategy: Strategy) -> str:
    """Its own way first, then what a grid entry may ask for instead."""
    own = _own_positions(strategy)
    keeps = catalog.keeps_places(strategy, _first_layer(strategy), sys.maxsize, _said_nothing(strategy))
    others = [one for one in get_args(Positions) if own != (one,) and (one != "keep" or keeps)]
    return " then ".join(own) + "".join(f", or {one}" for one in others)


def _own_positions(strategy: Strategy) -> tuple[Positions, ...]:
    return catalog.own_positions(strategy, _first_layer(strategy), sys.maxsize, _said_nothing(strategy))


def _first_layer(strategy: Strategy) -> int:
    return 0 if strategy.layers == "input" else 1


def _said_nothing(strategy: Strategy) -> dict[str, str]:
    """In place of the texts that a schedule has to be given."""
    return {name: "" for name, default in strategy.params.items() if default is REQUIRED}


def _acts(strategy: Strategy) -> str:
    needs = _needs(strategy)
    if strategy.layers == "input":
        acts = "layer 0"
    else:
        acts = "layer 1 or later" if evidence.reads_layer_before(needs) else "any layer"
    more = [
        (strategy.schedule is not None, "and again later"),
        (strategy.fixed_rank is not None, f"keeps {strategy.fixed_rank}"),
        (strategy.least > 1, f"keeps {strategy.least} at least"),
        (strategy.grids is not None, "keeps a smaller square"),
        (strategy.smaller, "shows the image with fewer pixels"),
        (strategy.merge is not None, "merges what goes"),
        (strategy.rows is not None, "makes rows of its own"),
        (_own_positions(strategy) == ("compact",), "positions renumbered"),
        (bool(strategy.draws), _draws(strategy)),
    ]
    return ", ".join([acts, *(words for so, words in more if so)])


def _draws(strategy: Strategy) -> str:
    how = "" if isinstance(strategy.draws, bool) else f" with {': '.join(strategy.draws)}"
    return f"draws for each {strategy.draws_per}{how}"


def _values(hint: Any, many: int) -> str:
    """Admissible values in a few words."""
    if get_origin(hint) is Annotated:
        kind, *limits = get_args(hint)
        range_ = next((limit for limit in limits if isinstance(limit, Range)), None)
        if range_ is None:
            return _values(kind, many)
        high = "H" if any(isinstance(limit, AtMostHeads) for limit in limits) else range_.high
        return f"{range_.low}..{'' if high is None else high}"
    if get_origin(hint) is Literal:
        words = get_args(hint)
        return " | ".join(map(_word, words[:many])) + (" | ..." if len(words) > many else "")
    return {bool: "true | false", int: "whole number", float: "number", str: "text"}.get(
        hint, getattr(hint, "__name__", "any")
    )


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
