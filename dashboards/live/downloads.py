"""What a reader can take away of a panel: its numbers, its picture, and a page that needs nothing beside itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dash import ALL, ClientsideFunction, Dash, Input, Output, State, ctx, html, no_update

from dashboards.captions import ON_PAPER, PICTURES, command, origin
from dashboards.figures import as_page, repainted
from dashboards.gallery import Gallery
from dashboards.live.trees import spoken
from dashboards.pages.base import Page, Panel
from dashboards.pages.catalog import asked
from dashboards.theme import LIGHT
from dashboards.view import View


def menu(page: Page, panel: Panel, shown: View) -> Any:
    """What can be taken away of a panel, folded."""
    kinds = ("csv",) if panel.figure is None else ("csv", "svg", "png", "html")
    tools = _buttons(panel, kinds)
    words = command(page, panel, shown)
    said = [html.P(ON_PAPER), html.Code(words, id={"type": "command", "name": panel.name})]
    paper = html.Div([*said, html.Button("copy", className="copy")], hidden=not words) if panel.figure else None
    summary = html.Summary("Export", **spoken(f"export {panel.name}"))
    return html.Details([summary, html.Div([html.Div(tools, className="kinds"), paper])], className="export")


def _buttons(panel: Panel, kinds: Sequence[str]) -> list[Any]:
    return [
        html.Button(
            kind.upper(),
            id={"type": "save", "kind": kind, "name": panel.name},
            title=PICTURES.get(kind, f"download as {kind.upper()}"),
            **spoken(f"{kind.upper()} of {panel.name}"),
        )
        for kind in kinds
    ]


def register(app: Dash, gallery: Gallery) -> None:
    @app.callback(
        Output("file", "data"),
        Output("png", "data"),
        Input({"type": "save", "kind": ALL, "name": ALL}, "n_clicks"),
        State("url", "pathname"),
        State("url", "search"),
        State("theme", "data"),
        prevent_initial_call=True,
    )
    def save(clicks: list[int | None], path: str, search: str, look: str) -> tuple[Any, Any]:
        if not ctx.triggered_id or not ctx.triggered[0]["value"]:  # a panel has come, and nobody has clicked
            return no_update, no_update
        kind, name = ctx.triggered_id["kind"], ctx.triggered_id["name"]
        page, shown = asked(gallery.snapshot, path, search, look)
        panel = next((panel for panel in page.panels(shown) if panel.name == name), None)
        if panel is None or (panel.figure is None and kind != "csv"):
            return no_update, no_update
        stem = f"{page.name}-{name}".lower().replace(" ", "-")
        if kind == "png":  # the browser draws it
            return no_update, {"name": name, "file": stem}
        if kind == "svg":
            figure = repainted(panel.figure, LIGHT)
            return no_update, {"name": name, "file": stem, "figure": figure, "about": origin(panel, shown)}
        text = panel.csv if kind == "csv" else as_page(panel.figure, shown.ink)
        return {"content": text, "filename": f"{stem}.{kind}", "type": f"text/{kind}"}, no_update

    app.clientside_callback(
        ClientsideFunction("saccade", "picture"),
        Output("png", "clear_data"), Input("png", "data"), prevent_initial_call=True,
    )  # fmt: skip
