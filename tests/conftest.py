"""What holds for all tests, however they are started."""

import signal

import pytest
from hypothesis import settings

# A deadline for each example would be a time asserted, and a busy machine would fail it.
settings.register_profile("drpo", deadline=None)
settings.load_profile("drpo")

SLOW_WITHIN = 600  # seconds: what takes one minute on a good machine took three on a bad one


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests have longer than the others, where they do not say themselves how long."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_WITHIN))


@pytest.fixture(scope="session", autouse=True)
def _interrupts_arrive() -> None:
    """A shell starts background jobs with SIGINT ignored, and the commands that tests start would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
