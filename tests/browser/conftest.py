"""Fixtures: pages of a headless Chromium in a given width and color scheme."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser.chromium import chromium

Scheme = Literal["light", "dark"]
Open = Callable[[int, Scheme], AbstractContextManager[Page]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for one module.

    Its event loop occupies the thread, so no asynchronous test can run at the same time.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(print), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Open:
    """Opens a page of a given width in pixels. It fails if the page logs to the console or requests another machine."""

    @contextmanager
    def opened(width: int, scheme: Scheme) -> Iterator[Page]:
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        events: list[str] = []
        page.on("console", lambda message: events.append(message.text))
        page.on("pageerror", lambda error: events.append(str(error)))
        page.on("request", lambda request: None if _is_local(request.url) else events.append(request.url))
        try:
            yield page
            assert not events
        finally:
            page.close()

    return opened


def _is_local(url: str) -> bool:
    return url.startswith(("file:", "data:", "blob:", "http://127.0.0.1:"))
