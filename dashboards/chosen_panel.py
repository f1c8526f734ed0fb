"""One panel of one page, by its name, of an experiment with some choices: what notebooks and papers ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dashboards.gallery import Gallery, Source
from dashboards.pages.base import Panel
from dashboards.pages.catalog import PAGES
from dashboards.view import State, view
from strategies.errors import UsageError
from strategies.suggestion import near


def chosen_panel(
    path: Path, page: str, panel: str | None, choices: Mapping[str, Sequence[str]]
) -> tuple[Panel, Source]:
    """A panel with a figure, and the experiment that it shows.

    Args:
        path: Of the experiment.
        page: "layer", "tokens", "heat", "alpha", "pareto", "overview", ...
        panel: Where the page has several; by default the first.
        choices: Filters and settings as the page's address has them.

    Raises:
        UsageError: There is no such page or panel, or nothing to show on it.
    """
    pages = {one.path.lstrip("/") or "overview": one for one in PAGES}
    if page not in pages:
        raise UsageError(f"figure: there is no page '{page}'{near(page, pages)} ({', '.join(pages)})")
    values = tuple((key, one) for key, several in choices.items() for one in several)
    snapshot = Gallery([path]).snapshot
    panels = {one.name: one for one in pages[page].panels(view(snapshot, State(values))) if one.figure is not None}
    if not panels:
        raise UsageError(f"figure: page '{page}' has nothing to show of this experiment with these choices")
    found = next(iter(panels)) if panel is None else panel
    if found not in panels:
        raise UsageError(f"figure: page '{page}' has no panel '{panel}'{near(found, panels)} ({', '.join(panels)})")
    return panels[found], snapshot.sources[0]
