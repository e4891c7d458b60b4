"""Locks a file, so that one process at a time does a piece of work. The event loops of waiting processes go on."""

import asyncio
import fcntl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO


@asynccontextmanager
async def file_lock(path: Path, interval: float, on_wait: Callable[[], None] = lambda: None) -> AsyncIterator[None]:
    """Hold an exclusive lock on a file. If the process dies, the kernel releases the lock.

    Args:
        path: The file. It is created if it does not exist.
        interval: Seconds between two attempts to lock.
        on_wait: Called once if another process holds the lock.
    """
    with path.open("a") as lock:
        if not _try_lock(lock):
            on_wait()
            while not _try_lock(lock):  # noqa: ASYNC110  another process holds the lock and cannot set an event
                await asyncio.sleep(interval)
        yield


def _try_lock(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
