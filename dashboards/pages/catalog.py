"""All pages, in the order of the navigation."""

from __future__ import annotations

from dashboards.pages import ablations, alpha, explorer, heat, layer, overview, pareto, run, tokens
from dashboards.pages.base import Page

PAGES: tuple[Page, ...] = (
    overview.PAGE,
    layer.PAGE,
    tokens.PAGE,
    heat.PAGE,
    alpha.PAGE,
    ablations.PAGE,
    pareto.PAGE,
    explorer.PAGE,
    run.PAGE,
)
