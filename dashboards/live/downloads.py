"""What a reader can take away of a panel: its numbers, its picture, and a page that needs nothing beside itself."""

from __future__ import annotations

from typing import Any

from dash import ALL, ClientsideFunction, Dash, Input, Output, State, ctx, html, no_update

from dashboards.figures import as_page
from dashboards.gallery import Gallery
from dashboards.live.trees import spoken
from dashboards.pages.base import Panel
from dashboards.pages.catalog import asked


def buttons(panel: Panel) -> Any:
    kinds = ("csv",) if panel.figure is None else ("csv", "png", "html")
    tools = [
        html.Button(
            kind.upper(),
            id={"type": "save", "kind": kind, "name": panel.name},
            title=f"download as {kind.upper()}",
            **spoken(f"{kind.upper()} of {panel.name}"),
        )
        for kind in kinds
    ]
    return html.Div(tools, className="tools")


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
        if not any(clicks) or not ctx.triggered_id:
            return no_update, no_update
        kind, name = ctx.triggered_id["kind"], ctx.triggered_id["name"]
        page, shown = asked(gallery.snapshot, path, search, look)
        panel = next((panel for panel in page.panels(shown) if panel.name == name), None)
        if panel is None or (panel.figure is None and kind != "csv"):
            return no_update, no_update
        stem = f"{page.name}-{name}".lower().replace(" ", "-")
        if kind == "png":  # the browser draws it
            return no_update, {"name": name, "file": stem}
        text = panel.csv if kind == "csv" else as_page(panel.figure, shown.ink)
        return {"content": text, "filename": f"{stem}.{kind}", "type": f"text/{kind}"}, no_update

    app.clientside_callback(
        ClientsideFunction("saccade", "png"),
        Output("png", "clear_data"), Input("png", "data"), prevent_initial_call=True,
    )  # fmt: skip
