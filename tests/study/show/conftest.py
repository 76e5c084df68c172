"""Two reports, written once, and headless Chromium, which opens them without a network."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.study.show.browsed import CHROMIUM, DEMO, LARGE, Open, write_report


@pytest.fixture(scope="module")  # while it runs, asyncio.run of other tests fails
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(DEMO, tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(LARGE, tmp_path_factory.mktemp("large"), estimated=False)


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Return a function that opens a page without a network; an error on its console fails."""
    contexts: list[BrowserContext] = []
    messages: list[str] = []
    requests: list[str] = []

    def open_it(path: Path, width: int = 1280, scheme: Any = "light") -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
        )
        context.set_default_timeout(120_000)  # the machine may be busy
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: messages.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert messages == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
