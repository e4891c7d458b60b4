"""Tests that everybody can use the operator page: on a phone, in the dark, by keyboard, with a screen reader.

Each view is tested with texts that are hard to show, without content, and after the server has stopped.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Final

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.checks import check_keyboard, check_texts, serious_violations
from tests.browser.conftest import Open
from tests.browser.operated import ANSWER, ARABIC, ENDED, LONG_MODEL, LONG_NAME, operated

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

_SCREENS: Final = ((1280, 800, "light"), (390, 844, "dark"))
_MIN_CONTROLS: Final = 8  # of the header
_NARROW: Final = (640, 320)  # 1280 pixels at a zoom of 200 % and of 400 %
_EMPTY: Final = MappingProxyType(
    {
        "**/ui/api/state": {"models": [], "mismatches": {}},
        "**/experiments": [],
        "**/feedback": {"requests": 0},
    }
)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with operated(tmp_path_factory.mktemp("operated")) as page:
        yield page


def _open_details(page: Page) -> None:
    page.evaluate("document.querySelectorAll('main details').forEach((one) => (one.open = true))")


def _ask(page: Page) -> None:
    page.get_by_placeholder("Ask something").fill(ARABIC)
    page.get_by_text("More settings").click()
    page.get_by_label("System message").fill(ARABIC)
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator(".card dd")).to_have_count(10, timeout=60_000)
    _open_details(page)


def _answered(page: Page) -> None:
    _ask(page)
    expect(page.locator(".card.aligned .text")).to_have_text(ANSWER)
    expect(page.locator("#said")).to_contain_text("A short answer first.")


def _reported(page: Page) -> None:
    expect(page.locator(".verdict")).to_be_visible(timeout=60_000)


def _improved(page: Page) -> None:
    _reported(page)
    expect(page.locator(".changes pre")).to_be_visible()
    _open_details(page)


def _alone(page: Page) -> None:
    expect(page.locator(".asked .question").first).to_be_visible()


def _listed(page: Page) -> None:
    expect(page.locator(".examples li")).to_have_count(60)
    page.get_by_role("button", name="List 60 more").click()
    expect(page.locator(".examples li")).to_have_count(75)


def _found(page: Page) -> None:
    page.get_by_label("Which examples does a question find?").fill(ARABIC)
    page.get_by_role("button", name="Search").click()
    expect(page.locator(".found li.shown").first).to_be_visible()
    page.get_by_role("button", name="List all examples").click()
    expect(page.locator(".examples li")).to_have_count(60)
    page.locator(".map circle").last.click()
    expect(page.locator(".examples li")).to_have_count(1)


def _live(page: Page) -> None:
    expect(page.locator(".backends li")).to_have_count(1)


def _nothing(page: Page) -> None:
    expect(page.locator(".empty h1")).to_be_visible()


_STATES: Final = (
    ("playground", lambda page: expect(page.get_by_placeholder("Ask something")).to_be_visible()),
    ("playground", _answered),
    (f"experiments/{LONG_NAME}", _reported),
    (f"experiments/{ENDED}", _reported),
    (f"improve/{LONG_NAME}", _improved),
    ("improve/~none", _alone),
    ("bundles", _listed),
    (f"bundles/{LONG_MODEL.replace('/', '%2F')}", _found),
    ("live", _live),
)
_EMPTY_STATES: Final = tuple((view, _nothing) for view in ("playground", "experiments", "improve", "bundles"))


def _replying(reply: object) -> Callable[[Route], None]:
    return lambda route: route.fulfill(json=reply)


def _check_on_all_screens(page: Page, shots: Path) -> None:
    for width, height, scheme in _SCREENS:
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme=scheme)
        assert serious_violations(page) == [], (width, scheme)
        check_texts(page)
        assert check_keyboard(page) >= _MIN_CONTROLS
        page.screenshot(path=f"{shots}-{width}-{scheme}.png", full_page=True)
    for width in _NARROW:
        page.set_viewport_size({"width": width, "height": 400})
        check_texts(page)


@pytest.mark.parametrize(("view", "prepare"), _STATES)
def test_everybody_can_use_a_view_full_of_hard_texts(
    url: str, open_page: Open, tmp_path: Path, view: str, prepare: Callable[[Page], None]
) -> None:
    with open_page(1280, "light") as page:
        page.goto(f"{url}#{view}")
        prepare(page)
        _check_on_all_screens(page, tmp_path / "full")


@pytest.mark.parametrize(("view", "prepare"), _EMPTY_STATES)
def test_everybody_can_use_a_view_with_nothing_in_it(
    url: str, open_page: Open, tmp_path: Path, view: str, prepare: Callable[[Page], None]
) -> None:
    with open_page(1280, "light") as page:
        for path, reply in _EMPTY.items():
            page.route(path, _replying(reply))
        page.goto(f"{url}#{view}")
        prepare(page)
        _check_on_all_screens(page, tmp_path / "empty")


def test_skip_link_leads_to_the_content_and_escape_clears_a_search(url: str, open_page: Open) -> None:
    with open_page(1280, "light") as page:
        page.goto(f"{url}#bundles")
        expect(page.locator(".examples li")).to_have_count(60)
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.closest('main') !== null")
        assert page.url.endswith("#bundles")
        search = page.get_by_label("Which examples does a question find?")
        search.fill("What is 5 times 5?")
        search.press("Enter")
        expect(page.locator(".found li.shown").first).to_be_visible()
        search.press("Escape")
        expect(page.locator(".examples li")).to_have_count(60)


def test_answer_is_typed_without_motion_for_those_who_want_none(url: str, open_page: Open) -> None:
    with open_page(1280, "light") as page:
        page.emulate_media(reduced_motion="reduce")
        page.route("**/ui/api/chat", lambda _: None)  # no answer arrives
        page.goto(url)
        page.get_by_role("button", name="What is DNA?").click()
        motion = "getComputedStyle(document.querySelector('.card .text'), '::after').animationName"
        assert page.evaluate(motion) == "none"
        page.emulate_media(reduced_motion="no-preference")
        assert page.evaluate(motion) == "blink"


@pytest.mark.parametrize("view", ["playground", "experiments", "improve", "bundles", "live"])
def test_view_says_that_the_server_has_stopped_and_live_goes_on_when_it_is_back(
    url: str, open_page: Open, view: str
) -> None:
    with open_page(390, "dark") as page:
        page.add_init_script("window.kept = window.fetch; window.fetch = async () => { throw new TypeError(); }")
        page.goto(f"{url}#{view}")
        expect(page.get_by_role("alert").first).to_have_text("The server does not answer. Is it still running?")
        assert serious_violations(page) == []
        check_texts(page)
        if view == "live":
            page.evaluate("void (window.fetch = window.kept)")  # a function would be called
            expect(page.locator(".backends li")).to_have_count(1)
            expect(page.locator(".trouble")).to_have_count(0)
