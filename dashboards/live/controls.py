"""The settings of a page and of the filter bar: as the URL has them, as their components have them, and in step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dash import ALL, Dash, Input, Output, State, ctx, dcc, html, no_update

from dashboards.gallery import Gallery
from dashboards.pages.base import Control, Page
from dashboards.pages.catalog import asked
from dashboards.view import State as UrlState
from dashboards.view import View
from workers.work import content_key

MARKS = 12  # of a slider; more would run into each other
Offer = dict[str, Any]  # what is on the screen, for the browser to keep: see `offer`


def offered(page: Page, shown: View) -> list[Control]:
    """The controls of a page that leave a choice."""
    return [control for control in page.controls(shown) if len(control.values) > 1]


def offer(page: Page, controls: Sequence[Control]) -> Offer:
    """The page's path, what its controls offer as a key, and the values behind the places of each slider.

    The browser sends it along with every request, and a control may offer thousands of names: hence the key.
    """
    values = {control.name: list(control.values) for control in controls}
    sliders = {control.name: values[control.name] for control in controls if control.kind == "slider"}
    return {"path": page.path, "key": content_key(values), "sliders": sliders}


def components(controls: Sequence[Control], state: UrlState) -> list[Any]:
    return [_component(control, state) for control in controls]


def _component(control: Control, state: UrlState) -> Any:
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
    wanted = [value for value in state.all(control.name) if value in control.values] or control.preset
    if control.kind == "slider":
        return control.values.index(wanted[0]) if wanted else 0
    if control.kind == "switch":
        return [value for value in wanted if value == control.values[1]]
    return wanted if control.kind == "choices" else next(iter(wanted), None)


def _stated(control: Control, value: Any, offered: Sequence[str]) -> list[str]:
    """A component's value as the URL has it; nothing for the preset.

    Args:
        value: Of a slider a place among the values that it was drawn with, which may have changed since.
        offered: Those values.
    """
    if control.kind == "slider":
        chosen = [offered[int(value)]] if int(value) < len(offered) else control.preset
    elif control.kind == "switch":
        chosen = list(value or [control.values[0]])
    else:
        chosen = list(value or []) if control.kind == "choices" else [value] if value else []
    return [] if chosen == control.preset else chosen


def register(app: Dash, gallery: Gallery) -> None:
    @app.callback(
        Output("url", "search"),
        Output({"type": "filter", "name": ALL}, "value"),
        Output({"type": "control", "name": ALL}, "value"),
        Input("url", "search"),
        Input({"type": "filter", "name": ALL}, "value"),
        Input({"type": "control", "name": ALL}, "value"),
        State("url", "pathname"),
        State("drawn", "data"),
    )
    def keep_in_url(
        search: str, filters: list[Any], values: list[Any], path: str, drawn: Offer | None
    ) -> tuple[Any, Any, Any]:
        """The bar and the controls follow the URL, and the URL follows them."""
        page, shown = asked(gallery.snapshot, path, search)
        known = {control.name: control for control in page.controls(shown)}
        bar, names = ([spec["id"]["name"] for spec in specs] for specs in ctx.outputs_list[1:])
        if ctx.triggered_id in (None, "url"):
            return (
                no_update,
                [list(shown.state.all(name)) for name in bar],
                [_shown(known[name], shown.state) if name in known else no_update for name in names],
            )
        new = shown.state
        for name, value in zip(bar, filters, strict=True):
            new = new.with_(name, value)
        for name, value in zip(names, values, strict=True):
            if name in known:
                new = new.with_(name, _stated(known[name], value, (drawn or {}).get("sliders", {}).get(name, ())))
        changed = set(new.values) != set(shown.state.values)
        return new.search if changed else no_update, [no_update] * len(filters), [no_update] * len(names)
