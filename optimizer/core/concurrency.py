"""Waits for several pieces of work at the same time, and leaves none of them behind after an error."""

import asyncio
from collections.abc import Awaitable, Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


async def gather_or_cancel(work: Iterable[Awaitable[T]]) -> list[T]:
    """Wait for all pieces of work, and return their results in the same order.

    If one piece raises an error, the others are cancelled. `asyncio.gather` would leave them running. If the budget
    ends a search, they would then spend the calls that are kept for the sealed evaluation.

    Raises:
        BaseException: The error that was raised first.
    """
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        raise


def start_shared(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Start work for which several callers can wait with `asyncio.shield`.

    The callers get its error. If all callers were cancelled before the error, nobody needs it. Without this function,
    the event loop would then print a stack trace.
    """
    task = asyncio.create_task(work)
    task.add_done_callback(_mark_error_as_seen)
    return task


def _mark_error_as_seen(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()
