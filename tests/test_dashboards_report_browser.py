"""The report's folder in a real browser, from the disk: the explorer by mouse and keyboard, figures, light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install .[dev]")
from playwright.sync_api import Browser, Page, expect

from browser import chromium, page_of
from dashboards.report import write_report
from fake_experiment import write_fake_experiment
from live_app import needs_chromium
from seen_experiment import IDS, SIDE, write_seen

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(write_seen(tmp_path_factory.mktemp("report") / "seen")).parent


@pytest.fixture
def explorer(browser: Browser, seen: Path) -> Iterator[Page]:
    with page_of(browser) as page:
        page.goto((seen / "samples.html").as_uri())
        expect(page.locator(".panel")).to_have_count(6)
        yield page


def listed(page: Page) -> list[str]:
    return page.locator(".samples .id").all_text_contents()


def test_samples_are_sorted_by_flips_and_switched(explorer: Page) -> None:
    assert listed(explorer) == [IDS[3], "中文 7", "plain", "../../etc/passwd"]
    assert explorer.locator(".samples .count").all_text_contents() == ["4 of 5", "3 of 5", "1 of 5", "1 of 5"]
    explorer.get_by_label("flips only").uncheck()
    assert listed(explorer) == [IDS[3], "中文 7", "plain", "../../etc/passwd", "damaged"]
    explorer.get_by_label("order").select_option("file")
    assert listed(explorer) == [*IDS[:4], "damaged"]
    explorer.keyboard.press("f")
    assert listed(explorer) == list(IDS[:4])


def test_keyboard_goes_to_the_next_and_the_previous_sample(explorer: Page) -> None:
    title = explorer.locator(".sample h2")
    expect(explorer.locator(".place")).to_have_text("1 of 4")
    explorer.keyboard.press("ArrowRight")
    expect(title).to_contain_text("Sample 中文 7")
    explorer.keyboard.press("ArrowRight")
    expect(title).to_contain_text("Sample plain")
    explorer.keyboard.press("ArrowLeft")
    explorer.keyboard.press("ArrowLeft")
    explorer.keyboard.press("ArrowLeft")  # round the corner
    expect(title).to_contain_text("Sample ../../etc/passwd")
    explorer.get_by_text("Next →").click()
    expect(explorer.locator(".place")).to_have_text("1 of 4")
    expect(explorer.locator(".samples [aria-current] .id")).to_have_text(IDS[3])


def test_panel_shows_what_was_kept_and_whether_it_is_right(explorer: Page) -> None:
    explorer.get_by_text("plain", exact=True).click()
    panels = explorer.locator(".panel")
    expect(panels.locator(".mark")).to_have_text(["✓", "✓", "✓", "✓", "✗", "✓"])
    expect(panels.nth(4).locator(".flip")).to_have_text("flipped")
    expect(panels.nth(4)).to_contain_text("0 of 64 kept")
    expect(panels.nth(4)).to_contain_text("every visual token is removed")
    assert panels.nth(4).locator(".dropped").get_attribute("d") == "".join(
        f"M0 {row}h{SIDE}v1h-{SIDE}z" for row in range(SIDE)
    )
    assert panels.nth(0).locator(".dropped").get_attribute("d") == ""
    expect(panels.nth(2)).to_contain_text("kept positions not recorded")
    assert panels.nth(2).locator(".dropped").count() == 0
    # The four patches that hold the answer are one square, whose border is eight sides long.
    assert (panels.nth(1).locator(".truth").get_attribute("d") or "").count("M") == 8
    right, wrong = (
        panels.nth(place).locator(".seen").evaluate("node => getComputedStyle(node).borderColor") for place in (1, 4)
    )
    assert (right, wrong) == ("rgb(0, 158, 115)", "rgb(213, 94, 0)")
    assert panels.nth(1).locator("img").evaluate("image => image.naturalWidth") == 336


def test_gained_answers_other_alphabets_and_missing_pictures(explorer: Page) -> None:
    explorer.get_by_text("../../etc/passwd").click()
    panels = explorer.locator(".panel")
    expect(panels.nth(1).locator(".flip")).to_have_text("flipped to right")
    assert panels.locator("img").count() == 0
    expect(explorer.locator(".sample > .note")).to_contain_text("No picture was recorded of this question")
    answer = panels.nth(3).locator("pre.answer")
    expect(answer).to_have_text("الأحمر")
    assert answer.evaluate("node => getComputedStyle(node).direction") == "rtl"
    assert explorer.locator("pre.question").evaluate("node => getComputedStyle(node).direction") == "rtl"


def test_failed_sample_says_why(explorer: Page) -> None:
    explorer.get_by_label("flips only").uncheck()
    explorer.locator(".samples").get_by_text("damaged").click()
    expect(explorer.locator("pre.failure")).to_contain_text("DataError: cannot be read <script>")
    expect(explorer.locator(".panel")).to_have_count(0)


def test_text_from_data_never_acts_and_a_long_answer_stays_in_its_box(explorer: Page) -> None:
    expect(explorer.locator(".sample h2")).to_contain_text("<script>")
    assert explorer.title() == "seen: Sample explorer"
    answer = explorer.locator("pre.answer").first
    box = answer.bounding_box()
    assert box is not None
    assert box["height"] < 120
    assert answer.evaluate("node => node.scrollHeight > node.clientHeight")
    assert explorer.evaluate("document.documentElement.scrollWidth") <= 1280


def test_comparison_counts_only_its_own_flips_and_stands_in_the_address(explorer: Page, seen: Path) -> None:
    explorer.get_by_label("compare").select_option("series")
    expect(explorer.locator(".panel")).to_have_count(4)
    assert explorer.locator(".samples .count").all_text_contents() == ["3 of 3", "2 of 3", "1 of 3"]
    explorer.keyboard.press("ArrowRight")
    expect(explorer.locator(".sample h2")).to_contain_text("Sample 中文 7")
    address = explorer.url
    assert "axis=series" in address
    explorer.goto("about:blank")
    explorer.goto(address)
    expect(explorer.locator(".sample h2")).to_contain_text("Sample 中文 7")
    expect(explorer.locator(".panel")).to_have_count(4)


def test_link_to_one_configuration_opens_its_comparison(explorer: Page, seen: Path) -> None:
    explorer.goto((seen / "index.html").as_uri())
    explorer.get_by_role("link", name="plain").click()
    expect(explorer.locator(".sample h2")).to_contain_text("Sample plain")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_opens_from_the_disk(browser: Browser, seen: Path, scheme: str) -> None:
    with page_of(browser, scheme) as page:
        for file in sorted(seen.glob("*.html")):
            page.goto(file.as_uri())
            expect(page.locator("h1")).to_have_text("seen")
            paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert paper == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(21, 24, 28)")
            assert page.evaluate("document.documentElement.scrollWidth") <= 1280, file.name


def test_figures_are_drawn_when_they_come_into_sight_in_the_readers_colours(browser: Browser, tmp_path: Path) -> None:
    folder = write_report(write_fake_experiment(tmp_path / "e", samples=40)).parent
    with page_of(browser, "dark") as page:
        page.goto((folder / "layer.html").as_uri())
        expect(page.locator(".plot .main-svg").first).to_be_visible()
        colour = page.locator(".plot").first.evaluate("plot => plot.layout.template.layout.paper_bgcolor")
        assert colour == "#15181c"
        page.locator(".export summary").first.click()
        expect(page.locator(".export code").first).to_contain_text("e layer/accuracy --width 3.25in")
        with page.expect_download() as download:
            page.locator(".export").first.get_by_text("SVG", exact=True).click()
        drawn = Path(download.value.path()).read_text()
        assert download.value.suggested_filename == "layer-accuracy.svg"
        assert f"<metadata>{page.locator('.source').first.inner_text()}</metadata>" in drawn
        assert "#15181c" not in drawn  # for white paper, whatever the reader's screen is
        page.locator("h1").click()
        expect(page.locator(".export[open]")).to_have_count(0)
        page.emulate_media(color_scheme="light")
        page.wait_for_function("document.querySelector('.plot').layout.template.layout.paper_bgcolor === '#ffffff'")
