"""The live app: a page for each question, over one or several experiments, while they run.

Nothing is loaded from elsewhere, so it works offline, and nothing is served by path. It listens on this machine only
unless it is told otherwise, and answers only to the names of this machine: a web site cannot have its own name resolve
to us and read the results (DNS rebinding). Text from data is text: it reaches the page as a text node or in html.Pre.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Sequence
from importlib.resources import files
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import dash
import dash_ag_grid as dag
from dash import ALL, Dash, Input, Output, State, ctx, dash_table, dcc, html, no_update
from flask import Response

from dashboards import details, theme
from dashboards.board import Board, Snapshot
from dashboards.figures import CONFIG, Figure, as_page, repainted
from dashboards.pages.base import Control, Page, Panel
from dashboards.pages.catalog import PAGES
from dashboards.pages.parts import notices
from dashboards.trees import light
from dashboards.view import CONFIG as CONFIG_KEY
from dashboards.view import FILTERS, View, options, view
from dashboards.view import State as UrlState

REFRESH_S = 5
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
EAGER = ("async-graph", "async-dropdown", "async-slider", "async-community")
MARKS = 12  # of a slider; more would run into each other
LABELS = {
    "experiment": "Experiment", "strategy": "Strategy", "layer": "Layer", "rank": "Tokens kept", "alpha": "Alpha",
    "state": "State",
}  # fmt: skip


def create_app(board: Board, hosts: Sequence[str] = LOOPBACK, refresh_s: float = REFRESH_S) -> Dash:
    """Build the app.

    Args:
        board: What it shows.
        hosts: Names that requests may be addressed to.
        refresh_s: How often the pages ask for new data.
    """
    _load_on_demand()
    app = Dash(
        "saccade",
        title="Saccade",
        update_title="",
        assets_folder=str(files("dashboards") / "assets" / "app"),
        serve_locally=True,
        eager_loading=True,  # plotly.js, 5 MB, while the server draws, and not after
        suppress_callback_exceptions=True,  # panels come and go
        compress=False,
    )
    app.server.config["TRUSTED_HOSTS"] = list(hosts)
    app.server.after_request(_guard(app))
    app.layout = lambda: _layout(board, refresh_s)
    _callbacks(app, board)
    details.register(app, board)
    for page in PAGES:
        if page.register is not None:
            page.register(app, board)
    return app


def _load_on_demand() -> None:
    """Eager loading would fetch and parse 7 MB that no page uses: formulas, the grid's enterprise edition, tables."""
    for script in (*dcc._js_dist, *dag._js_dist, *dash_table._js_dist):  # type: ignore[attr-defined]
        name = script.get("relative_package_path") or ""
        if script.get("async") and not any(used in name for used in EAGER):
            script["async"] = "lazy"


def serve(paths: Sequence[Path], host: str, port: int, names: Sequence[str] = ()) -> None:
    """Serve until interrupted.

    Args:
        paths: Experiment directories.
        host: Address to listen on.
        port: 0 takes a free one.
        names: Further names that this machine is addressed by.

    Raises:
        StoreError: One of the paths is not an experiment.
        OSError: The port is taken.
    """
    from waitress import create_server

    board = Board(paths)
    app = create_app(board, trusted_hosts(host, names))
    threading.Thread(target=board.count_costs, daemon=True).start()  # takes seconds, and only one page needs it
    server = create_server(app.server, host=host, port=port, threads=8)
    shown = f"[{host}]" if ":" in host else host
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a page asks for several things at once, that is all
    print(f"http://{shown}:{server.effective_port}  (Ctrl-C ends it)", flush=True)
    server.run()


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def trusted_hosts(host: str, names: Sequence[str] = ()) -> tuple[str, ...]:
    """Names that requests may be addressed to, when listening on ``host``."""
    if is_loopback(host):
        return tuple(dict.fromkeys((*LOOPBACK, host, *names)))
    own = socket.gethostname()
    try:
        addresses = [str(info[4][0]) for info in socket.getaddrinfo(own, None)]
    except OSError:
        addresses = []
    anywhere = [] if host in ("0.0.0.0", "::") else [host]
    return tuple(dict.fromkeys((*LOOPBACK, *anywhere, own, socket.getfqdn(), *addresses, *names)))


def _guard(app: Dash) -> Any:
    """Headers with which the browser itself refuses what we do not mean to do: load from elsewhere, be framed."""

    def add(response: Response) -> Response:
        scripts = " ".join(app.csp_hashes())
        response.headers["Content-Security-Policy"] = (
            f"default-src 'self'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; "
            "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; "
            "base-uri 'none'; form-action 'none'"
        )
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    return add


# -- layout ---------------------------------------------------------------------------------------------------------


def _layout(board: Board, refresh_s: float) -> Any:
    snapshot = board.snapshot
    return html.Div(
        id="app",
        children=[
            dcc.Location(id="url", refresh=False),
            dcc.Interval(id="tick", interval=int(refresh_s * 1000)),
            dcc.Store(id="version", data=snapshot.version),
            dcc.Store(id="theme"),
            dcc.Store(id="drawn"),  # path of the page on the screen
            dcc.Store(id="zoomed"),  # which figures the reader has zoomed into
            dcc.Store(id="png"),
            dcc.Download(id="file"),
            html.Header(
                [
                    html.Span("Saccade", className="brand"),
                    html.Nav(
                        [
                            dcc.Link(page.name, href=page.path, id={"type": "nav", "path": page.path})
                            for page in PAGES
                        ]
                    ),
                    html.Span(id="as-of", className="as-of", children=_as_of(board)),
                    dcc.Checklist(
                        id="live", options=[{"label": "refresh", "value": "on"}], value=["on"], className="live",
                    ),
                    html.Button("dark", id="theme-button", n_clicks=0, title="light or dark"),
                ]
            ),
            html.Div(
                id="filters",
                children=[
                    html.Label(
                        [LABELS[name], _filter(snapshot, name)],
                        id={"type": "filter-box", "name": name},
                        hidden=_idle(snapshot, name),
                    )
                    for name in FILTERS
                ],
            ),
            html.Div(id="notices"),
            html.Div(id="controls"),
            html.Main(id="panels"),
            html.Aside(id="details"),
        ],
    )  # fmt: skip


def _filter(snapshot: Snapshot, name: str) -> dcc.Dropdown:
    return dcc.Dropdown(
        id={"type": "filter", "name": name}, options=_options(snapshot, name), multi=True, placeholder="all",
        debounce=True,
    )  # fmt: skip


def _options(snapshot: Snapshot, name: str) -> list[dict[str, str]]:
    return [{"label": value, "value": value} for value in options(snapshot.rows, name)]


def _idle(snapshot: Snapshot, name: str) -> bool:
    """A filter with nothing to choose from only takes room."""
    return len(options(snapshot.rows, name)) < 2


def _as_of(board: Board) -> str:
    return f"data as of {board.checked_at.astimezone():%H:%M:%S}"


def _control(control: Control, state: UrlState) -> Any:
    id = {"type": "control", "name": control.name}
    value = _shown(control, state)
    pairs = [{"label": text, "value": v} for text, v in zip(control.texts, control.values, strict=True)]
    if control.kind == "slider":
        step = -(-len(pairs) // MARKS)
        marks = {place: pair["label"] for place, pair in enumerate(pairs) if place % step == 0}
        field: Any = dcc.Slider(
            id=id, min=0, max=max(len(pairs) - 1, 0), step=1, marks=marks, value=value, included=False,
            allow_direct_input=False,
        )  # fmt: skip
        return html.Div([html.Span(control.label), field], className="control slider")
    if control.kind == "switch":
        field = dcc.Checklist(id=id, options=[{"label": control.label, "value": control.values[1]}], value=value)
        return html.Div(field, className="control switch")
    multi = control.kind == "choices"
    field = dcc.Dropdown(id=id, options=pairs, value=value, multi=multi, clearable=multi, debounce=True)
    return html.Label([control.label, field], className="control")


def _shown(control: Control, state: UrlState) -> Any:
    """A control's value as its component has it."""
    wanted = [value for value in state.all(control.name) if value in control.values] or list(control.default)
    if control.kind == "slider":
        return control.values.index(wanted[0]) if wanted else 0
    if control.kind == "switch":
        return [value for value in wanted if value == control.values[1]]
    return wanted if control.kind == "choices" else next(iter(wanted), None)


def _stated(control: Control, value: Any) -> list[str]:
    """A component's value as the URL has it; nothing for the default."""
    if control.kind == "slider":
        chosen = [control.values[int(value)]] if control.values else []
    elif control.kind == "switch":
        chosen = list(value or [control.values[0]])
    else:
        chosen = list(value or []) if control.kind == "choices" else [value] if value else []
    return [] if chosen == list(control.default) else chosen


def _card(panel: Panel, ink: theme.Ink) -> Any:
    name = panel.name
    tools = [
        html.Button(kind.upper(), id={"type": "save", "kind": kind, "name": name}, title=f"download as {kind.upper()}")
        for kind in (("csv", "png", "html") if panel.figure is not None else ("csv",))
    ]
    parts: list[Any] = [html.Div(tools, className="tools")]
    if panel.title:
        parts.append(html.H2(panel.title))
    if panel.figure is not None:
        figure = repainted(panel.figure, ink)
        parts.append(
            dcc.Graph(
                id={"type": "graph", "name": name}, figure=figure, config=CONFIG,  # type: ignore[arg-type]
                style={"height": f"{figure['layout']['height']}px"},
            )
        )  # fmt: skip
    parts.append(html.P(panel.note, id={"type": "note", "name": name}, className="note", hidden=not panel.note))
    parts.append(html.Div(light(panel.below), id={"type": "below", "name": name}))
    return html.Section(parts, className="card wide" if panel.wide else "card", id=f"card-{name}")


# -- callbacks ------------------------------------------------------------------------------------------------------


def page_of(path: str | None) -> Page:
    return next((page for page in PAGES if page.path == path), PAGES[0])


def _view(board: Board, search: str | None, look: str | None) -> View:
    return view(board.snapshot, UrlState.parse(search), theme.DARK if look == "dark" else theme.LIGHT)


def _panels(page: Page, shown: View) -> list[Panel]:
    return list(page.panels(shown)) if page.panels is not None else []


def _callbacks(app: Dash, board: Board) -> None:
    @app.callback(
        Output("url", "search"),
        Output({"type": "filter", "name": ALL}, "value"),
        Output({"type": "control", "name": ALL}, "value"),
        Input("url", "search"),
        Input({"type": "filter", "name": ALL}, "value"),
        Input({"type": "control", "name": ALL}, "value"),
        State("url", "pathname"),
    )
    def keep_in_url(search: str, filters: list[Any], controls: list[Any], path: str) -> tuple[Any, Any, Any]:
        """The bar and the controls follow the URL, and the URL follows them."""
        state = UrlState.parse(search)
        shown = _view(board, search, None)
        known = {control.name: control for control in page_of(path).controls(shown)}
        filter_ids, control_ids = ([spec["id"]["name"] for spec in specs] for specs in ctx.outputs_list[1:])
        if ctx.triggered_id in (None, "url"):
            return (
                no_update,
                [list(state.all(name)) for name in filter_ids],
                [_shown(known[name], state) if name in known else no_update for name in control_ids],
            )
        new = state
        for name, value in zip(filter_ids, filters, strict=True):
            new = new.with_(name, value)
        for name, value in zip(control_ids, controls, strict=True):
            if name in known:
                new = new.with_(name, _stated(known[name], value))
        unchanged = [no_update] * len(filter_ids), [no_update] * len(control_ids)
        return (new.search if set(new.values) != set(state.values) else no_update, *unchanged)

    @app.callback(
        Output("drawn", "data"),
        Output("controls", "children"),
        Output("panels", "children"),
        Output({"type": "nav", "path": ALL}, "className"),
        Input("url", "pathname"),
        Input("theme", "data"),
        State("url", "search"),
    )
    def draw(path: str, look: str, search: str) -> tuple[Any, Any, Any, Any]:
        """The page of the URL, whole."""
        page, shown = page_of(path), _view(board, search, look)
        return (
            page.path,
            [_control(control, shown.state) for control in page.controls(shown) if len(control.values) > 1],
            _content(page, shown),
            ["here" if other is page else "" for other in PAGES],
        )

    @app.callback(
        Output("notices", "children"),
        Output({"type": "nav", "path": ALL}, "href"),
        Input("url", "search"),
        Input("version", "data"),
    )
    def frame(search: str, _: str) -> tuple[Any, Any]:
        """What is the same on all pages."""
        shown = _view(board, search, None)
        carried = UrlState(tuple(pair for pair in shown.state.values if pair[0] in FILTERS)).search
        return notices(shown), [page.path + carried for page in PAGES]

    @app.callback(
        Output("version", "data"),
        Output("as-of", "children"),
        Input("tick", "n_intervals"),
        State("version", "data"),
        prevent_initial_call=True,
    )
    def look(_: int, version: str) -> tuple[Any, Any]:
        snapshot = board.poll()
        return no_update if snapshot.version == version else snapshot.version, _as_of(board)

    @app.callback(Output("tick", "disabled"), Input("live", "value"))
    def pause(live: list[str]) -> bool:
        return "on" not in (live or [])

    @app.callback(
        Output({"type": "graph", "name": ALL}, "figure"),
        Output({"type": "note", "name": ALL}, "children"),
        Output({"type": "below", "name": ALL}, "children"),
        Input("version", "data"),
        Input("url", "search"),
        State("url", "pathname"),
        State("drawn", "data"),
        State("theme", "data"),
        State("zoomed", "data"),
        prevent_initial_call=True,
    )
    def update(_: str, search: str, path: str, drawn: str, look: str, zoomed: dict[str, bool] | None) -> Any:
        """Other filters or new data into the figures that are there. New data leave alone what a reader zoomed into."""
        graphs, names, belows = ([spec["id"]["name"] for spec in specs] for specs in ctx.outputs_list)
        page, shown = page_of(path), _view(board, search, look)
        idle = [no_update] * len(graphs), [no_update] * len(names), [no_update] * len(belows)
        if page.panels is None or page.path != drawn:
            return idle
        panels = {panel.name: panel for panel in page.panels(shown)}
        if list(panels) != names or [name for name in panels if panels[name].figure is not None] != graphs:
            dash.set_props("panels", {"children": _content(page, shown)})
            return idle
        live = "url.search" not in ctx.triggered_prop_ids
        figures = [panels[name].figure for name in graphs]
        return (
            [
                patch(figure, shown.ink, zoomed=bool((zoomed or {}).get(name)))
                if live
                else repainted(figure, shown.ink)
                for name, figure in zip(graphs, figures, strict=True)
                if figure is not None
            ],
            [panels[name].note for name in names],
            [light(panels[name].below) for name in belows],
        )

    @app.callback(
        Output({"type": "filter", "name": ALL}, "options"),
        Output({"type": "filter-box", "name": ALL}, "hidden"),
        Input("version", "data"),
    )
    def offer(_: str) -> tuple[list[Any], list[bool]]:
        snapshot = board.snapshot
        return (
            [_options(snapshot, spec["id"]["name"]) for spec in ctx.outputs_list[0]],
            [_idle(snapshot, spec["id"]["name"]) for spec in ctx.outputs_list[1]],
        )

    @app.callback(
        Output("url", "search", allow_duplicate=True),
        Input({"type": "graph", "name": ALL}, "clickData"),
        State("url", "search"),
        prevent_initial_call=True,
    )
    def open_details(clicks: list[Any], search: str) -> Any:
        """A click on a point opens its configuration."""
        click = next((entry["value"] for entry in ctx.triggered if entry["value"]), None)
        chosen = clicked(click) if click else None
        return UrlState.parse(search).with_(CONFIG_KEY, chosen).search if chosen else no_update

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
        page, shown = page_of(path), _view(board, search, look)
        kind, name = ctx.triggered_id["kind"], ctx.triggered_id["name"]
        panel = next((panel for panel in _panels(page, shown) if panel.name == name), None)
        if panel is None:
            return no_update, no_update
        stem = f"{page.name}-{name}".lower().replace(" ", "-")
        if kind == "csv":  # the byte-order mark, because spreadsheets otherwise take UTF-8 for Latin-1
            text = "\ufeff" + panel.rows.to_csv(index=False, lineterminator="\n")
            return {"content": text, "filename": f"{stem}.csv", "type": "text/csv"}, no_update
        if panel.figure is None:
            return no_update, no_update
        if kind == "html":
            page_html = as_page(panel.figure, shown.ink)
            return {"content": page_html, "filename": f"{stem}.html", "type": "text/html"}, no_update
        return no_update, {"name": name, "file": stem}

    app.clientside_callback(
        dash.ClientsideFunction("saccade", "zoom"),
        Output("zoomed", "data"), Input({"type": "graph", "name": ALL}, "relayoutData"),
        State({"type": "graph", "name": ALL}, "id"), prevent_initial_call=True,
    )  # fmt: skip
    app.clientside_callback(
        dash.ClientsideFunction("saccade", "theme"),
        Output("theme", "data"), Output("theme-button", "children"), Input("theme-button", "n_clicks"),
    )  # fmt: skip
    app.clientside_callback(
        dash.ClientsideFunction("saccade", "png"),
        Output("png", "clear_data"), Input("png", "data"), prevent_initial_call=True,
    )  # fmt: skip


def clicked(click: dict[str, Any]) -> str | None:
    """The configuration under a click: ``customdata``, or its first entry."""
    data = click["points"][0].get("customdata")
    first = data[0] if isinstance(data, list) and data else data
    return first if isinstance(first, str) and first else None


def patch(figure: Figure, ink: theme.Ink, zoomed: bool) -> dash.Patch:
    """A figure's new data; its axes too, unless the reader has chosen a range."""
    new = repainted(figure, ink)
    change = dash.Patch()
    change["data"] = new["data"]
    parts = {"annotations", "shapes", "title", "height", "margin"}
    if not zoomed:
        parts |= {name for name in new["layout"] if name.startswith(("xaxis", "yaxis"))}
    for part in sorted(parts & set(new["layout"])):
        change["layout"][part] = new["layout"][part]
    return change


def _content(page: Page, shown: View) -> Any:
    if page.layout is not None:
        return page.layout(shown)
    cards = [_card(panel, shown.ink) for panel in _panels(page, shown)] or [_nothing(shown)]
    return [*cards, *([page.extra(shown)] if page.extra is not None else [])]


def _nothing(shown: View) -> Any:
    pruned = shown.snapshot.rows[~shown.snapshot.rows["baseline"]]
    text = (
        "No configuration passes the filters." if shown.pruned.empty and len(pruned)
        else "There is nothing to draw here: the grid does not vary what this page shows."
    )  # fmt: skip
    return html.P(text, className="nothing")
