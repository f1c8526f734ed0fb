"""The drawer at the side: all numbers of the configuration under a click, and the questions whose answer it flips."""

from __future__ import annotations

from typing import Any

import pandas as pd
from dash import ALL, Dash, Input, Output, State, ctx, dcc, html, no_update, set_props

from dashboards.gallery import Gallery, Source
from dashboards.live.trees import spoken
from dashboards.rows import flipped
from dashboards.view import CONFIG
from dashboards.view import State as UrlState
from results.wording import (
    MISSING,
    count,
    number,
    p_value,
    percent,
    percent_span,
    plural,
    points,
    points_span,
    shortened,
)

MAX_FLIPS = 12


def register(app: Dash, gallery: Gallery) -> None:
    """Open and close the drawer as the URL says."""

    @app.callback(Output("details", "children"), Output("details", "className"), Input("url", "search"))
    def show(search: str) -> tuple[Any, str]:
        state = UrlState.parse(search)
        found = gallery.snapshot.find(state.get(CONFIG))
        return (None, "") if found is None else (drawer(*found, state), "open")

    @app.callback(
        Output("url", "search", allow_duplicate=True),
        Input({"type": "graph", "name": ALL}, "clickData"),
        State("url", "search"),
        State("url", "pathname"),
        prevent_initial_call=True,
    )
    def choose(clicks: list[Any], search: str, path: str) -> Any:
        click = next((entry["value"] for entry in ctx.triggered if entry["value"]), None)
        chosen = clicked(click) if click else None
        if chosen and chosen.startswith("./"):  # another page, beside this one
            page, _, asked = chosen.removeprefix("./").partition("?")
            set_props("url", {"pathname": f"{path.rpartition('/')[0]}/{page}", "search": f"?{asked}"})
            return no_update
        return UrlState.parse(search).with_(CONFIG, chosen).search if chosen else no_update

    @app.callback(
        Output("url", "search", allow_duplicate=True),
        Input("details-close", "n_clicks"),
        State("url", "search"),
        prevent_initial_call=True,
    )
    def close(clicks: int | None, search: str) -> Any:
        return UrlState.parse(search).with_(CONFIG, None).search if clicks else no_update


def clicked(click: dict[str, Any]) -> str | None:
    """The configuration under a click: ``customdata``, or its first entry."""
    data = click["points"][0].get("customdata")
    first = data[0] if isinstance(data, list) and data else data
    return first if isinstance(first, str) and first else None


def drawer(source: Source, row: pd.Series, state: UrlState) -> list[Any]:
    """Numbers, and flips with both answers."""
    facts = facts_of(row)
    return [
        html.Button("×", id="details-close", title="close", **spoken("close")),
        html.H2(row["label"], dir="auto"),
        html.P(f"{source.name} · {row['status']}", className="note", dir="auto"),
        html.Dl([part for name, value in facts for part in (html.Dt(name), html.Dd(value))]),
        *([html.P(row["flags"], className="notice")] if row["flags"] else []),
        *_flips(source, row),
    ]


def facts_of(row: pd.Series) -> list[tuple[str, str]]:
    """What there is to say of a configuration in numbers."""
    asked = "" if row["n"] == row["n_expected"] else f" of {count(row['n_expected'])}"
    about = "" if row["n_images"] == row["n"] else f", about {plural(row['n_images'], 'image')}"
    facts = [
        ("accuracy", percent(row["accuracy"])),
        (f"95 % interval ({row['interval']})", percent_span(row["ci_low"], row["ci_high"])),
        ("answers", f"{count(row['n'])}{asked}{about}"),
    ]
    if row["no_option"] > 0:
        facts.append(("answers without an option", percent(row["no_option"])))
    if row["failed"]:
        facts.append(("failed samples", count(row["failed"])))
    if not row["baseline"] and pd.notna(row["difference"]):
        facts += [
            ("change to the un-pruned model", f"{points(row['difference'])} points"),
            (f"95 % interval ({row['diff_interval']})", points_span(row["diff_low"], row["diff_high"])),
            ("relative drop", f"{number(row['relative_drop'])}\u00a0%"),
            ("right answers lost, gained", f"{count(row['lost'])}, {count(row['gained'])}"),
            (f"p ({row['test']})", p_value(row["p"])),
            ("p after Holm", p_value(row["p_holm"])),
        ]
    return facts


def _flips(source: Source, row: pd.Series) -> list[Any]:
    if row["baseline"]:
        return []
    lost, gained = flipped(source.answers, row["key"])
    if not lost and not gained:
        return [html.P("No answer flips against the un-pruned model.", className="note")]
    base = source.summary.loc[source.summary["baseline"], "key"].iloc[0]
    shown = (lost[: MAX_FLIPS - min(len(gained), MAX_FLIPS // 3)] + gained)[:MAX_FLIPS]
    cells = source.experiment.cells(["point", "sample", "answer"], points=[base, row["key"]], samples=shown)
    said = cells.pivot(index="sample", columns="point", values="answer").reindex(columns=[base, row["key"]])
    questions = source.experiment.samples.set_index("id")
    body = [
        html.Tr(
            [
                html.Td(dcc.Link(sample, href=sample_link(source.name, sample, row)), dir="auto"),
                html.Td("lost" if sample in lost else "gained", className="lost" if sample in lost else "gained"),
                html.Td(shortened(str(questions.at[sample, "question"]), 90), dir="auto"),
                html.Td(str(questions.at[sample, "label"])),
                html.Td(html.Pre(_said(said, sample, base), dir="auto")),
                html.Td(html.Pre(_said(said, sample, row["key"]), dir="auto")),
            ]
        )
        for sample in shown
    ]
    head = html.Tr([html.Th(name) for name in ("sample", "", "question", "right", "un-pruned", "pruned")])
    total = f"{plural(len(lost), 'right answer')} lost, {count(len(gained))} gained"
    more = f"; {len(shown)} of them here" if len(lost) + len(gained) > len(shown) else ""
    return [html.H3(total + more), html.Table([html.Thead(head), html.Tbody(body)])]


def sample_link(experiment: str, sample: str, row: pd.Series) -> str:
    """Where the sample explorer shows a sample as a configuration saw it."""
    values = (("experiment", experiment), ("sample", sample), (CONFIG, row["id"]))
    return "./samples" + UrlState(values).search


def _said(said: pd.DataFrame, sample: str, key: str) -> str:
    value = said[key].get(sample)
    return MISSING if value is None or pd.isna(value) else shortened(str(value), 120)
