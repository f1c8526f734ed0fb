"""One experiment as a folder of pages to share: EXPERIMENT/report/index.html and what lies beside it. Needs no network.

Figures are those of the live app's pages, made by the same functions; samples are looked at with the same script. It
opens from a disk: pages load nothing but the scripts, styles and images of the folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from pathlib import Path
from re import fullmatch
from string import Template
from urllib.parse import urlencode

from plotly.offline import get_plotlyjs

from dashboards import captions
from dashboards import report_tables as tables
from dashboards.explorer_folder import script_json, write_explorer
from dashboards.figures import CONFIG, bare_json, template, words
from dashboards.gallery import Gallery
from dashboards.pages.base import Control, Page, Panel
from dashboards.pages.catalog import PAGES
from dashboards.pages.parts import notices
from dashboards.pages.run import LOG_PATH
from dashboards.static_html import Links, static_html
from dashboards.theme import DARK, LIGHT, on_paper
from dashboards.view import CONFIG as CONFIG_KEY
from dashboards.view import State, View, view
from results.analysis.task_metrics import task_metrics
from results.experiment import Experiment
from results.run_log import NAME as LOG
from results.written import Written

MAX_FOLDED = 12  # other settings of a page that are drawn too
OVERVIEW, EXPLORER, RUN, PICTURES = "index", "samples", "run", "pictures"  # pages that have more than figures
DATA = "data"
ASSETS = files("dashboards") / "assets"
DRAWING = ("plotly.min.js", "labels.js", "narrow.js", "paper.js")
STATIC = (
    "report.css", "report.js", "app/labels.js", "app/narrow.js", "app/paper.js", "app/explorer.css", "app/explorer.js",
    "app/benchmarks.css", "app/panels.css",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportPage:
    """One HTML file of the folder."""

    stem: str
    name: str  # in the navigation
    body: str  # HTML
    wide: bool = False


def write_report(
    experiment: Experiment, pictures: Sequence[Path] = (), tell: Callable[[str], None] = lambda line: None
) -> Path:
    """Write the folder, in place of an earlier report; what a reader has put into it stays.

    Args:
        experiment: What to show.
        pictures: PNG and PDF files to put into the folder.
        tell: Takes a line about files that stay, although an earlier report may have left them.

    Returns:
        EXPERIMENT/report/index.html. Every file is there as a whole or not at all and the pages come last, so that a
        report may be written again while others read it.

    Raises:
        StoreError: The folder, or one in it, cannot be written to, or is a link to another place.
    """
    folder = experiment.path / "report"
    writer = Written(folder, _is_ours)
    add_assets(writer)
    for picture in pictures:
        writer.add(f"{PICTURES}/{'-'.join(_inside(picture, experiment.path / 'exports').parts)}", picture.read_bytes())
    pages = _pages(experiment, writer)
    return finish_report(writer, pages, experiment.name, tables.about(experiment), tell)


def add_assets(writer: Written) -> None:
    """Scripts and styles that pages load."""
    writer.add("plotly.min.js", get_plotlyjs().encode())
    for name in STATIC:
        writer.add(Path(name).name, (ASSETS / name).read_bytes())


def finish_report(
    writer: Written, pages: Sequence[ReportPage], title: str, about: str, tell: Callable[[str], None]
) -> Path:
    """Write the pages and take away what an earlier report left; the address of the first of them."""
    now = datetime.now(UTC)
    for page in reversed(pages):  # index.html last
        writer.add(f"{page.stem}.html", _html(page, pages, title, about, writer.folder.parent.name, now).encode())
    if left := writer.finish():
        more = f" and {len(left) - 1} others" if left[1:] else ""
        tell(f"{writer.folder}: {left[0]}{more} may be of an earlier report or a reader's own, and stay")
    return writer.folder / f"{OVERVIEW}.html"


def _is_ours(name: str) -> bool:
    """Whether only a report names a file like this: a page, or a sample of the explorer."""
    stems = "|".join((*map(_stem, PAGES), PICTURES))
    return bool(fullmatch(rf"({stems})\.html|{EXPLORER}/[0-9a-f]{{16}}\.(js|webp)", name))


# -- pages ----------------------------------------------------------------------------------------------------------


def _pages(experiment: Experiment, writer: Written) -> list[ReportPage]:
    gallery = Gallery([experiment.path], experiment)
    shown = view(gallery.snapshot, State())
    source = gallery.snapshot.sources[0]
    index = write_explorer(
        source.experiment, source.answers, source.summary, source.failures,
        lambda name, content: writer.add(f"{EXPLORER}/{name}", content),
    )  # fmt: skip
    samples = f"{EXPLORER}.html" if index["samples"] else None
    links = _links(samples)
    warnings = static_html(notices(shown), links)
    pages = []
    for page in PAGES:
        stem = _stem(page)
        body = figures(page, shown, writer, links)
        if stem == OVERVIEW:
            body += tables.flips(source.experiment, source.answers, source.summary, samples)
            body += tables.grid(source.summary)
            body += tables.task_figures(task_metrics(source.experiment))
        elif stem == RUN:
            body += tables.provenance(source.experiment)
        elif stem == EXPLORER and samples:
            body = _explorer(index)
        if body:
            text = body if stem == EXPLORER else warnings + body
            pages.append(ReportPage(stem=stem, name=page.name, body=text, wide=stem == EXPLORER))
    if drawn := _pictures(writer):
        pages.insert(len(pages) - 1, ReportPage(stem=PICTURES, name="Pictures", body=drawn))
    return pages


def _inside(path: Path, folder: Path) -> Path:
    return path.relative_to(folder) if path.is_relative_to(folder) else Path(path.name)


def _pictures(writer: Written) -> str:
    """The pictures for papers and slides, each as PNG and PDF."""
    cards = []
    for name in sorted(name for name in writer.files if name.startswith(f"{PICTURES}/") and name.endswith(".png")):
        pdf = f"{name.removesuffix('.png')}.pdf"
        more = f' · <a href="{escape(pdf)}">PDF</a>' if pdf in writer.files else ""
        cards.append(
            f'<figure class="card"><img src="{escape(name)}" alt="{escape(Path(name).stem)}" loading="lazy">'
            '<figcaption class="note">'
            f'{escape(Path(name).stem)}: <a href="{escape(name)}">PNG</a>{more}</figcaption></figure>'
        )
    return _cards(cards) if cards else ""


def _links(samples: str | None) -> Links:
    """A configuration's details in the app are its samples here."""

    def link(address: str) -> str | None:
        if address.startswith(f".{LOG_PATH}"):
            return f"../{LOG}"
        config = State.parse(address.partition("?")[2]).get(CONFIG_KEY)
        return f"{samples}#{urlencode({'config': config})}" if samples and config else None

    return link


def _stem(page: Page) -> str:
    return page.path.strip("/") or OVERVIEW


def _explorer(index: dict[str, object]) -> str:
    return f"""<div id="explorer"></div>
<script src="explorer.js"></script>
<script>
SaccadeExplorer.mount(document.getElementById("explorer"), SaccadeExplorer.folder({script_json(index)}, "{EXPLORER}"));
</script>"""


# -- figures --------------------------------------------------------------------------------------------------------


def figures(page: Page, shown: View, writer: Written, links: Links) -> str:
    """A page's panels as the app first shows them; below, folded away, with each control at its other values."""
    panels = page.panels(shown)
    if not panels:
        return ""
    drawn = {_drawing(panel) for panel in panels}
    text = _cards([_panel(page, panel, shown, writer, _stem(page), links) for panel in panels])
    for heading, place, other in list(_others(page, shown))[:MAX_FOLDED]:
        new = [panel for panel in page.panels(other) if _drawing(panel) not in drawn]
        cards = [_panel(page, panel, other, writer, f"{_stem(page)}-{place}", links) for panel in new]
        if cards:
            text += f'<details class="fold"><summary>{escape(heading)}</summary>{_cards(cards)}</details>'
    settings = " · ".join(_settings(page, shown))
    return (f'<p class="note">{escape(settings)}</p>' if settings else "") + text


def _drawing(panel: Panel) -> str:
    """What tells one figure from another."""
    return "" if panel.figure is None else bare_json(panel.figure)


def _settings(page: Page, shown: View) -> Iterator[str]:
    """What the page's controls stand at."""
    for control in page.controls(shown):
        if control.kind in ("slider", "choice") and len(control.values) > 1:
            yield f"{control.label}: {', '.join(_text(control, value) for value in control.preset)}"


def _others(page: Page, shown: View) -> Iterator[tuple[str, str, View]]:
    """The page with one control at another value: heading, part of file names, view."""
    for control in page.controls(shown):
        if control.kind == "choices":
            continue
        for value in control.values:
            if value not in control.preset:
                switch = control.kind == "switch"
                heading = control.label if switch else f"{control.label}: {_text(control, value)}"
                other = view(shown.snapshot, shown.state.with_(control.name, value), shown.ink)
                yield heading, f"{control.name}-{_slug(value)}", other


def _text(control: Control, value: str) -> str:
    return control.texts[list(control.values).index(value)] if value in control.values else value


def _panel(page: Page, panel: Panel, shown: View, writer: Written, stem: str, links: Links) -> str:
    """What it shows in words, a figure, its note, its numbers, and what can be taken away of it."""
    parts = [static_html(captions.head(panel, shown), links)]
    if panel.figure is not None:
        file = f"{stem}-{_slug(panel.name)}"
        writer.add(f"{DATA}/{file}.csv", panel.csv.encode())
        parts.insert(0, _export(file, captions.command(page, panel, shown), panel.name))
        height = int(panel.figure.layout.height or 400)
        text, name = bare_json(panel.figure).replace("<", "\\u003c"), escape(words(panel.figure))
        parts.append(
            f'<div class="plot" role="figure" aria-label="{name}" style="height:{height}px"></div>'
            f'<script type="application/json">{text}</script>'
        )
    parts.append(f'<p class="note">{escape(panel.note)}</p>' if panel.note else "")
    parts.append(static_html(panel.below, links))
    return f'<section class="card{" wide" if panel.wide else ""}">{"".join(parts)}</section>'


def _export(file: str, words: str, name: str) -> str:
    """The menu that `dashboards.live.downloads` has, without a server."""
    said = f"<p>{captions.ON_PAPER}</p><code>{escape(words)}</code><button class=copy>copy</button>" if words else ""
    kinds = "".join(
        f'<button data-save="{kind}" data-file="{file}" title="{title}">{kind.upper()}</button>'
        for kind, title in captions.PICTURES.items()
    )
    return (
        f'<details class="export"><summary aria-label="export {escape(name)}">Export</summary><div><div class="kinds">'
        f'<a href="{DATA}/{file}.csv" download>CSV</a>{kinds}</div>{said}</div></details>'
    )


def _cards(cards: Sequence[str]) -> str:
    return f'<div class="cards">{"".join(cards)}</div>'


def _slug(text: str) -> str:
    """File-name part of any text."""
    return (
        "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in text).strip("-").lower() or "x"
    )


# -- the page -------------------------------------------------------------------------------------------------------


def _html(page: ReportPage, pages: Sequence[ReportPage], title: str, about: str, place: str, now: datetime) -> str:
    links = "".join(
        f'<a href="{other.stem}.html"{" class=here" if other is page else ""}>{escape(other.name)}</a>'
        for other in pages
    )
    light, dark = (template(ink).to_plotly_json() for ink in (LIGHT, DARK))
    look = {"light": light, "dark": dark, "colours": on_paper(DARK), "config": CONFIG}
    return Template((ASSETS / "report.html").read_text(encoding="utf-8")).substitute(
        title=escape(title),
        page=escape(page.name),
        about=escape(about),
        links=links,
        body=page.body,
        kind="wide" if page.wide else "",
        plotly="\n".join(f'<script src="{name}"></script>' for name in DRAWING) if 'class="plot"' in page.body else "",
        look=script_json(look),
        footer=f"Written {now:%Y-%m-%d %H:%M} UTC from {escape(place)}.",
    )
