"""Fixtures: a page of a headless Chromium, in sizes and colours that people have."""

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
    """Gone with the module: while it is there its event loop has the thread, and no asynchronous test can run."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(print), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Open:
    """Opens a page so many pixels wide. When it is left, it has said nothing on the console, and asked nobody but the
    machine itself for anything."""

    @contextmanager
    def opened(width: int, scheme: Scheme) -> Iterator[Page]:
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: None if _is_local(request.url) else said.append(request.url))
        try:
            yield page
            assert not said
        finally:
            page.close()

    return opened


def _is_local(url: str) -> bool:
    return url.startswith(("file:", "data:", "blob:", "http://127.0.0.1:"))
