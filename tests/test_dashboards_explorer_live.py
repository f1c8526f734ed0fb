"""The sample explorer inside the live app: its routes, and the page in a real browser."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install .[dev]")
from playwright.sync_api import Browser, Page, expect
from werkzeug.test import Client

from browser import chromium, page_of
from dashboards.app import create_app
from dashboards.gallery import Gallery
from fake_experiment import write_fake_experiment
from live_app import needs_chromium, serving
from seen_experiment import IDS, POINTS, write_seen


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("live")
    write_seen(folder / "seen")
    write_fake_experiment(folder / "fake", samples=30)
    return folder


@pytest.fixture(scope="module")
def client(folder: Path) -> Client:
    return create_app(Gallery([folder / "seen", folder / "fake"])).server.test_client()


def test_index_follows_the_filter_bar(client: Client) -> None:
    index = client.get("/explorer/index").get_json()
    assert (index["source"], index["sources"]) == ("seen", ["seen", "fake"])
    assert len(index["groups"]) == 3
    index = client.get("/explorer/index?strategy=fastv").get_json()
    assert [group["points"] for group in index["groups"]] == [[1, 5]]
    assert client.get("/explorer/index?experiment=fake").get_json()["source"] == "fake"
    assert client.get("/explorer/index?strategy=cutoff&layer=2").get_json()["groups"] == []


def test_samples_and_pictures_are_found_by_id_alone(client: Client) -> None:
    picture = client.get("/explorer/picture", query_string={"experiment": "seen", "sample": "中文 7"})
    assert (picture.status_code, picture.mimetype) == (200, "image/webp")
    assert picture.data.startswith(b"RIFF")
    document = client.get("/explorer/sample", query_string={"experiment": "seen", "sample": IDS[3]}).get_json()
    assert document["id"] == IDS[3]
    for experiment, sample in (
        ("seen", "../../etc/passwd"),  # a sample of this name, without a picture
        ("seen", "../seen/sweep.yaml"),
        ("seen", "/etc/passwd"),
        ("../seen", "plain"),
        ("fake", "plain"),
        ("", ""),
    ):
        answer = client.get("/explorer/picture", query_string={"experiment": experiment, "sample": sample})
        assert answer.status_code == 404, (experiment, sample)
    assert client.get("/explorer/sample", query_string={"experiment": "fake", "sample": "plain"}).status_code == 404


def test_routes_refuse_names_that_are_not_ours(client: Client) -> None:
    for route in ("index", "sample?experiment=seen&sample=plain", "picture?experiment=seen&sample=plain"):
        assert client.get(f"/explorer/{route}", headers={"Host": "evil.example"}).status_code == 400


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with serving([folder / "seen", folder / "fake"]) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    with page_of(browser, ours=address) as found:
        yield found


@needs_chromium
def test_explorer_flips_through_samples_and_keeps_them_in_the_address(page: Page, address: str) -> None:
    page.goto(f"{address}/samples")
    expect(page.locator(".panel")).to_have_count(6)
    assert page.locator(".samples .id").all_text_contents() == [IDS[3], "中文 7", "plain", "../../etc/passwd"]
    page.keyboard.press("ArrowRight")
    expect(page.locator(".sample h2")).to_contain_text("Sample 中文 7")
    page.get_by_label("flips only").uncheck()
    expect(page.locator(".samples .id")).to_have_count(5)
    page.get_by_label("compare").select_option("series")
    expect(page.locator(".panel")).to_have_count(4)
    expect(page).to_have_url(re.compile("axis=series"))
    shared = page.url
    page.goto("about:blank")
    page.goto(shared)
    expect(page.locator(".sample h2")).to_contain_text("Sample 中文 7")
    expect(page.locator(".panel")).to_have_count(4)
    expect(page.get_by_label("flips only")).not_to_be_checked()
    assert page.locator(".panel img").first.evaluate("image => image.naturalWidth") == 336


@needs_chromium
def test_link_from_a_configuration_opens_its_comparison(page: Page, address: str) -> None:
    page.goto(f"{address}/samples?experiment=seen&sample=plain&config=seen:{POINTS[5].key}&axis=layer")
    expect(page.locator(".sample h2")).to_contain_text("Sample plain")
    expect(page.locator(f"[data-point='{POINTS[5].key}']")).to_be_visible()
    expect(page).not_to_have_url(re.compile("config="))
    page.goto(f"{address}/samples?experiment=seen&strategy=cutoff&layer=2")
    expect(page.locator(".explorer > .note")).to_contain_text("No configuration passes the filters")
    expect(page.locator(".panel")).to_have_count(1)
    page.get_by_label("experiment", exact=True).select_option("fake")
    expect(page).to_have_url(re.compile("experiment=fake"))
    expect(page.locator(".samples .id").first).to_contain_text("s")


@needs_chromium
def test_new_answers_arrive_and_the_sample_stays(browser: Browser, tmp_path: Path) -> None:
    whole = write_fake_experiment(tmp_path / "whole", samples=40)
    part = tmp_path / "part"
    shutil.copytree(whole.path, part)
    later = sorted((part / "cells").iterdir())[1:]
    for file in later:
        file.unlink()
    with serving([part]) as address, page_of(browser, ours=address) as page:
        page.goto(f"{address}/samples?flips=0&sort=file")
        expect(page.locator(".samples .id")).to_have_count(9)
        page.keyboard.press("ArrowRight")
        expect(page.locator(".sample h2")).to_contain_text("Sample s1strategies")
        for file in later:
            shutil.copy(whole.path / "cells" / file.name, part / "cells" / file.name)
        expect(page.locator(".samples .id")).to_have_count(36)
        expect(page.locator(".sample h2")).to_contain_text("Sample s1strategies")
