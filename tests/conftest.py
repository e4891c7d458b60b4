"""Settings, marks and fixtures of all tests."""

import gc
import signal
import time
from collections.abc import Iterator
from functools import cache
from typing import Final

import pytest
from hypothesis import HealthCheck, settings

from index.embedders import registry
from tests import neutral
from tests.quality.served import served_proxy
from tools.steps import Say

# Hypothesis has no deadline for an example and no limit for the time to draw examples, because a busy machine would
# exceed both. The fast tests draw the same examples in each run, so that they fail only because of a change. The slow
# tests draw new examples, and more of them.
PATIENT: Final = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("fast", derandomize=True, **PATIENT)
settings.register_profile("slow", **PATIENT)

LONG: Final = (
    "tests/faults/test_server_faults.py",
    "tests/proxy/backends/embedded/test_command.py",
    "tests/optimizer/stages/test_unusable_rows.py",
    "tests/differential/test_differential.py",
    "tests/proxy/ui/test_worker_relay.py",
    "tests/faults/test_stream_ends.py",
    "tests/test_packaging.py",
    "tests/proxy/fit/test_session.py",
    "tests/proxy/fit/test_command.py",
    "tests/proxy/backends/kinds/test_undecided.py",
    "tests/proxy/backends/embedded/test_child_process.py",
)
"""The files whose tests take longest. They run first, so that at the end no process waits for one of them to end."""
SLOW_TIMEOUT = 600  # seconds: some machines need three times as long as others


def pytest_configure(config: pytest.Config) -> None:
    """Make the surroundings neutral before test modules are imported, some of which read environment variables."""
    neutral.apply()
    settings.load_profile("fast" if "not slow" in config.getoption("-m") else "slow")
    _share_embedders()
    gc.disable()  # until the tests are collected, because nearly all objects of the collection are kept


def _share_embedders() -> None:
    """Let `open_embedder` open each embedder of the package only once in this process.

    To open an embedder takes 0.2 s, and hundreds of tests use one. An embedder does not change. Tests of the opening
    itself call the embedder's class.
    """
    for name in ("MultilingualEmbedder", "MiniLMEmbedder"):
        setattr(registry, name, cache(getattr(registry, name)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests. Give a long timeout to tests that start programs or models and have no timeout of their own."""
    items.sort(key=lambda item: _file(item) not in LONG)
    for item in items:
        if " at 0x" in item.nodeid:
            raise pytest.UsageError(f"{item.nodeid}: this name differs in each process, so the tests cannot be shared.")
        is_slow = any(item.get_closest_marker(name) for name in ("slow", "deploy", "vllm"))
        if is_slow and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_TIMEOUT))


def pytest_collection_finish() -> None:
    """Let the garbage collector ignore the tests."""
    gc.enable()
    gc.freeze()


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
    """Restore SIGINT. A shell ignores it in background jobs, and commands that tests start would ignore it, too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
