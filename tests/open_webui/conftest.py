"""Fixtures of `make test-open-webui`: Open WebUI, the proxy with the embedded model behind it, and a browser.

The fixtures install everything that they need. The tests are skipped only if the machine cannot hold Open WebUI.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.browser.chromium import chromium
from tests.open_webui.environment import ENVIRONMENT, open_webui
from tests.open_webui.recorder import Exchange, Recorder, recording
from tests.quality.served import served_proxy
from tools.steps import Say

_SKIPPED: Final = pytest.StashKey[str]()
_TEST_TIMEOUT: Final = 600.0  # seconds, for a test alone; its fixtures have their own timeouts
_ANSWER_TIMEOUT: Final = 240.0  # seconds
_PAGE_TIMEOUT: Final = 120_000.0  # milliseconds
_EXPERIMENT: Final = """
name = "tone"
metrics = ["latency"]
control = "raw-matched"
[[arms]]
name = "raw-matched"
variant = "raw-matched"
weight = 0
[[arms]]
name = "aligned"
variant = "aligned"
weight = 1
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.open_webui)
            item.add_marker(pytest.mark.timeout(_TEST_TIMEOUT, func_only=True))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print a banner if the tests were skipped."""
    if reason := config.stash.get(_SKIPPED, ""):
        terminalreporter.write_sep("!", "OPEN WEBUI WAS NOT TESTED", red=True, bold=True)
        terminalreporter.write_line(f"This machine cannot hold it: {reason}.", red=True)


@pytest.fixture(scope="session")
def python(say: Say, pytestconfig: pytest.Config) -> Path:
    """The interpreter of Open WebUI's environment."""
    if reason := ENVIRONMENT.shortcoming():
        pytestconfig.stash[_SKIPPED] = reason
        pytest.skip(reason)
    return ENVIRONMENT.built(say) / "bin" / "python"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for data, logs and screenshots."""
    return tmp_path_factory.mktemp("open-webui")


@pytest.fixture(scope="session")
def recorder(folder: Path) -> Iterator[Recorder]:
    """A recorder in front of a proxy that has an experiment and trusts Open WebUI's header."""
    (folder / "tone.toml").write_text(_EXPERIMENT, encoding="utf-8")
    flags = ["--experiment", str(folder / "tone.toml"), "--store", f"sqlite:{folder / 'store.sqlite3'}"]
    with served_proxy("--trust-user-headers", *flags) as base_url, recording(base_url.removesuffix("/v1")) as recorder:
        yield recorder


@pytest.fixture(scope="session")
def url(python: Path, recorder: Recorder, folder: Path, say: Say) -> Iterator[str]:
    """The URL of Open WebUI."""
    with open_webui(python, f"{recorder.url}/v1", folder, say) as url:
        yield url


@pytest.fixture(scope="session")
def page(url: str, say: Say) -> Iterator[Page]:
    """A page of Open WebUI, on which the first user has signed up."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(say), args=["--no-sandbox"])
        page = browser.new_page(locale="en-US", viewport={"width": 1280, "height": 800})
        page.set_default_timeout(_PAGE_TIMEOUT)
        expect.set_options(timeout=_PAGE_TIMEOUT)
        page.goto(url)
        page.get_by_text("Get started").click()
        page.locator("#name").fill("Ann")
        page.locator("#email").fill("ann@example.org")
        page.locator("#password").fill("a-password-for-tests")
        page.get_by_role("button", name="Create Admin Account").click()
        page.get_by_text("Okay, Let's Go!").click()
        yield page
        browser.close()


@dataclass(frozen=True, slots=True)
class Chats:
    """The chat page, as a user works with it."""

    page: Page
    recorder: Recorder
    url: str

    def new(self, *models: str) -> None:
        """Begin a chat with models, by the link that Open WebUI has for each model."""
        self.page.goto(f"{self.url}/?models={','.join(models)}")
        expect(self.page.get_by_role("button", name=f"Selected model: {models[0]}")).to_be_visible()

    def choose(self, model: str) -> None:
        """Choose a model in the list."""
        self.page.locator("[aria-haspopup=listbox][aria-label^='Selected model']").first.click()
        self.page.get_by_role("option", name=f"Select {model} model", exact=True).click()

    def ask(self, question: str) -> None:
        """Write a message and send it."""
        self.page.locator("#chat-input").fill(question)
        self.page.keyboard.press("Enter")

    def exchanges(self, action: Callable[[], None], model: str, background: int = 0) -> list[Exchange]:
        """Return the requests that an action leads to.

        Args:
            action: What the user does.
            model: The model whose answer is awaited.
            background: The number of requests of the page itself that are awaited.
        """
        before, expires = len(self.recorder.exchanges), time.monotonic() + _ANSWER_TIMEOUT
        action()
        while time.monotonic() < expires:
            found = self.recorder.exchanges[before:]
            is_answered = any(one.is_chat and one.body["model"] == model for one in found)
            if is_answered and sum(not one.is_chat for one in found) >= background:
                return found
            self.page.wait_for_timeout(200)
        raise AssertionError(f"only {[one.body['messages'] for one in self.recorder.exchanges[before:]]}")

    @property
    def answers(self) -> list[str]:
        """The answers that the page shows."""
        return [one.inner_text() for one in self.page.locator(".chat-assistant").all()]


@pytest.fixture
def chats(page: Page, recorder: Recorder, url: str) -> Chats:
    return Chats(page, recorder, url)
