"""Rescued: of what a control gets wrong, how much each method gets right, and what stays right of un-pruned."""

from __future__ import annotations

from typing import Any

import pandas as pd
from dash import html

from dashboards.pages.base import Control, Page, Panel
from dashboards.pages.parts import MAX_ROWS as MAX_NUMBERS
from dashboards.pages.parts import scrolling
from dashboards.rescued import MAX_ROWS, rescue_figure, rescue_rows
from dashboards.view import CONFIG, View
from results.analysis.rescue import controls_of, rescue
from results.wording import count, percent, percent_span, plural


def controls(view: View) -> list[Control]:
    found = _controls(view)
    return [Control(name="control", label="held against", kind="choice", values=found)] if found else []


def panels(view: View) -> list[Panel]:
    """One for each experiment that has the control."""
    known = _controls(view)
    wanted = view.state.get("control")
    control = wanted if wanted in known else next(iter(known), "")
    found = []
    for source in view.sources:
        rows = rescue_rows(rescue(source.answers, control), view.rows[view.rows["experiment"] == source.name])
        if rows.empty:
            continue
        several = len(view.sources) > 1
        left = f"; the first {MAX_ROWS} of {count(len(rows))}" if len(rows) > MAX_ROWS else ""
        found.append(
            Panel(
                name=f"rescued-{source.name}" if several else "rescued",
                title=source.name if several else "",
                experiments=(source.name,),
                alone="rescued",
                figure=rescue_figure(rows.head(MAX_ROWS), control),
                rows=rows,
                note=f"each beside {control} with as many tokens, on the questions that both have answered{left}",
                below=_numbers(rows, view),
            )
        )
    return found


def _controls(view: View) -> list[str]:
    """Of all experiments in view."""
    return list(dict.fromkeys(name for source in view.sources for name in controls_of(source.answers.points)))


def _numbers(rows: pd.DataFrame, view: View) -> Any:
    """The numbers under the picture, folded."""
    names = ["configuration", "held against", "wrong", "rescued", "share", "95 %", "random", "un-pruned",
             "right", "retained", "share", "95 %"]  # fmt: skip
    body = []
    for row in rows.head(MAX_NUMBERS).to_dict("records"):
        texts = (
            count(row["wrong"]), count(row["rescued"]), percent(row["rescue"]),
            percent_span(row["rescue_low"], row["rescue_high"]), percent(row["floor"]), percent(row["ceiling"]),
            count(row["right"]), count(row["retained"]), percent(row["retain"]),
            percent_span(row["retain_low"], row["retain_high"]),
        )  # fmt: skip
        link = html.A(row["label"], href=view.state.with_(CONFIG, row["id"]).search or "?")
        cells = [html.Td(link, dir="auto"), html.Td(row["control"], dir="auto")]
        body.append(html.Tr([*cells, *(html.Td(text, className="number") for text in texts)]))
    head = html.Tr([html.Th(name, className="number" if place > 1 else "") for place, name in enumerate(names)])
    table = scrolling(html.Table([html.Thead(head), html.Tbody(body)]))
    shown = plural(min(len(rows), MAX_NUMBERS), "configuration")
    return html.Details([html.Summary(f"numbers of {shown}"), table])


PAGE = Page(
    name="Rescued",
    path="/rescued",
    panels=panels,
    controls=controls,
    empty="no two strategies here keep equally many tokens, so that one could be held against the other",
)
