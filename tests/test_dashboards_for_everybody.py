"""The pages for readers on a phone, without eyes or pointer, behind a proxy, and at the end of a slow line."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from answer_matrix import write_matrix
from live_app import needs_chromium, serving
from workers.work import GridPoint, unpruned_point

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install .[dev]")

from browser import chromium, expect, page_of

PREFIX = "/user/me/proxy/8050/"
NAMES = ("Overview", "Layer cut-off", "Rescued", "Sample explorer", "Strategy × layer")
GRID = (
    unpruned_point(8, 64),
    *(GridPoint(strategy=s, layer=k, rank=r) for s in ("fastv", "random") for k in (2, 4, 6) for r in (8, 32)),
)
TOO_WIDE = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
UNNAMED = """() => [...document.querySelectorAll("button, input, select, [role=slider], .js-plotly-plot, img")]
  .filter((part) => part.offsetWidth && part.tabIndex !== -1 || part.matches(".js-plotly-plot"))
  .filter((part) => !(part.getAttribute("aria-label") || part.alt || part.textContent.trim() || part.title ||
    (part.labels || []).length || part.getAttribute("aria-labelledby") || part.closest(".modebar")))
  .map((part) => part.outerHTML.slice(0, 200))"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    right = (np.random.default_rng(0).random((len(GRID), 40)) < 0.6).astype(int)
    right[0] = 1
    path = tmp_path_factory.mktemp("everybody") / "e"
    write_matrix(path, GRID, right)
    return path


@pytest.fixture(scope="module")
def address(store: Path) -> Iterator[str]:
    with serving([store], prefix=PREFIX) as url:
        yield url


@needs_chromium
def test_pages_behind_a_prefix_fit_a_phone_and_have_names_for_all_that_they_hold(address: str) -> None:
    with chromium() as browser, page_of(browser, ours=address + PREFIX) as page:
        page.set_viewport_size({"width": 390, "height": 844})
        page.goto(address + PREFIX)
        page.wait_for_selector(".ag-row")
        for name in NAMES:
            page.get_by_role("link", name=name, exact=True).click()
            expect(page).to_have_title(f"{name} · Saccade")
            page.wait_for_selector("main .js-plotly-plot[aria-label], main .explorer .panel")
            assert not page.evaluate(TOO_WIDE), name
            assert page.evaluate(UNNAMED) == [], name
            assert page.locator("h1").count() == 1
        assert page.get_attribute("html", "lang") == "en"

        page.locator("main details:not(.export) summary").first.click()
        page.locator("main details a").first.click()
        expect(page.locator("#details")).to_be_focused()
        page.keyboard.press("Escape")
        expect(page.locator("#details")).not_to_have_class("open")


def test_answers_are_compressed_for_those_who_can_read_that_and_the_grid_comes_alone(store: Path) -> None:
    from dashboards.app import create_app
    from dashboards.gallery import Gallery

    client = create_app(Gallery([store]), prefix=PREFIX).server.test_client()
    plain = client.get(PREFIX)  # a proxy that leaves its prefix
    small = client.get("/", headers={"Accept-Encoding": "gzip"})  # and one that takes it away
    assert gzip.decompress(small.data).startswith(b"<!DOCTYPE html>")
    assert "Content-Encoding" not in plain.headers
    page = plain.get_data(as_text=True)
    assert f'src="{PREFIX}_dash-component-suites/' in page
    assert "dash_ag_grid.min.js" not in page
    for _ in range(2):  # compressed, and out of the store
        script = client.get(
            "/_dash-component-suites/dash_ag_grid/dash_ag_grid.min.js", headers={"Accept-Encoding": "gzip"}
        )
        assert len(script.data) < 500_000
        assert b"dash_ag_grid" in gzip.decompress(script.data)
