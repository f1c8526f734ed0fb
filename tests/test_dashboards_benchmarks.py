"""The papers' table as a page of the app and as a suite's report: one computation for both and for `saccade table`."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from answer_matrix import write_matrix
from dashboards.gallery import Gallery
from dashboards.opened import Opened
from dashboards.pages.benchmarks import PAGE
from dashboards.pages.catalog import PAGES, links
from dashboards.pages.layer import PAGE as LAYER
from dashboards.static_html import static_html
from dashboards.suite_report import write_suite_report
from dashboards.view import State, view
from live_app import needs_chromium, serving
from results.analysis import published
from results.analysis.suite_table import suite_table
from results.disk import StoreError
from results.exchange.benchmark_text import long_rows
from results.literature import Lineage, Published
from results.suites import LeftOut, SuiteMember, left_out_of, results_of, write_suite
from workers.work import GridPoint, unpruned_point

GRID = (
    unpruned_point(8, 64),
    *(GridPoint(strategy=name, layer=2, rank=rank) for name in ("fastv", "random") for rank in (32, 8)),
)
HEAVY = "5 is outside <b>0..4</b>"


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two benchmarks of 40 questions, at each budget fastv far better than random, and a method that cannot run."""
    folder = tmp_path_factory.mktemp("suite") / "table"
    members = [SuiteMember(model="m", benchmark=name) for name in ("first", "second")]
    write_suite(folder, "table", members, [LeftOut(model="m", strategy="vtw", reason=HEAVY)])
    right = np.ones((len(GRID), 40), dtype=int)
    right[1:3, :5] = right[3:, :25] = 0
    for one in members:
        write_matrix(folder / one.folder, GRID, right, name=one.benchmark)
    return folder


@pytest.fixture
def literature(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = Published(method="Theirs", tokens=40, figures={"scienceqa": 45.0})
    lineage = Lineage(kind="copied", origin="copied by all", unpruned={}, mme="total", rows=(theirs,))
    monkeypatch.setattr(published, "LINEAGES", {"T": lineage})
    monkeypatch.setitem(published.UNPRUNED, ("scienceqa", ""), (80.0, 90.0))
    monkeypatch.setattr(published, "SIZE", (8, 64, None))
    monkeypatch.setattr("dashboards.pages.benchmarks.LINEAGES", {"T": lineage})


def shown(suite: Path, search: str = ""):
    return view(Gallery([suite]).snapshot, State.parse(search))


def html_of(suite: Path, search: str = "") -> str:
    (panel,) = PAGE.panels(shown(suite, search))
    return static_html(panel.below, lambda address: address)


def row_of(text: str, method: str) -> str:
    """Of the first budget that has the method."""
    rows = re.findall("<tr.*?</tr>", text)
    return next(row for row in rows if re.search(f"<th[^>]*><span>{re.escape(method)}<", row))


def test_the_page_shows_what_the_command_prints(suite):
    """The same rows, though the page has read the answers already and counts costs elsewhere."""
    for search, asked in (("", {}), ("?against=random&cost=on", {"against": "random", "cost": True})):
        (panel,) = PAGE.panels(shown(suite, search))
        made = suite_table(results_of([suite]), left_out_of([suite]), **asked)
        assert panel.rows.to_csv() == long_rows(made).to_csv()
    assert "40 tokens: fastv keeps 87.5" in html_of(suite)
    assert [trace.name for trace in panel.figure.data] == ["fastv", "random"]


def test_a_cell_says_score_share_and_mark_and_leads_to_its_answers(suite):
    text = html_of(suite)
    fastv = row_of(text, "fastv")
    assert fastv.count('class="number best"') == 3  # on both benchmarks and in the mean
    key = GRID[1].key
    assert f'href="?config=first%3A{key}">87.5</a></span><small>87.5\xa0%</small>' in fastv
    assert 'best"' not in row_of(text, "random")
    absent = row_of(text, "vtw")
    assert 'colspan="3"' in absent
    assert "cannot run: 5 is outside &lt;b&gt;0..4&lt;/b&gt;" in absent
    assert "over random" in html_of(suite, "?against=random")


def test_printed_figures_stand_beside_ours_and_far_ones_are_flagged(suite, literature):
    text = html_of(suite)
    assert "<small>copied</small>" in row_of(text, "Theirs")
    assert '<small class="away-from">11.1\xa0% above printed</small>' in row_of(text, "un-pruned")
    assert "Theirs" not in html_of(suite, "?printed=none")
    values = {control.name: list(control.values) for control in PAGE.controls(shown(suite))}
    assert values["printed"] == ["T", "none"]
    assert values["budget"] == ["all", "40 tokens", "22 tokens"]


def test_budget_and_filters_choose_rows_and_change_no_number(suite):
    whole, some = html_of(suite), html_of(suite, "?budget=22+tokens&strategy=fastv")
    assert (whole.count('class="budget"'), some.count('class="budget"')) == (4, 3)
    assert row_of(some, "fastv") in whole.replace("?config=", "?budget=22+tokens&amp;strategy=fastv&amp;config=")
    assert ">random<" not in some


def test_a_suite_grows_while_it_is_looked_at(suite, tmp_path):
    """A benchmark that begins later is taken up; of an experiment alone there is no page and no link to it."""
    home = tmp_path / "later"
    write_suite(home, "later", [SuiteMember(model="m", benchmark=name) for name in ("one", "two")])
    with pytest.raises(StoreError, match="no benchmark of the suite has begun"):
        Gallery([home])
    right = np.ones((len(GRID), 40), dtype=int)
    write_matrix(home / "m" / "one", GRID, right, name="one")
    gallery = Gallery([home])
    assert [source.name for source in gallery.snapshot.sources] == ["one"]
    write_matrix(home / "m" / "two", GRID, right, name="two")
    assert [source.name for source in gallery.refresh().sources] == ["one", "two"]
    assert gallery.snapshot.sources[1].opened == Opened(path=home / "m" / "two", model="m", benchmark="two")
    alone = Gallery([home / "m" / "one"]).snapshot
    assert dict(zip(PAGES, links(alone, LAYER), strict=True))[PAGE] == "away"
    assert links(gallery.snapshot, PAGE).count("here") == 1
    assert not PAGE.panels(view(alone, State()))


def test_the_report_of_a_suite_is_its_table(suite, literature):
    page = write_suite_report(suite)
    text = page.read_text()
    assert row_of(text, "fastv").count('class="number best"') == 3
    assert "held against: random" in text
    assert "href=" not in row_of(text, "fastv")  # the benchmarks have no report yet
    home = suite / "m" / "first" / "report"
    home.mkdir()
    for name in ("index", "samples"):
        (home / f"{name}.html").write_text("")
    text = write_suite_report(suite).read_text()
    assert '<a href="../m/first/report/index.html">first</a> · second' in text
    assert 'href="../m/first/report/samples.html#config=first%3A' in row_of(text, "fastv")
    assert (page.parent / "data" / "benchmarks-means.csv").read_text("utf-8-sig").startswith("model,method,budget")


@needs_chromium
@pytest.mark.system
def test_a_reader_chooses_a_budget_and_goes_on_to_the_answers(suite):
    playwright = pytest.importorskip("playwright.sync_api")
    from browser import chromium, page_of

    with serving([suite]) as base, chromium() as browser, page_of(browser, ours=base) as page:
        page.goto(f"{base}/benchmarks?budget=22+tokens")
        rows = page.locator("table.benchmarks tr.budget")
        playwright.expect(rows).to_have_count(3)
        page.locator("table.benchmarks a", has_text="87.5").first.click()
        playwright.expect(page.locator("#details")).to_contain_text("fastv")
        playwright.expect(page.locator("nav a.here")).to_have_text("Benchmarks")
