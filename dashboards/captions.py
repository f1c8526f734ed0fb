"""What stands around a panel: where its numbers come from, and the command that draws it for a paper."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dash import html

from dashboards.gallery import Source
from dashboards.pages.base import Page, Panel
from dashboards.report_tables import about, source_of_numbers
from dashboards.view import CONFIG, View
from results.wording import count, plural

ON_PAPER = "As wide as a column of a paper, as PDF, SVG or PGF:"
PICTURES = {"svg": "as wide as a column of a paper, text of 8 pt", "png": "as it is seen here"}  # and what they are
WIDTH = "3.25in"  # of a column of a paper: `assets/app/paper.js` draws as wide
NAMED = 3  # experiments that are told apart in a line


def sources_of(panel: Panel, shown: View) -> list[Source]:
    """The experiments whose numbers a panel shows."""
    named = panel.experiments or tuple(panel.rows["experiment"].unique() if "experiment" in panel.rows else ())
    return [source for source in shown.sources if not named or source.name in named]


def head(panel: Panel, shown: View) -> list[Any]:
    """What stands above a figure: whose it is, what it says, and where it comes from."""
    found: list[Any] = []
    if panel.title:
        found.append(html.H2(panel.title, dir="auto", className="facet" if panel.finding else None))
    if panel.finding:
        found.append(html.H2(panel.finding, dir="auto", className="finding"))
    if panel.figure is not None:
        found.append(html.P(origin(panel, shown), dir="auto", className="source"))
    return found


def origin(panel: Panel, shown: View) -> str:
    """Model, data, questions, day, program in a line; of several experiments what they share once."""
    sources = sources_of(panel, shown)
    asked = [_asked(panel, source) for source in sources]
    if len(sources) == 1:
        return source_of_numbers(sources[0].experiment, asked[0])
    columns = zip(*(about(source.experiment).split(" · ") for source in sources), strict=False)
    parts = [_listed(list(dict.fromkeys(column))) for column in columns]
    span = count(min(asked)) if min(asked) == max(asked) else f"{count(min(asked))} to {count(max(asked))}"
    return " · ".join((plural(len(sources), "experiment"), *parts, f"n = {span}"))


def _asked(panel: Panel, source: Source) -> int:
    """Questions that the numbers are of."""
    rows = panel.rows if "n" in panel.rows else source.summary
    mine = rows[rows["experiment"] == source.name] if "experiment" in rows else rows
    most = mine["n"].max()
    return int(most) if most == most else 0


def _listed(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return ", ".join(texts[:NAMED]) + more


def command(page: Page, panel: Panel, shown: View) -> str:
    """`saccade figure` with the choices of the view; "" where several experiments are in one picture."""
    sources = sources_of(panel, shown)
    if panel.figure is None or len(sources) != 1 or not page.printed:
        return ""
    name = f"{page.path.strip('/') or 'overview'}/{panel.alone or panel.name}"
    words = ["saccade", "figure", _place(sources[0]), name, "--width", WIDTH]
    chosen = [pair for pair in shown.state.values if pair[0] not in (CONFIG, "experiment", "model", "benchmark")]
    for key, value in chosen:
        words += ["--choose", f"{key}={value}"]
    return shlex.join(words)


def _place(source: Source) -> str:
    """As a reader beside us would type it."""
    path = source.opened.path
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
