"""A suite as a folder to share: SUITE/report/index.html is its table; its benchmarks have reports of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from html import escape
from pathlib import Path
from re import fullmatch
from urllib.parse import quote, urlencode

from dashboards import report
from dashboards.gallery import Gallery, Snapshot
from dashboards.pages.benchmarks import NOTHING, PAGE
from dashboards.pages.parts import notices
from dashboards.static_html import Links, static_html
from dashboards.view import CONFIG, State, View, view
from results.suites import read_suite
from results.written import Written

RIVALS = ("random", "downsample", "downsample_features")  # that a report holds methods against, where they are


def write_suite_report(suite: Path, tell: Callable[[str], None] = lambda line: None) -> Path:
    """Write the folder, in place of an earlier report; what a reader has put into it stays.

    Args:
        suite: Folder of a suite, where something has begun.
        tell: Takes a line about files that stay, although an earlier report may have left them.

    Returns:
        SUITE/report/index.html.

    Raises:
        StoreError: It is no suite's folder, nothing has begun, or the report cannot be written.
    """
    snapshot = Gallery([suite]).snapshot
    shown = view(snapshot, State())
    writer = Written(suite / "report", lambda name: bool(fullmatch(r"index\.html", name)))
    report.add_assets(writer)
    links = _links(snapshot, suite.resolve())
    body = static_html(notices(shown), links) + _members(snapshot, suite.resolve())
    body += report.figures(replace(PAGE, controls=lambda shown: ()), shown, writer, links)
    for heading, other in _others(shown):
        table = "".join(static_html(panel.below, links) for panel in PAGE.panels(other))
        body += f'<details class="fold"><summary>{escape(heading)}</summary>{table}</details>'
    page = report.ReportPage(stem=report.OVERVIEW, name=PAGE.name, body=body)
    models = dict.fromkeys(Path(source.experiment.spec.model.path).name for source in snapshot.sources)
    return report.finish_report(writer, [page], read_suite(suite).name, " · ".join(models), tell)


def _others(shown: View) -> Iterator[tuple[str, View]]:
    """The table as its controls would have it, which a report has not: heading, view."""
    for control in PAGE.controls(shown):
        if control.name == "budget":
            continue  # of all of them the table is there
        for value, text in zip(control.values, control.texts, strict=True):
            held = control.name != "against" or value in RIVALS
            if held and value not in (*control.preset, NOTHING):
                heading = control.label if control.kind == "switch" else f"{control.label}: {text}"
                yield heading, view(shown.snapshot, shown.state.with_(control.name, value))


def _members(snapshot: Snapshot, suite: Path) -> str:
    """Where the benchmarks' own reports are, as far as they have been written."""
    parts = []
    for source in snapshot.sources:
        name = escape(source.name)
        place = source.opened.path.relative_to(suite)
        there = (suite / place / "report" / "index.html").exists()
        parts.append(f'<a href="../{quote(place.as_posix())}/report/index.html">{name}</a>' if there else name)
    return f'<p class="note">Benchmarks: {" · ".join(parts)}</p>'


def _links(snapshot: Snapshot, suite: Path) -> Links:
    """A configuration's details in the app are its samples in the benchmark's own report."""

    def link(address: str) -> str | None:
        config = State.parse(address.partition("?")[2]).get(CONFIG)
        found = snapshot.find(config)
        if found is None:
            return None
        place = found[0].opened.path.relative_to(suite) / "report" / f"{report.EXPLORER}.html"
        return f"../{quote(place.as_posix())}#{urlencode({'config': config})}" if (suite / place).exists() else None

    return link
