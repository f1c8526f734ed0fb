"""A against B: two methods on the same questions, at every layer and number of tokens that both have."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pandas as pd
from dash import html

from dashboards.figures import forest_figure
from dashboards.pages.base import Control, Page, Panel, faceted
from dashboards.pages.parts import scrolling
from dashboards.rows import CONTROL, MAX_FOREST, with_series
from dashboards.versus import versus_rows, with_mean_tokens
from dashboards.view import View
from dashboards.view import view as all_in_view
from results.analysis.matrix import stacked
from results.wording import count, p_value, percent, plural, points, points_span

QUESTIONS = "./samples"  # the page that lists them, beside this one
WON, LOST = "won", "lost"


def controls(view: View) -> list[Control]:
    names = _names(view)
    if len(names) < 2:
        return []
    first, second = _chosen(view, names)
    return [
        Control(name="first", label="A", kind="choice", values=names, default=[first]),
        Control(name="second", label="B", kind="choice", values=names, default=[second]),
    ]


def panels(view: View) -> list[Panel]:
    whole = all_in_view(view.snapshot, view.state)  # of every facet: the same two methods in each
    names = _names(whole)
    if len(names) < 2:
        return []
    asked = (view.state.get(name) for name in ("first", "second"))
    first, second = (one if one in names else usual for one, usual in zip(asked, _chosen(whole, names), strict=True))
    table = stacked([source.answers for source in view.sources]) if view.sources[1:] else view.sources[0].answers
    ids = [id for source in view.sources for id in source.summary["id"]]
    rows = versus_rows(with_series(with_mean_tokens(view.rows)), table, ids, first, second)
    if rows.empty:
        why = f"{first} and {second} have no layer and number of tokens in common that both have answered"
        return [Panel(name="versus", figure=None, rows=rows, note=why)]
    shown = rows.head(MAX_FOREST)
    labels = [f"{row['setting']}: {row['gained']} won, {row['lost']} lost" for row in shown.to_dict("records")]
    drawn = shown.assign(label=labels, id=[_questions(row, WON) for row in shown.to_dict("records")])
    figure = forest_figure(drawn, second).update_layout(
        title={"text": f"{first} against {second} (percentage points)".replace("<", "&lt;")}
    )
    return [
        Panel(
            name="versus",
            figure=figure,
            rows=rows,
            finding=_told(rows, first, second),
            note=_note(rows, first),
            below=_table(rows, first, second),
        )
    ]


def _told(rows: pd.DataFrame, first: str, second: str) -> str:
    sure = rows["significant"]
    better, worse = (int((sure & side).sum()) for side in (rows["difference"] > 0, rows["difference"] < 0))
    return (
        f"{first} is better than {second} at {count(better)} of {plural(len(rows), 'setting')}, worse at "
        f"{count(worse)}, and not to be told apart at the others (0.05 after Holm)."
    )


def _note(rows: pd.DataFrame, first: str) -> str:
    more = f" The first {MAX_FOREST} are shown, the CSV has all." if len(rows) > MAX_FOREST else ""
    return f"Won: {first} alone is right.{more}"


def _table(rows: pd.DataFrame, first: str, second: str) -> Any:
    names = ("setting", first, second, "difference", "95 %", "won", "lost", "p", "p Holm")
    body = []
    for row in rows.head(MAX_FOREST).to_dict("records"):
        links = [html.A(count(row[name]), href=_questions(row, way)) for name, way in (("gained", WON), ("lost", LOST))]
        change = points(row["difference"])
        difference = html.B(change) if row["significant"] else change
        span = points_span(row["diff_low"], row["diff_high"])
        accuracies = percent(row["accuracy"]), percent(row["partner_accuracy"])
        texts = (*accuracies, difference, span, *links, p_value(row["p"]), p_value(row["p_holm"]))
        body.append(html.Tr([html.Td(row["setting"]), *(html.Td(text, className="number") for text in texts)]))
    head = [html.Th(name, dir="auto", className="number" if place else "") for place, name in enumerate(names)]
    return scrolling(html.Table([html.Thead(html.Tr(head)), html.Tbody(body)]))


def _questions(row: Any, which: str) -> str:
    """The address that lists the questions which one of the two alone answers right."""
    owner, _, a = str(row["id"]).rpartition(":")
    asked = {"experiment": owner, "a": a, "b": str(row["partner"]), "duel": which}
    return f"{QUESTIONS}?{urlencode(asked)}"


def _names(view: View) -> list[str]:
    """All series, facet by facet."""
    named = [with_series(facet.rows)["series"].drop_duplicates() for facet in view.facets()]
    return list(dict.fromkeys(name for names in named for name in names))


def _chosen(view: View, names: list[str]) -> tuple[str, str]:
    """The best on average of those with several grid points, and the control, else the next best."""
    rows = with_series(view.facets()[0].rows)
    found = rows.groupby("series", sort=False)["difference"].agg(["count", "mean"])
    ranking = found.assign(one=found["count"] < 2).sort_values(["one", "mean"], ascending=[True, False], kind="stable")
    order = [str(name) for name in ranking.index] + [name for name in names if name not in ranking.index]
    control = next((str(name) for name in order if str(name).split(": ")[-1] == CONTROL), None)
    first = next(name for name in order if name != control)
    return first, control or next(name for name in order if name != first)


PAGE = Page(
    name="A against B",
    path="/versus",
    panels=faceted(panels),
    controls=controls,
    empty="two methods are compared here, and there is one",
)
