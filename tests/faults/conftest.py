"""Checks after each test that no task and no file descriptor is left."""

import asyncio
import os
from collections.abc import AsyncIterator

import pytest


@pytest.fixture(autouse=True)
async def nothing_is_left() -> AsyncIterator[None]:
    before = _counts()
    yield
    async with asyncio.timeout(60):
        while any(now > then for now, then in zip(_counts(), before, strict=True)):
            await asyncio.sleep(0.01)


def _counts() -> tuple[int, int]:
    """Return the number of tasks of this event loop, and of file descriptors of this process."""
    return len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a Path would open one more
