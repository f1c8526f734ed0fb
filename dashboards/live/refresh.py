"""Other filters or new data into the figures that are drawn already, which is faster than drawing the page anew."""

from __future__ import annotations

from typing import Any

from dash import ALL, ClientsideFunction, Dash, Input, Output, Patch, State, ctx, no_update, set_props

from dashboards.captions import command, head
from dashboards.figures import Figure, repainted
from dashboards.gallery import Gallery
from dashboards.live.cards import content
from dashboards.live.controls import Offer, components, offer, offered
from dashboards.live.trees import light
from dashboards.pages.catalog import asked
from dashboards.theme import Ink


def register(app: Dash, gallery: Gallery) -> None:
    @app.callback(
        Output("panels", "children", allow_duplicate=True),  # also of a page that has no graph yet
        Output({"type": "graph", "name": ALL}, "figure"),
        Output({"type": "note", "name": ALL}, "children"),
        Output({"type": "below", "name": ALL}, "children"),
        Output({"type": "head", "name": ALL}, "children"),
        Output({"type": "command", "name": ALL}, "children"),
        Input("version", "data"),
        Input("url", "search"),
        State("url", "pathname"),
        State("drawn", "data"),
        State("theme", "data"),
        State("zoomed", "data"),
        prevent_initial_call=True,
    )
    def update(_: str, search: str, path: str, drawn: Offer | None, look: str, zoomed: dict[str, bool] | None) -> Any:
        """New data leave alone what a reader zoomed into; a filter draws it anew."""
        idle = [[no_update] * len(specs) for specs in ctx.outputs_list[1:]]
        page, shown = asked(gallery.snapshot, path, search, look)
        if drawn is None or page.path != drawn["path"]:
            return no_update, *idle
        controls = offered(page, shown)
        if (now := offer(page, controls)) != drawn:
            set_props("drawn", {"data": now})
            set_props("controls", {"children": components(controls, shown.state)})
        panels = page.panels(shown)
        figures = {panel.name: panel.figure for panel in panels if panel.figure is not None}
        on_screen = [[spec["id"]["name"] for spec in specs] for specs in ctx.outputs_list[1:3]]
        if not panels or [list(figures), [panel.name for panel in panels]] != on_screen:
            return content(page, panels, shown), *idle
        filtered = "url.search" in ctx.triggered_prop_ids
        return (
            no_update,
            [
                repainted(figure, shown.ink) if filtered
                else patch(figure, shown.ink, zoomed=bool((zoomed or {}).get(name)))
                for name, figure in figures.items()
            ],
            [panel.note for panel in panels],
            [light(panel.below) for panel in panels],
            [head(panel, shown) for panel in panels],
            [command(page, panel, shown) for panel in panels if panel.figure is not None],
        )  # fmt: skip

    app.clientside_callback(
        ClientsideFunction("saccade", "zoom"),
        Output("zoomed", "data"), Input({"type": "graph", "name": ALL}, "relayoutData"),
        State({"type": "graph", "name": ALL}, "id"), prevent_initial_call=True,
    )  # fmt: skip


def patch(figure: Figure, ink: Ink, zoomed: bool) -> Patch:
    """A figure's new data; its axes too, unless the reader has chosen a range."""
    new = repainted(figure, ink)
    change = Patch()
    change["data"] = new["data"]
    parts = {"annotations", "shapes", "title", "height", "margin"}
    if not zoomed:
        parts |= {name for name in new["layout"] if name.startswith(("xaxis", "yaxis"))}
    for part in sorted(parts & set(new["layout"])):
        change["layout"][part] = new["layout"][part]
    return change
