"""A real Chromium for tests of pages, which fail on any console error and on any request that leaves the machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, expect, sync_playwright

from live_app import CHROMIUM

expect.set_options(timeout=20_000)  # ms; a busy machine is no failure


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def page_of(browser: Browser, scheme: str = "light", ours: str = "file://") -> Iterator[Page]:
    """A page of 1280 x 800; at its end nothing may have been complained about or loaded from elsewhere.

    Args:
        browser: Of `chromium`.
        scheme: The reader's setting, light or dark.
        ours: What all addresses begin with.
    """
    page = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
    complaints: list[str] = []
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith((ours, "data:", "blob:")) else complaints.append(f"asks for {request.url}")
        ),
    )
    yield page
    page.close()
    assert complaints == []
