"""Dash components as HTML text, so that a page of the app can be read without the app.

Only elements that stand for themselves: what needs the app to act (tables with filters, buttons, stores) is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

from dash.development.base_component import Component

ATTRIBUTES = {"className": "class", "dir": "dir", "title": "title", "colSpan": "colspan", "rowSpan": "rowspan",
              "open": "open", "hidden": "hidden", "tabIndex": "tabindex", "dateTime": "datetime"}  # fmt: skip
LEFT_OUT = ("Button", "Input", "Script", "Iframe", "ObjectEl", "Embed", "Form", "Style", "Link", "Meta", "Base")
ELEMENTS = "dash_html_components"
Links = Callable[[str], str | None]


def static_html(component: Any, links: Links = lambda address: None) -> str:
    """HTML of a component, of a text, or of a list of them.

    Args:
        component: From a page's panel; None gives nothing.
        links: Where an address of the app leads in these pages; None: nowhere, and only the words are kept.
    """
    if component is None or isinstance(component, bool):
        return ""
    if isinstance(component, list | tuple):
        return "".join(static_html(part, links) for part in component)
    if not isinstance(component, Component):
        return escape(str(component))
    described = component.to_plotly_json()
    props, kind = described["props"], described["type"]
    inside = static_html(props.get("children"), links)
    if kind in ("A", "Link") and "href" in props:
        address = links(str(props["href"]))
        return inside if address is None else f'<a href="{escape(address)}">{inside}</a>'
    if described["namespace"] != ELEMENTS or kind in LEFT_OUT:
        return ""
    tag = kind.lower()
    return f"<{tag}{_attributes(props)}>{inside}</{tag}>"


def _attributes(props: dict[str, Any]) -> str:
    text = ""
    for name, value in props.items():
        if name not in ATTRIBUTES or value is None or value is False:
            continue
        text += f" {ATTRIBUTES[name]}" if value is True else f' {ATTRIBUTES[name]}="{escape(str(value))}"'
    return text
