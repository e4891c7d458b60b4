"""Tests that an error or a cancellation ends all concurrent work."""

import asyncio

import pytest

from optimizer.core.concurrency import gather_or_cancel


async def test_results_have_the_order_of_the_work() -> None:
    async def number(value: int) -> int:
        for _ in range(3 - value):
            await asyncio.sleep(0)
        return value

    assert await gather_or_cancel(number(value) for value in range(3)) == [0, 1, 2]
    assert await gather_or_cancel(()) == []


async def test_an_error_cancels_the_other_work_before_it_is_raised() -> None:
    ended: list[str] = []

    async def wait_forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        await gather_or_cancel([wait_forever(), fail(), wait_forever()])
    assert ended == ["cancelled", "cancelled"]


async def test_cancelling_the_caller_cancels_the_work() -> None:
    ended = asyncio.Event()

    async def wait_forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    caller = asyncio.create_task(gather_or_cancel([wait_forever()]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended.is_set()
