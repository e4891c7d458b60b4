"""Settings, marks and fixtures of all tests."""

import signal
import time
from collections.abc import Iterator
from typing import Final

import pytest
from hypothesis import settings

from tests import neutral
from tests.quality.served import served_proxy
from tools.steps import Say

# A deadline for each example would fail on a busy machine.
settings.register_profile("drpo", deadline=None)
settings.load_profile("drpo")

SHARED: Final = {"embedded_url": "embedded", "postgresql": "postgresql", "servers": "vllm"}
"""The group of the tests that use a fixture of the session, by the name of the fixture."""
LONG: Final = (
    "tests/faults/test_server_faults.py",
    "tests/optimizer/stages/test_unusable_rows.py",
    "tests/proxy/ui/test_worker_relay.py",
    "tests/differential/test_differential.py",
    "tests/proxy/fit/test_session.py",
    "tests/proxy/fit/test_command.py",
    "tests/proxy/backends/embedded/test_command.py",
    "tests/optimizer/stages/test_candidate_gate.py",
)
"""The files that take longest. They come first, so that no process works on one of them when the other has no more."""
SLOW_TIMEOUT = 600  # seconds: some machines need three times as long as others


def pytest_configure() -> None:
    """Make the surroundings neutral before test modules are imported, some of which read environment variables."""
    neutral.apply()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests, give slow tests without a timeout a longer one, and assign each test to a pytest-xdist group."""
    items.sort(key=lambda item: _file(item) not in LONG)
    for item in items:
        if " at 0x" in item.nodeid:
            raise pytest.UsageError(f"{item.nodeid}: this name differs in each process, so the tests cannot be shared.")
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_TIMEOUT))
        if not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(_group(item)))


def _group(item: pytest.Item) -> str:
    """The group of a test, whose tests run in one process: those of a file, or those that share a server."""
    parameters = (
        item.callspec.params.values() if isinstance(item, pytest.Function) and hasattr(item, "callspec") else ()
    )
    used = {*getattr(item, "fixturenames", ()), *(one for one in parameters if isinstance(one, str))}
    shared = next((name for fixture, name in SHARED.items() if fixture in used), None)
    return shared or _file(item)


def _file(item: pytest.Item) -> str:
    return item.path.relative_to(item.config.rootpath).as_posix()


@pytest.fixture(scope="session")
def embedded_url() -> Iterator[str]:
    """The base URL of a proxy with the embedded model and the default bundle, which tests share."""
    with served_proxy() as url:
        yield url


@pytest.fixture(scope="session")
def say(request: pytest.FixtureRequest) -> Say:
    """Prints a line of progress at once, in spite of pytest's capture."""
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    capture = request.config.pluginmanager.get_plugin("capturemanager")
    started = time.monotonic()

    def line(text: str) -> None:
        if reporter is not None and capture is not None:
            with capture.global_and_fixture_disabled():
                reporter.ensure_newline()
                reporter.write_line(f"[{time.monotonic() - started:4.0f} s] {text}", flush=True)

    return line


@pytest.fixture(scope="session", autouse=True)
def _restore_interrupts() -> None:
    """Restore SIGINT: a shell ignores it in background jobs, and commands that tests start would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
