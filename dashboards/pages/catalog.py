"""All pages, in the order of the navigation."""

from __future__ import annotations

from dashboards.gallery import Snapshot
from dashboards.pages import ablations, alpha, benchmarks, explorer, heat, layer, overview, pareto, rescued, run, tokens
from dashboards.pages.base import Page
from dashboards.theme import DARK, LIGHT
from dashboards.view import State, View, view

PAGES: tuple[Page, ...] = (
    overview.PAGE,
    benchmarks.PAGE,
    layer.PAGE,
    tokens.PAGE,
    heat.PAGE,
    alpha.PAGE,
    ablations.PAGE,
    pareto.PAGE,
    rescued.PAGE,
    explorer.PAGE,
    run.PAGE,
)


def page_at(path: str | None) -> Page | None:
    """The page of a URL: its last part names it, whatever a proxy has put before; "" is the first one's name."""
    name = (path or "").rpartition("/")[2]
    return next((page for page in PAGES if page.path == f"/{name}"), None)


def links(snapshot: Snapshot, here: Page | None = None) -> list[str]:
    """What the link to each page is, in CSS: the reader's page, and those that have nothing to say here."""
    return ["here" if page is here else "" if page.shown(snapshot) else "away" for page in PAGES]


def asked(snapshot: Snapshot, path: str | None, search: str | None, look: str | None = None) -> tuple[Page, View]:
    """The page of a URL, else the first one, and the view that it asks for."""
    return page_at(path) or PAGES[0], view(snapshot, State.parse(search), DARK if look == "dark" else LIGHT)
