"""One experiment as a folder of pages to share: EXPERIMENT/report/index.html and what lies beside it. Needs no network.

Figures are those of the live app's pages, made by the same functions; samples are looked at with the same script. It
opens from a disk: pages load nothing but the scripts, styles and images of the folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from plotly.offline import get_plotlyjs

from dashboards import report_tables as tables
from dashboards.board import Board
from dashboards.explorer_folder import script_json, write_explorer
from dashboards.figures import CONFIG, bare_json, template
from dashboards.pages.base import Control, Page, Panel
from dashboards.pages.catalog import PAGES
from dashboards.reading import reading
from dashboards.theme import DARK, LIGHT, on_paper
from dashboards.view import State, View, view
from orchestrator.store import Experiment, write_whole

MAX_FOLDED = 12  # other values of a page's first control that are drawn too
OVERVIEW, EXPLORER, RUN = "index", "samples", "run"  # pages that have more than figures
ASSETS = files("dashboards") / "assets"
STATIC = ("report.css", "report.js", "app/explorer.css", "app/explorer.js")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportPage:
    """One HTML file of the folder."""

    stem: str
    name: str  # in the navigation
    body: str  # HTML
    wide: bool = False


def write_report(experiment: Experiment, pictures: Sequence[Path] = ()) -> Path:
    """Write the folder; what an earlier report left there and this one has not goes away.

    Args:
        experiment: What to show.
        pictures: PNG and PDF files to put into the folder.

    Returns:
        EXPERIMENT/report/index.html. Every file is there as a whole or not at all and the pages come last, so that a
        report may be written again while others read it.
    """
    folder = experiment.path / "report"
    writer = _Folder(folder)
    writer.add("plotly.min.js", get_plotlyjs().encode())
    for name in STATIC:
        writer.add(Path(name).name, (ASSETS / name).read_bytes())
    for picture in pictures:
        writer.add(f"pictures/{picture.name}", picture.read_bytes())
    pages = _pages(experiment, writer)
    now = datetime.now(UTC)
    for page in reversed(pages):  # index.html last
        writer.add(f"{page.stem}.html", _html(page, pages, experiment, now).encode())
    writer.remove_others()
    return folder / f"{OVERVIEW}.html"


class _Folder:
    """Files of a report, and the memory of which belong to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: set[str] = set()

    def add(self, name: str, content: bytes) -> None:
        """Write a file where it is not there already with the same content."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.stat().st_size != len(content) or path.read_bytes() != content:
            write_whole(path, content, sync=False)  # hundreds of files, written again in seconds
        self.names.add(name)

    def remove_others(self) -> None:
        for path in self.path.rglob("*"):
            if path.is_file() and path.relative_to(self.path).as_posix() not in self.names:
                path.unlink()


# -- pages ----------------------------------------------------------------------------------------------------------


def _pages(experiment: Experiment, writer: _Folder) -> list[ReportPage]:
    board = Board([experiment.path])
    shown = view(board.snapshot, State())
    source = board.snapshot.sources[0]
    summary, failures = source.summary, source.failures
    index = write_explorer(experiment, source.answers, summary, failures, lambda name, data: writer.add(f"{EXPLORER}/{name}", data))
    figures = {_stem(page): (page.name, _figures(page, shown, writer)) for page in PAGES if page.panels is not None}

    overview = ReportPage(
        stem=OVERVIEW,
        name="Overview",
        body=f"""<p class="reading">{escape(reading(summary))}</p>
{tables.notices(experiment, summary)}
{tables.tiles(summary, failures)}
{figures.pop(OVERVIEW, ("", ""))[1]}
{tables.flips(experiment, source.answers, summary, f"{EXPLORER}.html" if index["samples"] else None)}
{tables.grid(summary)}
{_files(writer)}""",
    )
    run = ReportPage(
        stem=RUN,
        name="Run",
        body=figures.pop(RUN, ("", ""))[1] + tables.failed_samples(failures) + tables.provenance(experiment),
    )
    explorer = ReportPage(stem=EXPLORER, name="Sample explorer", body=_explorer(index), wide=True)
    drawn = [ReportPage(stem=stem, name=name, body=body) for stem, (name, body) in figures.items() if body]
    return [overview, *drawn, *([explorer] if index["samples"] else []), run]


def _stem(page: Page) -> str:
    return page.path.strip("/") or OVERVIEW


def _explorer(index: dict[str, object]) -> str:
    return f"""<div id="explorer"></div>
<script src="explorer.js"></script>
<script>
SaccadeExplorer.mount(document.getElementById("explorer"), SaccadeExplorer.folder({script_json(index)}, "{EXPLORER}"));
</script>"""


def _files(writer: _Folder) -> str:
    names = sorted(name for name in writer.names if name.startswith(("pictures/", "data/")))
    if not names:
        return ""
    links = "".join(f'<li><a href="{escape(name)}">{escape(name)}</a></li>' for name in names)
    return f'<section><h2>Files of this report</h2><ul class="files">{links}</ul></section>'


# -- figures --------------------------------------------------------------------------------------------------------


def _figures(page: Page, shown: View, writer: _Folder) -> str:
    """A page's panels as the app first shows them; below, folded away, for the other values of its first control."""
    first = "".join(f'<p class="note">{escape(text)}</p>' for text in _settings(page, shown))
    parts = [_panel(panel, writer, _stem(page)) for panel in _panels(page, shown)]
    for heading, place, other in _others(page, shown):
        found = [_panel(panel, writer, f"{_stem(page)}-{place}") for panel in _panels(page, other)]
        if found:
            parts.append(f"<details class=\"fold\"><summary>{escape(heading)}</summary>{_pair(found)}</details>")
    head = len(parts) - sum(part.startswith("<details") for part in parts)
    return (first if parts else "") + _pair(parts[:head]) + "".join(parts[head:])


def _settings(page: Page, shown: View) -> Iterator[str]:
    """What the page's controls stand at."""
    for control in page.controls(shown):
        values = list(_default(control)) if control.kind in ("slider", "choice") else []
        if values and len(control.values) > 1:
            yield f"{control.label}: {', '.join(control.texts[list(control.values).index(value)] for value in values)}"


def _others(page: Page, shown: View) -> Iterator[tuple[str, str, View]]:
    """The page with each other value of its first control that has a few: heading, place in file names, view."""
    controls = [control for control in page.controls(shown) if control.kind in ("slider", "choice")]
    if not controls:
        return
    first = controls[0]
    others = [value for value in first.values if value not in _default(first)]
    for value in others[:MAX_FOLDED]:
        text = first.texts[list(first.values).index(value)]
        state = shown.state.with_(first.name, value)
        yield f"{first.label}: {text}", _slug(value), view(shown.snapshot, state, shown.ink)


def _default(control: Control) -> Sequence[str]:
    return control.default or control.values[:1]


def _panels(page: Page, shown: View) -> Sequence[Panel]:
    return () if page.panels is None else page.panels(shown)


def _panel(panel: Panel, writer: _Folder, stem: str) -> str:
    """A figure, its note, what is doubtful about its configurations, and its numbers, also as CSV."""
    name = f"data/{stem}-{_slug(panel.name)}.csv"
    writer.add(name, ("\ufeff" + panel.rows.to_csv(index=False, lineterminator="\n")).encode())
    parts = [f"<h2>{escape(panel.title)}</h2>" if panel.title else ""]
    if panel.figure is not None:
        height = int(panel.figure.layout.height or 400)
        text = bare_json(panel.figure).replace("<", "\\u003c")
        parts.append(
            f'<div class="plot" style="height:{height}px"></div><script type="application/json">{text}</script>'
        )
    parts.append(f'<p class="note">{escape(panel.note)}</p>' if panel.note else "")
    download = f'<a href="{name}" download>CSV</a>'
    if set(panel.rows.columns) >= tables.NUMBERS:
        rows = panel.rows.drop_duplicates("key")
        parts.append(tables.notice_list(tables.doubts(rows)))
        parts.append(
            f'<details class="numbers"><summary>Numbers of {len(rows)} configurations {download}</summary>'
            f'<p class="note">{tables.HOW}</p>{tables.numbers(rows)}</details>'
        )
    else:
        parts.append(f'<p class="note">{download}</p>')
    return f'<section class="card{" wide" if panel.wide else ""}">{"".join(parts)}</section>'


def _pair(parts: Sequence[str]) -> str:
    return f'<div class="cards">{"".join(parts)}</div>' if parts else ""


def _slug(text: str) -> str:
    """File-name part of any text."""
    return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in text).strip("-").lower() or "x"


# -- the page -------------------------------------------------------------------------------------------------------


def _html(page: ReportPage, pages: Sequence[ReportPage], experiment: Experiment, now: datetime) -> str:
    links = "".join(
        f'<a href="{other.stem}.html"{" class=here" if other is page else ""}>{escape(other.name)}</a>' for other in pages
    )
    light, dark = (template(ink).to_plotly_json() for ink in (LIGHT, DARK))
    look = {"light": light, "dark": dark, "colours": on_paper(DARK), "config": CONFIG}
    return Template((ASSETS / "report.html").read_text(encoding="utf-8")).substitute(
        title=escape(experiment.name),
        page=escape(page.name),
        about=escape(tables.about(experiment)),
        links=links,
        body=page.body,
        kind="wide" if page.wide else "",
        plotly='<script src="plotly.min.js"></script>' if 'class="plot"' in page.body else "",
        look=script_json(look),
        footer=f"Written {now:%Y-%m-%d %H:%M} UTC from {escape(experiment.path.name)}.",
    )
