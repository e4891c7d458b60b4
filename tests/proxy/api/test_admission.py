"""Tests of admission: the order of waiting requests, refusals, and slots that workers share."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.api import admission as module
from proxy.api.admission import Admission
from proxy.core.errors import OverloadedError
from proxy.core.log import log_lines
from proxy.core.metrics import create_metrics
from proxy.core.settings import AdmissionSettings
from proxy.core.shared_state import LocalState, MappedState, clear_in_flight
from tests.faults.scripted import Received, Reply, completion, completion_events, scripted_backend
from tests.proxy.serving import serving, until


def admission(max_in_flight: int, max_queue: int, shared: Any = None) -> Admission:
    limits = AdmissionSettings(max_in_flight, max_queue, max_body_bytes=1000, read_timeout=1, write_timeout=1)
    return Admission(limits, shared or LocalState(), create_metrics())


async def turns() -> None:
    """Let all other tasks run until they wait."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_slots_are_given_in_the_order_of_arrival() -> None:
    door, order, leave = admission(1, 10), [], asyncio.Event()

    async def visit(number: int) -> None:
        async with door:
            order.append(number)
            await leave.wait()

    visits = [asyncio.create_task(visit(number)) for number in range(8)]
    await turns()
    assert (door.in_flight, door.queued) == (1, 7)
    leave.set()
    await asyncio.gather(*visits)
    assert order == list(range(8))
    assert (door.in_flight, door.queued, door.idle.is_set()) == (0, 0, True)


async def test_full_queue_refuses_requests_at_once() -> None:
    door, leave = admission(2, 3), asyncio.Event()

    async def visit() -> None:
        async with door:
            await leave.wait()

    visits = [asyncio.create_task(visit()) for _ in range(20)]
    await turns()
    refused = [task for task in visits if task.done()]
    assert len(refused) == 15
    assert all(isinstance(task.exception(), OverloadedError) for task in refused)
    leave.set()
    await asyncio.gather(*visits, return_exceptions=True)
    assert sum(task.exception() is None for task in visits) == 5


async def test_cancelled_waiter_takes_no_slot() -> None:
    door, leave = admission(1, 10), asyncio.Event()

    async def visit() -> None:
        async with door:
            await leave.wait()

    inside, first, second = (asyncio.create_task(visit()) for _ in range(3))
    await turns()
    first.cancel()
    await turns()
    assert (door.in_flight, door.queued) == (1, 1)
    leave.set()
    await asyncio.gather(inside, second)
    assert first.cancelled()
    assert (door.in_flight, door.queued, door.idle.is_set()) == (0, 0, True)


@pytest.mark.parametrize("later", range(6))
async def test_waiter_cancelled_while_a_slot_is_released_takes_no_slot(later: int) -> None:
    door = admission(1, 5)

    async def visit() -> None:
        async with door:
            await asyncio.sleep(60)

    async with door:
        visitor = asyncio.create_task(visit())
        await turns()
    for _ in range(later):
        await asyncio.sleep(0)
    visitor.cancel()
    await asyncio.wait([visitor], timeout=60)
    assert visitor.cancelled()
    assert (door.in_flight, door.queued) == (0, 0)


async def test_wait_in_the_queue_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_QUEUE_TIMEOUT", 0.05)
    door = admission(1, 10)
    async with door:
        with pytest.raises(OverloadedError, match="no slot became free"):
            async with door:
                pass
    assert (door.in_flight, door.queued) == (0, 0)


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[list[MappedState]]:
    with ExitStack() as opened:
        opened.enter_context(MappedState.prepare(tmp_path, 3))
        yield [opened.enter_context(MappedState(tmp_path, number)) for number in range(3)]


async def test_slot_released_by_another_worker_is_found(workers: list[MappedState]) -> None:
    here, there = (admission(1, 10, worker) for worker in workers[:2])
    leave = asyncio.Event()

    async def visit(door: Admission) -> None:
        async with door:
            await leave.wait()

    first = asyncio.create_task(visit(here))
    await turns()
    second = asyncio.create_task(visit(there))
    await turns()
    assert (here.in_flight, there.in_flight, there.queued) == (1, 0, 1)
    leave.set()
    async with asyncio.timeout(60):
        await asyncio.gather(first, second)


def test_only_the_slots_of_a_dead_worker_are_cleared(workers: list[MappedState], tmp_path: Path) -> None:
    for worker in workers:
        worker.in_flight[worker.worker] = worker.worker + 5
    clear_in_flight(tmp_path, 1)
    assert list(workers[0].in_flight) == [5, 0, 7]


def test_shared_cells_of_a_name_are_the_same_for_all_workers(workers: list[MappedState]) -> None:
    here, there, _ = workers
    first = here.cells(b"a" * 32, [1.0, 2.0, 3.0, 4.0])
    second = here.cells(b"b" * 32, [5.0, 6.0, 7.0, 8.0])
    first[0] = 10.0
    assert list(there.cells(b"a" * 32, [0.0] * 4)) == [10.0, 2.0, 3.0, 4.0]
    there.cells(b"b" * 32, [0.0] * 4)[3] = 11.0
    assert list(second) == [5.0, 6.0, 7.0, 11.0]


async def test_fourfold_overload_serves_all_admitted_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_QUEUE_TIMEOUT", 60.0)
    refused = asyncio.Event()

    async def held(reply: Reply, request: Received) -> None:
        await refused.wait()
        await reply.whole(completion("Yes."))

    async with scripted_backend(held) as backend:
        async with serving(backend.url, bundles={}, max_in_flight=8, max_queue=8) as proxy:
            asking = [asyncio.create_task(proxy.chat(f"question {n}")) for n in range(64)]
            await until(lambda: sum(one.done() for one in asking) == 48)
            refused.set()
            replies = await asyncio.gather(*asking)
            statuses = [status for status, _, _ in replies]
            assert set(statuses) == {200, 503}
            assert statuses.count(200) == len(backend.generating) == 16
            assert all(headers["Retry-After"] for status, headers, _ in replies if status == 503)
            await until(proxy.gateway.admission.idle.is_set)


@pytest.mark.parametrize("asked_for", [True, False])
async def test_content_is_logged_only_if_the_operator_allows_it(asked_for: bool, tmp_path: Path) -> None:
    async def script(reply: Reply, request: Received) -> None:
        if not request.json.get("stream"):
            await reply.whole(completion("An answer."))
            return
        await reply.begin()
        for event in completion_events(["An ", "answer."]):
            await reply.chunk(event)
        await reply.end()

    with (tmp_path / "log").open("w") as file, log_lines("json", file):
        async with scripted_backend(script) as backend, serving(backend.url, log_content=asked_for) as proxy:
            await proxy.chat("A question?")
            await proxy.stream()
    text = (tmp_path / "log").read_text(encoding="utf-8")
    lines = [line for line in map(orjson.loads, text.splitlines()) if line["event"] == "content"]
    assert len(lines) == (2 if asked_for else 0)
    assert ("A question?" in text, "answer." in text) == (asked_for, asked_for)
