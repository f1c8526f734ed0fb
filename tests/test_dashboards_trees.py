"""Tables that travel as one attribute; that a browser builds them is tested in test_dashboards_browser.py."""

from __future__ import annotations

import json

from dash import html

from dashboards.live.trees import light


def test_tables_become_an_attribute_and_the_rest_stays() -> None:
    cell = html.Td(html.A("<b>&", href="?config=1"), className="number", dir="auto")
    table = html.Table([html.Tbody(html.Tr([cell, html.Td(None), html.Td(3)]))])
    before = html.Details([html.Summary("numbers"), html.Div(table, className="scroll"), "text", None])
    (after,) = light([before])
    summary, scroll, text, nothing = after.children
    assert (summary.children, scroll.className, text, nothing) == ("numbers", "scroll", "text", None)
    link = ["a", {"href": "?config=1"}, ["<b>&"]]
    cells = [["td", {"class": "number", "dir": "auto"}, [link]], ["td", {}, [""]], ["td", {}, ["3"]]]
    found = json.loads(getattr(scroll.children, "data-tree"))
    assert found == ["table", {}, [["tbody", {}, [["tr", {}, cells]]]]]
    assert before.children[1].children is table  # pages may keep what they made
