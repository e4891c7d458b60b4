"""What holds for all tests, however they are started."""

import signal

import pytest
from hypothesis import settings

# A deadline for each example would be a time asserted, and a busy machine would fail it.
settings.register_profile("drpo", deadline=None)
settings.load_profile("drpo")


@pytest.fixture(scope="session", autouse=True)
def _interrupts_arrive() -> None:
    """A shell starts background jobs with SIGINT ignored, and the commands that tests start would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
