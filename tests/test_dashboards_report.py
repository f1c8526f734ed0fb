"""The page opens without a network, shows what must be shown, and lets no text from data act as HTML."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from answer_matrix import MISSING, write_matrix
from dashboards.report import flatten, render, write_report
from fake_experiment import write_fake_experiment
from orchestrator.store import Experiment
from workers.work import GridPoint, baseline_point

NOW = datetime(2026, 11, 21, 4, 0, tzinfo=UTC)
SCAN = (baseline_point(4, 64), *(GridPoint(strategy="cutoff", layer=layer, rank=0) for layer in (2, 3, 4)))
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


@pytest.fixture(scope="module")
def partial(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    right = np.array(
        [
            [1, 1, 1, 0, 1, 1, MISSING, 1],
            [0, 0, 1, 0, 1, 1, MISSING, 1],
            [1, 0, 1, MISSING, MISSING, 1, MISSING, 1],
            [MISSING] * 8,
        ]
    )
    return write_matrix(
        tmp_path_factory.mktemp("report") / "e", SCAN, right, failed=(6,), text_only=(7,), wrong=EVIL,
        question=f"Welche Farbe? 什么颜色? ما اللون؟ {EVIL} &amp;", name=f"sweep {EVIL}",
    )  # fmt: skip


def test_report_is_a_page_and_one_library_that_load_nothing_else(tmp_path: Path) -> None:
    path = write_report(write_fake_experiment(tmp_path / "e", samples=30))
    assert path == tmp_path / "e" / "report" / "index.html"
    assert sorted(file.name for file in path.parent.iterdir()) == ["index.html", "plotly.min.js"]
    html = path.read_text(encoding="utf-8")
    assert Page(html).loads == ["plotly.min.js"]
    assert not re.search(r"@import|url\(|\bfetch\(|importScripts|XMLHttpRequest", html)
    assert "http://" not in html
    assert "https://" not in html
    assert '"showSendToCloud": false' in html  # no button that uploads the figure
    assert len(html) < 1_000_000  # the library is beside the page, not in it


def test_text_from_data_is_text(partial: Experiment) -> None:
    html = render(partial, NOW)
    assert EVIL not in html
    assert "alert(" not in re.sub(r"&lt;script&gt;alert\(&#x27;x&#x27;\)&lt;/script&gt;", "", html)
    page = Page(html)
    assert page.text.count(EVIL) >= 5  # title, question and the pruned answers, all readable
    assert "什么颜色? ما اللون؟" in page.text
    assert "cannot identify <image> file" in page.text
    assert "image" not in page.tags


def test_page_says_what_is_unfinished_and_what_failed(partial: Experiment) -> None:
    text = Page(render(partial, NOW)).text
    assert "Unfinished: of 4 grid points, 1 partial and 1 missing. Hollow points are partial." in text
    assert "4 of 7" in text  # answers of the partial point, image questions
    assert "1 text-only, counted apart" in text
    assert re.search(r"Failed samples1\s*listed below", text)
    assert "OSError" in text
    assert "0123456789abcdef" in text  # model fingerprint
    assert "Written 2026-11-21 04:00 UTC" in text


def test_notice_of_the_run_is_shown_first(tmp_path: Path) -> None:
    experiment = write_fake_experiment(tmp_path / "e", samples=20)
    assert "Note:" not in Page(render(experiment, NOW)).text
    experiment.meta["notice"] = "The weights are untrained: <b>accuracy is chance</b>."
    text = Page(render(experiment, NOW)).text
    assert "Note: The weights are untrained: <b>accuracy is chance</b>." in text
    assert text.index("Note:") < text.index("Un-pruned accuracy")


def test_every_grid_point_is_in_the_table(tmp_path: Path) -> None:
    experiment = write_fake_experiment(tmp_path / "e", samples=20)
    text = Page(render(experiment, NOW)).text
    for point in experiment.points:
        assert point.label in text


def test_report_of_nothing_still_opens(tmp_path: Path) -> None:
    experiment = write_matrix(tmp_path / "e", SCAN, np.full((4, 5), MISSING))
    page = Page(render(experiment, NOW))
    assert "No question has been answered yet." in page.text
    assert "nan" not in page.text.lower().split()


def test_facts_are_flattened_and_empty_ones_left_out() -> None:
    tree = {"model": {"path": "x", "extra": {"dtype": "float32"}}, "none": None, "empty": "", "zero": 0}
    assert list(flatten(tree)) == [("model path", "x"), ("model extra dtype", "float32"), ("zero", "0")]
