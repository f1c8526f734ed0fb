"""Tables as one attribute instead of hundreds of components.

Dash walks through every component of what a callback returns; for a table of 40 rows that takes longer than drawing
the figures above it. So a table travels as JSON, and ``assets/app/app.js`` builds it of text nodes when it is unfolded.
"""

from __future__ import annotations

import json
from copy import copy
from typing import Any

from dash import html
from dash.development.base_component import Component

ATTRIBUTES = {
    "className": "class", "href": "href", "dir": "dir", "title": "title", "colSpan": "colspan", "scope": "scope",
}  # all that a table may have  # fmt: skip


def spoken(name: str) -> dict[str, Any]:
    """What a component is called by those who hear the page."""
    return {"aria-label": name}


def light(part: Any) -> Any:
    """The same with every html.Table in it as an attribute."""
    if isinstance(part, list | tuple):
        return [light(one) for one in part]
    if isinstance(part, html.Table):
        attribute: dict[str, Any] = {"data-tree": json.dumps(_tree(part), ensure_ascii=False)}
        return html.Div(**attribute)
    children = getattr(part, "children", None)
    if not isinstance(part, Component) or children is None:
        return part
    part = copy(part)
    part.children = light(children)
    return part


def _tree(part: Any) -> Any:
    """[tag, attributes, children], or a text."""
    if not isinstance(part, Component):
        return "" if part is None else str(part)
    children = getattr(part, "children", None)
    inner = children if isinstance(children, list | tuple) else [children]
    attributes = {ATTRIBUTES[name]: getattr(part, name) for name in ATTRIBUTES if getattr(part, name, None)}
    return [type(part).__name__.lower(), attributes, [_tree(one) for one in inner]]
