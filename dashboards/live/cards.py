"""The page of the URL on the screen: its controls, a card for each panel, and what else it has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dash import ALL, Dash, Input, Output, State, dcc, html

from dashboards.captions import head
from dashboards.figures import CONFIG, repainted
from dashboards.gallery import Gallery, Snapshot
from dashboards.live.controls import components, offer, offered
from dashboards.live.downloads import menu
from dashboards.live.trees import light
from dashboards.pages.base import Page, Panel
from dashboards.pages.catalog import PAGES, asked, links, page_at
from dashboards.view import View


def content(page: Page, panels: Sequence[Panel], shown: View) -> list[Any]:
    """A card for each panel; words where there is none, and nothing else on the page."""
    cards = [_card(page, panel, shown) for panel in panels]
    return cards or ([] if page.extra(shown) else [_nothing(page, shown)])


def _card(page: Page, panel: Panel, shown: View) -> Any:
    name = panel.name
    parts: list[Any] = [menu(page, panel, shown), html.Div(head(panel, shown), id={"type": "head", "name": name})]
    if panel.figure is not None:
        figure = repainted(panel.figure, shown.ink)
        parts.append(
            dcc.Graph(
                id={"type": "graph", "name": name}, figure=figure, config=CONFIG,  # type: ignore[arg-type]
                style={"height": f"{figure['layout']['height']}px"},
            )
        )  # fmt: skip
    parts.append(html.P(panel.note, id={"type": "note", "name": name}, className="note", hidden=not panel.note))
    parts.append(html.Div(light(panel.below), id={"type": "below", "name": name}))
    return html.Section(parts, className="card wide" if panel.wide else "card", id=f"card-{name}")


def _nothing(page: Page, shown: View) -> Any:
    """Why a page is empty: the experiments, the filters, the answers, the grid; and the way out if there is one."""
    if not page.shown(shown.snapshot):
        return html.P(f"There is nothing to draw: {page.empty}.", className="nothing")
    if shown.pruned.empty and not shown.snapshot.rows["baseline"].all():
        parts: list[Any] = ["No configuration passes the filters. ", dcc.Link("Show all", href=page.link())]
        return html.P(parts, className="nothing")
    if not shown.pruned["n"].any():
        return html.P("Nothing is answered yet. This page fills by itself.", className="nothing")
    more: list[Any] = (
        [" ", dcc.Link("Show all", href=page.link())] if len(shown.rows) < len(shown.snapshot.rows) else []
    )
    return html.P([f"There is nothing to draw: {page.empty}.", *more], className="nothing")


def _unknown(path: str, snapshot: Snapshot, base: str) -> Any:
    pages = [page for page in PAGES if page.shown(snapshot)]
    ways: list[Any] = [part for page in pages for part in (" · ", dcc.Link(page.name, href=page.link(base=base)))][1:]
    return html.Div([html.P(f"There is no page {path}. There are:", dir="auto"), html.P(ways)], className="nothing")


def register(app: Dash, gallery: Gallery) -> None:
    @app.callback(
        Output("drawn", "data"),
        Output("controls", "children"),
        Output("panels", "children"),
        Output("extra", "children"),
        Output("heading", "children"),
        Output({"type": "nav", "path": ALL}, "className"),
        Input("url", "pathname"),
        Input("theme", "data"),
        State("url", "search"),
    )
    def draw(path: str, look: str, search: str) -> tuple[Any, Any, Any, Any, str, Any]:
        base = app.config.requests_pathname_prefix
        beside = f"{(path or '').rpartition('/')[0]}/" == base or f"{path}/" == base
        if path and not (beside and page_at(path)):  # until the URL is known it is None
            return None, [], [_unknown(path, gallery.snapshot, base)], [], "No such page", links(gallery.snapshot)
        page, shown = asked(gallery.snapshot, path, search, look)
        controls = offered(page, shown)
        return (
            offer(page, controls),
            components(controls, shown.state),
            content(page, page.panels(shown), shown),
            page.extra(shown),
            page.name,
            links(gallery.snapshot, page),
        )
