"""The pages as a reader meets them: in a real Chromium, over a live server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from answer_matrix import MISSING, write_matrix
from fake_experiment import LAYERS, VISUAL_TOKENS, write_fake_experiment
from live_app import CHROMIUM, needs_chromium, serving
from waiting import wait_for
from workers.work import GridPoint, unpruned_point

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install .[dev]")
expect = playwright.expect
expect.set_options(timeout=20_000)  # ms; a busy machine is no failure
pytestmark = needs_chromium

EVIL = "<img src=x onerror=document.title='owned'>"
BASE = unpruned_point(32, 576)
GRID = (
    BASE,
    *(GridPoint(strategy=s, layer=k, rank=r) for s in ("fastv", "random") for k in (2, 4, 8) for r in (16, 64)),
    *(GridPoint(strategy="weighted_combination", layer=2, rank=16, params=(("alpha", a),)) for a in (0.3, 0.7)),
    *(
        GridPoint(
            strategy="ablation", layer=2, rank=64, params=(("head", h), ("heads_kept", 8), ("query", "last_token"))
        )
        for h in ("sum", "entropy", "variance")
    ),
)
PAGES = (
    "Overview",
    "Layer cut-off",
    "Tokens kept",
    "Strategy × layer",
    "Alpha",
    "Ablations",
    "Pareto",
    "A against B",
    "Rescued",
    "Sample explorer",
    "Run",
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Complete, partial and missing configurations, a failed sample, and answers that would like to be HTML."""
    rng = np.random.default_rng(0)
    right = (rng.random((len(GRID), 60)) < 0.6).astype(int)
    right[0] = 1
    right[3, 30:] = MISSING
    right[4] = MISSING
    right[:, 5] = MISSING
    path = tmp_path_factory.mktemp("browser") / "e"
    write_matrix(path, GRID, right, failed=(5,), wrong=EVIL, question="Welche Farbe? 什么颜色? ما اللون؟")
    return path


@pytest.fixture(scope="module")
def address(store: Path) -> Iterator[str]:
    with serving([store]) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with playwright.sync_playwright() as runner:
        browser = runner.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser) -> Iterator[object]:
    """A page that fails its test when the console has something to say, or anything is loaded from elsewhere."""
    page = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme="light")
    said: list[str] = []
    page.on("console", lambda line: said.append(line.text) if line.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(f"loads {request.url}") if _foreign(request.url) else None)
    yield page
    page.close()
    assert said == []


def _foreign(url: str) -> bool:
    return not url.startswith(("http://127.0.0.1:", "data:", "blob:"))


def stands_still(page) -> bool:
    """Whether the time of the last refresh, in seconds, is the same for several times as long as a refresh takes."""
    seen = page.locator("#as-of").inner_text()
    page.wait_for_timeout(1600)
    return page.locator("#as-of").inner_text() == seen


def plotted(page, card: str) -> None:
    page.wait_for_selector(f"#card-{card} .js-plotly-plot .main-svg", timeout=20_000)


@pytest.mark.parametrize("look", ["light", pytest.param("dark", marks=pytest.mark.system)])
def test_every_page_opens_without_a_word_on_the_console(page, address: str, look: str) -> None:
    page.emulate_media(color_scheme=look)
    page.goto(address)
    for name in PAGES:
        page.get_by_role("link", name=name, exact=True).click()
        page.wait_for_selector(f"nav a.here:text-is('{name}')")
        page.wait_for_selector("main .js-plotly-plot .main-svg, main .note:not([hidden])")
        assert page.locator("main .nothing").count() == 0, name
    assert page.evaluate("document.documentElement.dataset.theme") == look
    assert "1 sample failed" in page.locator("#notices").inner_text()
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(255, 255, 255)" if look == "light" else "rgb(21, 24, 28)")


def test_a_click_on_a_cell_opens_its_configuration_and_answers_are_text(page, address: str) -> None:
    page.goto(f"{address}/heat?strategy=fastv&strategy=random")
    plotted(page, "heat")
    box = page.locator("#card-heat .nsewdrag").first.bounding_box()
    page.mouse.click(box["x"] + 0.1 * box["width"], box["y"] + 0.25 * box["height"])
    page.wait_for_selector("#details.open")
    text = page.locator("#details").inner_text()
    assert "fastv layer=2 rank=16" in text
    assert "95 % interval (Wilson)" in text
    assert EVIL in text  # readable, and without effect
    assert page.title() != "owned"
    assert "config=matrix%3A" in page.url
    page.locator("#details-close").click()
    page.wait_for_selector("#details:not(.open)", state="attached")
    assert "config=" not in page.url


def test_a_filter_in_the_url_restores_the_view_and_choosing_one_changes_the_url(page, address: str) -> None:
    curves = (
        "[...document.querySelector('#card-accuracy .js-plotly-plot').data.filter(t => t.hovertext).map(t => t.name)]"
    )
    page.goto(f"{address}/layer?strategy=random&kept=64")
    plotted(page, "accuracy")
    assert page.evaluate(curves) == ["random"]
    assert "64 tokens kept" in page.locator("#card-accuracy .gtitle-subtitle").text_content()
    boxes = page.locator("#filters label", has_text="Strategy")
    assert "random" in boxes.inner_text()
    boxes.locator(".dash-dropdown-clear").click()
    page.wait_for_function(f"() => {curves}.length === 2")
    assert "strategy=" not in page.url
    assert "kept=64" in page.url
    page.go_back()
    page.wait_for_function(f"() => {curves}.length === 1")
    assert "random" in boxes.inner_text()


@pytest.mark.system
def test_zoom_survives_new_data(page, tmp_path: Path) -> None:
    path = tmp_path / "live"
    write_fake_experiment(path, samples=60, done=30)
    plot = "document.querySelector('#card-accuracy .js-plotly-plot')"
    told = f"{plot}.data.filter(t => t.hovertext)[0].hovertext[0]"
    with serving([path]) as address:
        page.goto(f"{address}/layer")
        plotted(page, "accuracy")
        assert "n = 27 of 54" in page.evaluate(told)
        box = page.locator("#card-accuracy .nsewdrag").first.bounding_box()
        page.mouse.move(box["x"] + 200, box["y"] + 40)
        page.mouse.down()
        page.mouse.move(box["x"] + 500, box["y"] + 180, steps=4)
        page.mouse.up()
        page.wait_for_function(f"() => {plot}._fullLayout.xaxis.range[0] > 2.5")
        zoomed = page.evaluate(f"{plot}._fullLayout.xaxis.range")
        page.wait_for_timeout(300)
        write_fake_experiment(path, samples=60, done=60)
        page.wait_for_function(f"() => {told}.includes('n = 54<br>')", timeout=30_000)
        assert page.evaluate(f"{plot}._fullLayout.xaxis.range") == zoomed
        page.locator("#live input").uncheck()  # no refresh from here on, but for one that is under way
        wait_for(lambda: stands_still(page))


@pytest.mark.system
def test_an_experiment_that_is_moved_away_stays_on_the_page_and_comes_back(page, tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "live", tmp_path / "elsewhere"
    right = np.ones((len(GRID), 20), dtype=int)
    right[1:, ::3] = 0
    write_matrix(path, GRID, right)
    notices = page.locator("#notices")
    with serving([path]) as address:
        page.goto(f"{address}/heat?strategy=fastv&strategy=random")
        plotted(page, "heat")
        path.rename(elsewhere)
        expect(notices).to_contain_text(f"{path}: does not exist", timeout=30_000)
        expect(notices).to_contain_text("what is shown is as it was before")
        box = page.locator("#card-heat .nsewdrag").first.bounding_box()
        page.mouse.click(box["x"] + 0.9 * box["width"], box["y"] + 0.25 * box["height"])
        page.wait_for_url("**config=*")  # what its configuration says cannot be read, which is no error on the console
        page.get_by_role("link", name="Layer cut-off", exact=True).click()
        plotted(page, "accuracy")
        elsewhere.rename(path)
        expect(notices).not_to_contain_text("as it was before", timeout=30_000)
        page.locator("#live input").uncheck()
        wait_for(lambda: stands_still(page))


@pytest.mark.system
def test_the_controls_follow_a_sweep_that_grows(page, tmp_path: Path) -> None:
    path = tmp_path / "live"
    grid = [unpruned_point(LAYERS, VISUAL_TOKENS)]
    grid += [GridPoint(strategy="fastv", layer=layer, rank=rank) for rank in (8, 32) for layer in range(2, LAYERS)]
    more = [GridPoint(strategy="fastv", layer=layer, rank=16) for layer in range(2, LAYERS)]
    write_fake_experiment(path, samples=20, points=tuple(grid))
    with serving([path]) as address:
        page.goto(f"{address}/layer?kept=32")
        plotted(page, "accuracy")
        thumb = page.locator("#controls [role=slider]")
        assert thumb.get_attribute("aria-valuemax") == "1"
        write_fake_experiment(path, samples=20, points=tuple(grid + more))
        page.wait_for_function(
            "() => document.querySelector('#controls [role=slider]').getAttribute('aria-valuemax') === '2'",
            timeout=30_000,
        )
        assert thumb.get_attribute("aria-valuenow") == "2", "it still stands at 32"
        thumb.focus()
        page.keyboard.press("ArrowLeft")
        page.wait_for_function("() => location.search.includes('kept=16')")
        page.wait_for_function(
            "() => document.querySelector('#card-accuracy .gtitle-subtitle').textContent.includes('16 tokens kept')"
        )


def test_every_panel_gives_its_numbers_its_picture_and_a_page(page, address: str) -> None:
    page.goto(f"{address}/layer?strategy=fastv&strategy=random")
    plotted(page, "accuracy")
    saved = {}
    page.locator("#card-accuracy .export summary").click()
    command = page.locator("#card-accuracy .export code")
    expect(command).to_contain_text("layer/accuracy --width 3.25in --choose strategy=fastv --choose strategy=random")
    expect(page.locator("#card-accuracy .source")).to_contain_text(re.compile("^model · .* · n = 59 · saccade "))
    for kind in ("CSV", "SVG", "PNG", "HTML"):
        with page.expect_download() as download:
            page.locator("#card-accuracy .export").get_by_text(kind, exact=True).click()
        saved[kind] = Path(download.value.path()).read_bytes()
        assert download.value.suggested_filename == f"layer-cut-off-accuracy.{kind.lower()}"
    assert saved["CSV"].startswith("\ufeffkey,".encode())
    assert saved["CSV"].count(b"\n") == 1 + 6  # a header, and two strategies at three layers
    assert b' width="3.25in"' in saved["SVG"]
    assert f"<metadata>{page.locator('#card-accuracy .source').inner_text()}</metadata>".encode() in saved["SVG"]
    assert b"fastv" in saved["SVG"]
    assert b"Relative drop" not in saved["SVG"]
    assert saved["PNG"].startswith(b"\x89PNG")
    assert not re.search(rb"<(script|link)[^>]+(src|href)=", saved["HTML"])  # needs nothing beside itself
    assert len(saved["HTML"]) > 1_000_000  # the library is inside


def test_ticking_rows_compares_them_and_stays_in_the_url(page, address: str) -> None:
    page.goto(address)
    page.wait_for_selector(".ag-center-cols-container .ag-row")
    page.locator("#overview-grid").scroll_into_view_if_needed()
    rows = page.locator(".ag-row input[type=checkbox]")
    ticked = page.locator(".ag-center-cols-container .ag-row-selected")
    compared = page.locator("#card-compare .js-plotly-plot")
    expect(page.locator(".ag-row [col-id=accuracy]").first).to_have_text(re.compile(r"^\d+\.\d$"))
    for place in range(3):  # all of it in one page, which no step may empty
        rows.nth(place).click()
        expect(ticked).to_have_count(place + 1)
        expect(compared).to_have_count(int(place > 0))
    assert page.url.count("pick=") == 3
    page.go_back()
    expect(ticked).to_have_count(2)
    page.reload()
    expect(compared).to_have_count(1)
    expect(ticked).to_have_count(2)


def test_a_page_that_was_opened_before_the_first_answer_fills(page, tmp_path: Path) -> None:
    write_fake_experiment(tmp_path / "live", samples=20, done=0)
    with serving([tmp_path / "live"]) as address:
        page.goto(f"{address}/layer")
        expect(page.locator("main .nothing")).to_contain_text("Nothing is answered yet")
        write_fake_experiment(tmp_path / "live", samples=20)
        plotted(page, "accuracy")
        assert page.locator("main .nothing").count() == 0
        page.goto("about:blank")  # nobody asks while the server goes


def test_a_server_that_is_gone_and_a_page_that_never_was_are_said(browser, address: str) -> None:
    page = browser.new_page()  # whose console complains of what does not arrive
    page.goto(f"{address}/nowhere/layer")
    expect(page.locator("main .nothing")).to_contain_text("There is no page /nowhere/layer. There are:")
    expect(page.get_by_role("link", name="Tokens kept").first).to_have_attribute("href", "/tokens")
    page.locator("main .nothing a", has_text="Run").click()
    expect(page.locator("main time")).to_have_attribute("data-ago", re.compile(r"^\d+ (s|min) ago$"))
    page.context.set_offline(True)
    expect(page.locator("#as-of")).to_have_attribute("data-lost", re.compile("^no answer from the server for"))
    page.context.set_offline(False)
    expect(page.locator("#as-of")).not_to_have_attribute("data-lost", re.compile(""))
    page.close()


def test_questions_that_one_method_alone_answers_right_are_a_click_away(page, address: str) -> None:
    page.goto(f"{address}/versus?first=fastv&second=random")
    count = page.locator("#card-versus tbody tr").nth(1).locator("a").first
    won = int(count.inner_text())
    assert won > 1
    count.click()
    listed = page.locator("#explorer-root .samples li")
    expect(listed).to_have_count(won)
    expect(page.locator("#explorer-root .panel .mark")).to_have_text(["✓", "✓", "✗"])
    page.get_by_label("questions").select_option("lost")
    expect(page.locator("#explorer-root .panel .mark")).to_have_text(["✓", "✗", "✓"])
    page.get_by_label("search").fill("s1 Farbe")
    expect(listed.first.locator(".id")).to_have_text(re.compile("^s1"))
    assert "duel=lost" in page.url
    page.get_by_label("search").fill("nowhere")
    expect(page.locator("#explorer-root .sample")).to_contain_text("No question is left")
    page.go_back()
    page.wait_for_selector("#card-versus")
    assert "sample=" not in page.url


def test_labels_at_line_ends_stay_at_their_lines_when_zoomed(page, address: str) -> None:
    """Where a line leaves the picture, that is; and as drawn once the zoom is taken back."""
    plot = "document.querySelector('#card-accuracy .js-plotly-plot')"
    labels = f"Object.fromEntries({plot}.layout.annotations.map(a => [a.name, a.visible === false ? null : a.y]))"
    page.goto(f"{address}/layer?strategy=fastv&strategy=random&kept=16")
    plotted(page, "accuracy")
    drawn = page.evaluate(labels)
    curves = f"{plot}._fullData.filter(t => t.hovertext).map(t => ['line:' + t.name, [...t.y]])"
    lines = page.evaluate(f"Object.fromEntries({curves})")
    assert {name: y[-1] for name, y in lines.items()}.items() <= drawn.items()
    page.evaluate(f"Plotly.relayout({plot}, {{'xaxis.range': [2, 3]}})")  # half way from layer 2 to 4
    half = {name: (first + second) / 2 for name, (first, second, *_) in lines.items()}
    page.wait_for_function(
        f"half => Object.entries(half).every(([name, y]) => Math.abs({labels}[name] - y) < 1e-6)", arg=half
    )
    page.evaluate(f"Plotly.relayout({plot}, {{'yaxis.range': [0, 99]}})")
    page.wait_for_function(f"() => {labels}['line:'] === null")  # the un-pruned model's, at 100 %, is out of sight
    page.locator("#card-accuracy .nsewdrag").first.dblclick()
    page.wait_for_function(f"drawn => JSON.stringify({labels}) === JSON.stringify(drawn)", arg=drawn)


def test_unfolded_numbers_are_those_of_the_filter(page, address: str) -> None:
    """The table is built when it is unfolded, follows the filters while it is open, and takes data for text."""
    page.goto(f"{address}/layer?strategy=fastv&rank=16")
    page.wait_for_selector("#card-accuracy details:not(.export) summary")
    assert page.locator("#card-accuracy td").count() == 0
    page.locator("#card-accuracy details:not(.export) summary").click()
    page.wait_for_selector("#card-accuracy td")
    names = page.locator("#card-accuracy tbody tr td:first-child")
    assert all("fastv" in text for text in names.all_inner_texts())
    page.evaluate("window.dash_clientside.set_props('url', { search: '?strategy=random&rank=16' })")
    page.wait_for_function("() => document.querySelector('#card-accuracy tbody td')?.innerText.includes('random')")
    assert all("random" in text for text in names.all_inner_texts())
