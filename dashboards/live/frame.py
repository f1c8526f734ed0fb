"""What stands around every page: navigation, the filter bar, notices, and the watch for new data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dash import ALL, ClientsideFunction, Dash, Input, Output, State, ctx, dcc, html, no_update, set_props

from dashboards.gallery import Gallery, Snapshot
from dashboards.live.trees import spoken
from dashboards.pages.catalog import PAGES
from dashboards.pages.catalog import links as looks_of
from dashboards.pages.parts import notices
from dashboards.view import State as UrlState
from dashboards.view import filters_of, options, view


def layout(gallery: Gallery, refresh_s: float) -> Any:
    return html.Div(
        id="app",
        children=[
            dcc.Location(id="url", refresh=False),
            dcc.Interval(id="tick", interval=int(refresh_s * 1000)),
            dcc.Store(id="version", data=gallery.snapshot.version),
            dcc.Store(id="theme"),
            dcc.Store(id="drawn"),  # see `controls.offer`
            dcc.Store(id="zoomed"),  # which figures the reader has zoomed into
            dcc.Store(id="png"),
            dcc.Download(id="file"),
            _header(gallery, refresh_s),
            _region("filters", "filters", _filters(gallery.snapshot)),
            _region("notices", "notices"),
            _region("controls", "settings of this page"),
            html.Main(
                [
                    html.H1(id="heading", className="heard"),  # the navigation shows it
                    html.Div(id="panels"),
                    html.Div(id="extra"),  # outlives other panels
                ]
            ),
            _region("details", "configuration", kind=html.Aside),
        ],
    )


def _region(id: str, name: str, children: Sequence[Any] = (), kind: Any = html.Section) -> Any:
    """A part of the page that can be gone to by its name."""
    return kind(id=id, children=list(children), tabIndex=-1, **spoken(name))


def _header(gallery: Gallery, refresh_s: float) -> Any:
    patience: dict[str, Any] = {"data-patience": 4 * refresh_s}  # seconds until a silent server is one that is gone
    links = [
        dcc.Link(page.name, href=page.link(), id={"type": "nav", "path": page.path}, className=look)
        for page, look in zip(PAGES, looks_of(gallery.snapshot), strict=True)
    ]
    return html.Header(
        [
            html.Span("Saccade", className="brand"),
            html.Nav(links, **spoken("pages")),
            html.Span(id="as-of", className="as-of", children=_as_of(gallery), **patience),
            dcc.Checklist(id="live", options=[{"label": "refresh", "value": "on"}], value=["on"], className="live"),
            html.Button("dark", id="theme-button", n_clicks=0, title="light or dark"),
        ]
    )


def _filters(snapshot: Snapshot) -> list[Any]:
    return [_filter(snapshot, *each) for each in filters_of(snapshot.rows).items()]


def _filter(snapshot: Snapshot, name: str, title: str) -> Any:
    values = options(snapshot.rows, name)
    field = dcc.Dropdown(
        id={"type": "filter", "name": name}, options=values, multi=True, placeholder="all", debounce=True,
    )  # fmt: skip
    return html.Label([title, field], id={"type": "filter-box", "name": name}, hidden=_idle(values))


def _idle(values: list[str]) -> bool:
    """A filter with nothing to choose from only takes room."""
    return len(values) < 2


def _as_of(gallery: Gallery) -> str:
    return f"data as of {gallery.checked_at.astimezone():%H:%M:%S}"


def register(app: Dash, gallery: Gallery) -> None:
    @app.callback(
        Output("version", "data"),
        Output("as-of", "children"),
        Input("tick", "n_intervals"),
        State("version", "data"),
        prevent_initial_call=True,
    )
    def look(_: int, version: str) -> tuple[Any, Any]:
        snapshot = gallery.poll()
        return no_update if snapshot.version == version else snapshot.version, _as_of(gallery)

    @app.callback(Output("tick", "disabled"), Input("live", "value"))
    def pause(live: list[str]) -> bool:
        return "on" not in (live or [])

    @app.callback(
        Output("notices", "children"),
        Output({"type": "nav", "path": ALL}, "href"),
        Input("url", "search"),
        Input("version", "data"),
    )
    def follow(search: str, _: str) -> tuple[Any, Any]:
        """What is said of the rows in view, and links that carry the filters to the other pages."""
        shown = view(gallery.snapshot, UrlState.parse(search))
        base = app.config.requests_pathname_prefix  # a reader at an address that never was is not beside the pages
        return notices(shown), [page.link(shown.state.filters.search, base) for page in PAGES]

    @app.callback(
        Output({"type": "filter", "name": ALL}, "options"),
        Output({"type": "filter-box", "name": ALL}, "hidden"),
        Input("version", "data"),
    )
    def offer(_: str) -> tuple[list[Any], list[Any]]:
        """New values of the filters that there are; others where a parameter has come to vary."""
        rows, drawn = gallery.snapshot.rows, [spec["id"]["name"] for spec in ctx.outputs_list[0]]
        if drawn != list(filters_of(rows)):
            set_props("filters", {"children": _filters(gallery.snapshot)})
            return [no_update] * len(drawn), [no_update] * len(drawn)
        found = [options(rows, name) for name in drawn]
        return found, [_idle(values) for values in found]

    app.clientside_callback(
        ClientsideFunction("saccade", "theme"),
        Output("theme", "data"), Output("theme-button", "children"), Input("theme-button", "n_clicks"),
    )  # fmt: skip
