"""What holds for all tests, however they are started."""

import signal
from collections.abc import Iterator
from typing import Final

import pytest
from hypothesis import settings

from tests.quality.served import served_proxy

# A deadline for each example would be a time asserted, and a busy machine would fail it.
settings.register_profile("drpo", deadline=None)
settings.load_profile("drpo")

SHARED: Final = {"embedded_url": "embedded", "postgresql": "postgresql", "servers": "vllm"}
"""The group of the tests that use a fixture of the session, by its name."""
SLOW_WITHIN = 600  # seconds: what takes one minute on a good machine took three on a bad one


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests have longer than the others, where they do not say themselves how long. Files stay in one process."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_WITHIN))
        if not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(_group(item)))


def _group(item: pytest.Item) -> str:
    """Tests of a group run in one process: those of a file, and those that share a server started once a session."""
    parameters = (
        item.callspec.params.values() if isinstance(item, pytest.Function) and hasattr(item, "callspec") else ()
    )
    used = {*getattr(item, "fixturenames", ()), *(one for one in parameters if isinstance(one, str))}
    shared = next((name for fixture, name in SHARED.items() if fixture in used), None)
    return shared or item.path.relative_to(item.config.rootpath).as_posix()


@pytest.fixture(scope="session")
def embedded_url() -> Iterator[str]:
    """The base URL of one proxy on the embedded model with the default bundle, for all tests that need no more."""
    with served_proxy() as url:
        yield url


@pytest.fixture(scope="session", autouse=True)
def _interrupts_arrive() -> None:
    """A shell starts background jobs with SIGINT ignored, and the commands that tests start would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
