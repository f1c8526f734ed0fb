"""Benchmarks: the papers' table of a suite, method and budget by benchmark, with printed figures beside ours."""

from __future__ import annotations

from dataclasses import replace

from dash import html

from dashboards.benchmark_means import means_figure
from dashboards.benchmarks import findings, table_html
from dashboards.pages.base import Control, Page, Panel
from dashboards.view import CONFIG, View, once
from results.analysis.benchmark_table import CANNOT, BenchmarkTable, Row, benchmark_table
from results.analysis.by_model import by_model
from results.analysis.published import lineages_of
from results.analysis.suite_table import with_asked
from results.exchange.benchmark_text import long_rows
from results.literature import LINEAGES
from results.suites import Results
from workers.work import UNPRUNED

ALL, NOBODY, NOTHING = "all", "none", "none"
LEGEND = (
    "bold: best of its budget, underlined: second, each only where that is so beyond chance; small: percent of the "
    "un-pruned model's figure, and 95 % intervals (paired bootstrap over images)"
)


def results(view: View) -> list[Results]:
    """The experiments in view, as the table takes them."""
    return [
        Results(
            model=source.opened.model,
            benchmark=source.opened.benchmark or source.name,
            experiment=source.experiment,
            answers=source.answers,
            costed=source.costed,
        )
        for source in view.sources
    ]


def table_of(view: View) -> BenchmarkTable:
    """What `saccade table` prints of the experiments in view, with what the controls ask for."""
    against, printed = _against(view), _printed(view)
    found, cost = results(view), view.state.get("cost") == "on"
    names = tuple(source.name for source in view.sources)
    left_out = view.snapshot.left_out
    base = once(
        view.snapshot, ("benchmarks", names, against), lambda: benchmark_table(found, against or None, left_out)
    )
    return once(
        view.snapshot,
        ("benchmarks", names, against, printed, cost),
        lambda: with_asked(base, found, published=printed or None, cost=cost),
    )


def _against(view: View) -> str:
    wanted = view.state.get("against")
    return wanted if wanted in _strategies(view) else ""


def _printed(view: View) -> str:
    known = lineages_of(results(view))
    wanted = view.state.get("printed")
    return wanted if wanted in known else "" if wanted == NOTHING else next(iter(known), "")


def _strategies(view: View) -> list[str]:
    points = (point for source in view.sources for point in source.experiment.points)
    return list(dict.fromkeys(point.strategy for point in points if point.strategy != UNPRUNED))


def controls(view: View) -> list[Control]:
    if not view.snapshot.is_suite:
        return []
    found = [_budgets(view)]
    rivals = _strategies(view)
    found.append(
        Control(
            name="against", label="held against", kind="choice", values=[NOBODY, *rivals], labels=["nobody", *rivals]
        )
    )
    if known := lineages_of(results(view)):
        found.append(
            Control(
                name="printed", label="beside the literature", kind="choice", values=[*known, NOTHING],
                labels=[*(f"{name}: {LINEAGES[name].origin}" for name in known), "nothing"],
            )
        )  # fmt: skip
    found.append(Control(name="cost", label="costs", kind="switch", values=["off", "on"]))
    if len({source.opened.model for source in view.sources}) > 1:
        found.append(
            Control(
                name="columns", label="columns", kind="choice", values=["benchmarks", "models"],
                labels=["benchmarks", "models, each with its mean"],
            )
        )  # fmt: skip
    return found


def _budgets(view: View) -> Control:
    names = [name for name in dict.fromkeys(row.budget for row in table_of(view).rows) if name and name != CANNOT]
    return Control(name="budget", label="budget", kind="choice", values=[ALL, *names], labels=["all", *names])


def panels(view: View) -> list[Panel]:
    if not view.snapshot.is_suite:
        return []
    whole = _filtered(table_of(view), view)
    table, said = whole, findings(_at_budget(whole, view))
    if view.state.get("columns") == "models" and len({row.model for row in whole.rows}) > 1:
        table, said = by_model(whole), []
    table = _at_budget(table, view)
    below = [
        *(html.P(line, className="finding", dir="auto") for line in said),
        table_html(table, _against(view), lambda row, column: _address(view, row, column)),
        *(html.P(note, className="note", dir="auto") for note in (LEGEND, *table.notes)),
    ]
    return [Panel(name="means", figure=means_figure(whole), rows=long_rows(table), below=below)]


def _filtered(table: BenchmarkTable, view: View) -> BenchmarkTable:
    """The rows that the filter bar lets through; what is marked is so among all."""
    keys = set(view.rows["key"])
    return replace(table, rows=tuple(row for row in table.rows if not row.key or row.key in keys))


def _at_budget(table: BenchmarkTable, view: View) -> BenchmarkTable:
    """The rows of the budget that is asked for, and those of none."""
    budget = view.state.get("budget")
    if budget not in {row.budget for row in table.rows} - {""}:
        return table
    return replace(table, rows=tuple(row for row in table.rows if row.budget in ("", CANNOT, budget)))


def _address(view: View, row: Row, column: str) -> str | None:
    """The details of a row's configuration on the benchmark of a column."""
    for source in view.sources:
        named = source.opened.benchmark or source.name
        if source.opened.model == row.model and (column == named or column.startswith(f"{named} ")):
            return view.state.with_(CONFIG, f"{source.name}:{row.key}").search
    return None


PAGE = Page(
    name="Benchmarks",
    path="/benchmarks",
    shown=lambda snapshot: snapshot.is_suite,
    printed=False,
    panels=panels,
    controls=controls,
    empty="no suite is open here, whose table this would be",
)
