"""The report's folder holds all that it needs, says what must be said, and lets no text from data act as HTML."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from dash import dcc, html

import results.analysis.matrix
from answer_matrix import MISSING, write_matrix
from dashboards.report import write_report
from dashboards.report_tables import flatten
from dashboards.static_html import static_html
from fake_experiment import write_fake_experiment
from results.analysis.metrics import answers
from results.experiment import Experiment
from workers.work import GridPoint, unpruned_point

SCAN = (unpruned_point(4, 64), *(GridPoint(strategy="cutoff", layer=layer, rank=0) for layer in (2, 3, 4)))
EVIL = "<script>alert('x')</script>"


class Page(HTMLParser):
    """What a browser would load from a page, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self._in_code = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        self._in_code = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._in_code = False

    def handle_data(self, data: str) -> None:
        if not self._in_code:
            self.text += data


def test_cells_that_tables_were_made_of_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = write_fake_experiment(tmp_path / "e", samples=6)
    answers(experiment)
    read: list[Path] = []
    monkeypatch.setattr(results.analysis.matrix, "read_columns", lambda path, *_, **__: read.append(path))
    assert "un-pruned" in pages_of(experiment)["index"].text
    assert not read


def pages_of(experiment: Experiment) -> dict[str, Page]:
    folder = write_report(experiment).parent
    return {file.stem: Page(file.read_text(encoding="utf-8")) for file in folder.glob("*.html")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """A complete experiment and its report."""
    experiment = write_fake_experiment(tmp_path_factory.mktemp("report") / "e", samples=30)
    write_report(experiment)
    return experiment


@pytest.fixture(scope="module")
def partial(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Page]:
    right = np.array(
        [
            [1, 1, 1, 0, 1, 1, MISSING, 1],
            [0, 0, 1, 0, 1, 1, MISSING, 1],
            [1, 0, 1, MISSING, MISSING, 1, MISSING, 1],
            [MISSING] * 8,
        ]
    )
    experiment = write_matrix(
        tmp_path_factory.mktemp("report") / "e", SCAN, right, failed=(6,), text_only=(7,), wrong=EVIL,
        question=f"Welche Farbe? 什么颜色? ما اللون؟ {EVIL} &amp;", name=f"sweep {EVIL}",
    )  # fmt: skip
    return pages_of(experiment)


def test_all_that_a_page_loads_lies_in_the_folder(whole: Experiment) -> None:
    folder = whole.path / "report"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"index.html", "layer.html", "samples.html", "run.html", "plotly.min.js", "explorer.js"} <= files
    for file in folder.glob("*.html"):
        text = file.read_text(encoding="utf-8")
        for address in Page(text).loads:
            assert address.partition("#")[0] in files, f"{file.name} loads {address}"
        assert not re.search(r"@import|url\(|\bfetch\(|importScripts|XMLHttpRequest", text)
        assert "http://" not in text
        assert "https://" not in text
        assert '"showSendToCloud": false' in text  # no button that uploads the figure
        assert len(text) < 2_000_000, f"{file.name}: the library is beside the page, not in it"
    assert sum(path.name.startswith("plotly") for path in folder.rglob("*.js")) == 1


def test_what_an_earlier_report_left_goes_away(whole: Experiment) -> None:
    folder = whole.path / "report"
    old = whole.path / "exports" / "old.png"
    picture = whole.path / "exports" / "runs" / "plot.png"
    picture.parent.mkdir(parents=True)
    old.write_bytes(b"png")
    picture.write_bytes(b"png")
    write_report(whole, [old])
    own = [folder / name for name in ("notes.txt", "pictures/mine.png", "data/mine.csv", "samples/mine.js")]
    for file in own:
        file.write_text("a reader's own")
    said: list[str] = []
    write_report(whole, [picture], said.append)
    assert said == []
    assert all(file.exists() for file in own)
    assert not (folder / "pictures" / "old.png").exists()
    assert (folder / "pictures" / "runs-plot.png").read_bytes() == b"png"
    assert "pictures/runs-plot.png" in Page((folder / "pictures.html").read_text()).loads


def test_of_a_report_without_a_list_only_what_can_be_told_goes_away(whole: Experiment) -> None:
    folder = whole.path / "report"
    (folder / "written.json").unlink()
    for name in ("ablations.html", "samples/0123456789abcdef.js", "pictures/mine.png"):
        (folder / name).write_text("old, or a reader's own")
    said: list[str] = []
    write_report(whole, [], said.append)
    assert not (folder / "ablations.html").exists()
    assert not (folder / "samples" / "0123456789abcdef.js").exists()
    assert (folder / "pictures/mine.png").exists()
    (line,) = said
    assert line.endswith("may be of an earlier report or a reader's own, and stay")


def test_every_figure_has_its_numbers_as_csv(whole: Experiment) -> None:
    folder = whole.path / "report"
    text = (folder / "layer.html").read_text(encoding="utf-8")
    assert text.count('class="plot"') == text.count('type="application/json"') > 0
    for name in re.findall(r'href="(data/[^"]+\.csv)"', text):
        assert (folder / name).read_bytes().startswith(b"\xef\xbb\xbf")
        assert "accuracy" in (folder / name).read_text(encoding="utf-8-sig").splitlines()[0]


def test_text_from_data_is_text(partial: dict[str, Page]) -> None:
    index = partial["index"]
    assert index.text.count(EVIL) >= 5  # title, question and the pruned answers, all readable
    assert "什么颜色? ما اللون؟" in index.text
    assert "cannot identify <image> file" in partial["run"].text
    for page in partial.values():
        assert "image" not in page.tags
        assert "alert(" not in page.text.replace(EVIL, "")


def test_text_from_data_ends_no_script(tmp_path: Path) -> None:
    experiment = write_matrix(tmp_path / "e", SCAN, np.array([[1, 1], [0, 1], [0, 0], [1, 1]]), wrong=EVIL, name=EVIL)
    folder = write_report(experiment).parent
    for file in (*folder.glob("*.html"), *folder.glob("samples/*.js")):
        assert EVIL not in file.read_text(encoding="utf-8"), file.name


def test_pages_say_what_is_unfinished_and_what_failed(partial: dict[str, Page]) -> None:
    index, run = partial["index"].text, partial["run"].text
    assert "Unfinished: of 3 configurations, 1 running, 1 missing; hollow: partial" in index
    assert "4 of 7" in index  # answers of the partial point, image questions
    assert "1 sample failed: neither right nor wrong; see Run" in index
    assert "OSError" in run
    assert "0123456789abcdef" in run  # model fingerprint
    assert re.search(r"Written \d{4}-\d\d-\d\d \d\d:\d\d UTC from e\.", run)


def test_every_grid_point_is_in_the_table(whole: Experiment) -> None:
    text = Page((whole.path / "report" / "index.html").read_text(encoding="utf-8")).text
    for point in whole.points:
        assert point.label in text


def test_report_of_nothing_still_opens(tmp_path: Path) -> None:
    pages = pages_of(write_matrix(tmp_path / "e", SCAN, np.full((4, 5), MISSING)))
    assert "samples" not in pages
    assert "No question has been answered yet." in pages["index"].text
    assert "nan" not in pages["index"].text.lower().split()


def test_facts_are_flattened_and_empty_ones_left_out() -> None:
    tree = {"model": {"path": "x", "extra": {"dtype": "float32"}}, "none": None, "empty": "", "zero": 0}
    assert list(flatten(tree)) == [("model path", "x"), ("model extra dtype", "float32"), ("zero", "0")]


def test_components_become_html_without_what_needs_the_app() -> None:
    shown = html.Div(
        [
            html.P(["a < b ", html.B("&")], className='note "x"', dir="auto"),
            html.A("here", href="?config=e%3Ak"),
            html.A("out", href="https://elsewhere.example"),
            html.Button("press"),
            dcc.Store(id="s"),
            html.Script("alert(1)"),
            None,
            3,
        ]
    )
    links = {"?config=e%3Ak": "samples.html#config=e%3Ak"}
    assert static_html(shown, links.get) == (
        '<div><p class="note &quot;x&quot;" dir="auto">a &lt; b <b>&amp;</b></p>'
        '<a href="samples.html#config=e%3Ak">here</a>out3</div>'
    )
