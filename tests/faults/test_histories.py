"""Guards the rules that hold for every request: a state machine creates faults, and the rules check the histories.

The rules themselves are tested first, with a planted violation of each.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from threading import Thread
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from proxy.core.log import LOGGER
from tests.faults.catalogue import FAULTS, events, play
from tests.faults.history import DONE, Asked, Histories, Hit, Logged, LogHistory, violations
from tests.faults.scripted import Received, Reply, ScriptedBackend, scripted_backend, stopped_backend
from tests.faults.visitor import BEHAVIOURS, ClientRequest, visit
from tests.proxy.serving import Serving, serving, until

STREAM = Asked("a", "chat", "none", True, status=200, body=b"".join(events("a", "chat")), ended=True)
STREAM = replace(STREAM, body=b"".join(event for event in events("a", "chat") if b'"usage"' not in event))
LOG = Logged("a", 200, "complete")
HIT = Hit("a", "none")
PLACES = 12
TIMEOUT = 1.0  # seconds
ERROR = b'data: {"error":{}}\n\n'


def judged(
    asked: Asked = STREAM, log: list[Logged] | None = None, hits: list[Hit] | None = None, **changes: Any
) -> Any:
    return violations(Histories([asked], [LOG] if log is None else log, [HIT] if hits is None else hits, **changes))


def test_rules_accept_correct_histories() -> None:
    assert judged() == []
    cut = b"".join(events("a", "chat")[:4]) + ERROR
    fault = replace(STREAM, fault="cut by a reset", body=cut)
    assert judged(fault, [Logged("a", 200, "truncated")], [Hit("a", "cut by a reset")]) == []
    assert (
        judged(replace(STREAM, left=True, ended=False, body=STREAM.body[:300]), [Logged("a", 499, "client_gone")]) == []
    )
    busy = replace(STREAM, fault="503", status=503, body=b"{}")
    assert judged(busy, [Logged("a", 503, "complete")], [Hit("a", "503")] * 2) == []


PLANTED: dict[str, tuple[dict[str, Any], str]] = {
    "no log line": ({"log": []}, "0 log lines"),
    "two log lines": ({"log": [LOG, LOG]}, "2 log lines"),
    "a line that nobody asked for": ({"log": [LOG, Logged("b", 200, "complete")]}, "nobody asked"),
    "a defect in the log": ({"defects": ["defect: of ours"]}, "of ours"),
    "no end": ({"asked": replace(STREAM, ended=False)}, "got no end"),
    "another status in the log": ({"log": [Logged("a", 502, "error")]}, "the log says 502"),
    "a client that did not leave": ({"log": [Logged("a", 200, "client_gone")]}, "the client left"),
    "complete in the log": (
        {"asked": replace(STREAM, fault="cut by a reset", body=ERROR), "log": [LOG]},
        "the log says complete",
    ),
    "an unexplained status": ({"asked": replace(STREAM, status=500)}, "expected one of"),
    "a third try": ({"asked": replace(STREAM, fault="503"), "hits": [Hit("a", "503")] * 3}, "sent 3 times"),
    "a repetition of what may have generated": ({"hits": [HIT, HIT]}, "sent again after none"),
    "a lost event": (
        {"asked": replace(STREAM, body=STREAM.body.replace(events("a", "chat")[3], b""))},
        "not the backend's",
    ),
    "a changed byte": (
        {"asked": replace(STREAM, body=STREAM.body.replace(b'"created":7', b'"created":8', 1))},
        "not the",
    ),
    "usage that was not asked for": (
        {"asked": replace(STREAM, body=b"".join(events("a", "chat")))},
        "not the backend's",
    ),
    "usage that was asked for and is gone": ({"asked": replace(STREAM, include_usage=True)}, "not the backend's"),
    "no end of the stream": ({"asked": replace(STREAM, body=STREAM.body.removesuffix(DONE))}, "without [DONE]"),
    "[DONE] too early": ({"asked": replace(STREAM, body=b"".join(events("a", "chat")[:4]) + DONE)}, "before the last"),
    "[DONE] after a cut": ({"asked": replace(STREAM, fault="cut by a reset")}, "a stream that was cut"),
    "an error and more": ({"asked": replace(STREAM, body=events("a", "chat")[0] + ERROR + DONE)}, "in the middle"),
    "another's words": (
        {"asked": replace(STREAM, kind="completion", body=b"".join(events("b", "chat")[1:4]) + ERROR)},
        "not the backend's words",
    ),
    "a whole reply that is another's": (
        {"asked": Asked("a", "chat", "none", False, status=200, body=b'{"choices": []}', ended=True)},
        "not the backend's reply",
    ),
    "a partial 200": (
        {"asked": Asked("a", "chat", "cut by a reset", False, status=200, body=b"{}", ended=True)},
        "a reply that was not whole",
    ),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_rules_find_each_planted_violation(planted: str) -> None:
    changes, complaint = PLANTED[planted]
    assert any(complaint in found for found in judged(**changes)), judged(**changes)


class Deployment:
    """Two backends of each kind, a proxy in front of them, and their histories."""

    def __init__(self) -> None:
        self.log = LogHistory()
        self.requests: list[asyncio.Task[Asked]] = []
        self.backends: list[ScriptedBackend] = []
        self.proxy: Serving
        self.unreachable = False
        self.stalled = False
        self._stack = AsyncExitStack()
        self._watch: asyncio.Task[None]
        self._running: dict[int, AsyncExitStack] = {}

    async def open(self) -> None:
        self._watch = asyncio.create_task(self._notice_stalls())
        LOGGER.addHandler(self.log)
        LOGGER.setLevel(logging.INFO)
        for kind in ("chat", "completion"):
            for _ in range(2):
                stopped = stopped_backend(self._play, model=kind, kind=kind)
                self.backends.append(self._stack.enter_context(stopped))
        for number in range(len(self.backends)):
            await self.start(number)
        urls = [backend.url for backend in self.backends]
        limits = {
            "backend_timeout": TIMEOUT,
            "connect_timeout": TIMEOUT,
            "health_interval": 0.1,
            "max_in_flight": PLACES,
        }
        self.proxy = await self._stack.enter_async_context(serving(*urls, bundles={}, max_queue=64, **limits))

    async def _notice_stalls(self) -> None:
        """Record if this process did not run for so long that a timeout of the proxy may have passed."""
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(0.02)
            self.stalled |= loop.time() - before > TIMEOUT / 4

    async def _play(self, reply: Reply, request: Received) -> None:
        await play(reply, request)

    async def start(self, number: int) -> None:
        stack = self._running[number] = AsyncExitStack()
        await stack.enter_async_context(scripted_backend(self.backends[number]))

    async def stop(self, number: int) -> None:
        self.unreachable = True
        await self._running.pop(number).aclose()

    @property
    def running(self) -> list[int]:
        return sorted(self._running)

    def send(self, request: ClientRequest) -> None:
        self.requests.append(asyncio.create_task(visit(self.proxy.url, request)))

    async def close(self) -> Histories:
        """Wait for all requests, stop everything, and return the histories."""
        asked = await asyncio.gather(*self.requests)
        async with asyncio.timeout(60):
            while self.proxy.gateway.admission.in_flight or self.proxy.gateway.admission.queued:
                await asyncio.sleep(0.005)
        for number in self.running:
            await self._running.pop(number).aclose()
        await self._stack.aclose()
        self._watch.cancel()
        LOGGER.removeHandler(self.log)
        LOGGER.setLevel(logging.NOTSET)
        received = [one for backend in self.backends for one in backend.generating]
        hits = [Hit(one.headers["X-Request-Id"], one.json["fault"]) for one in received]
        return Histories(asked, self.log.lines, hits, self.unreachable, stalled=self.stalled, defects=self.log.defects)


class Machine(RuleBasedStateMachine):
    """Sends requests with any faults and behaviours in any order, and stops and starts backends."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.thread = Thread(target=self.loop.run_forever)  # this thread runs while Hypothesis draws the next step
        self.thread.start()
        self.open_files = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a Path would open one more
        self.deployment = Deployment()
        self.asked = 0

    def run(self, work: Awaitable[Any]) -> Any:
        async def done() -> Any:
            return await work

        return asyncio.run_coroutine_threadsafe(done(), self.loop).result(60)

    @initialize()
    def open(self) -> None:
        self.run(self.deployment.open())

    @rule(
        kind=st.sampled_from(["chat", "completion"]),
        fault=st.sampled_from(sorted(FAULTS)),
        behaviour=st.sampled_from(BEHAVIOURS),
        stream=st.booleans(),
        include_usage=st.booleans(),
        times=st.integers(1, 4),
    )
    def ask(self, times: int, **request: Any) -> None:
        async def send() -> None:
            for _ in range(times):
                self.asked += 1
                self.deployment.send(ClientRequest(f"request-{self.asked}", **request))

        self.run(send())

    @rule(seconds=st.sampled_from([0.0, 0.005, 0.05]))
    def wait(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    @precondition(lambda self: self.deployment.running)
    @rule(data=st.data())
    def stop_backend(self, data: st.DataObject) -> None:
        self.run(self.deployment.stop(data.draw(st.sampled_from(self.deployment.running))))

    @precondition(lambda self: len(self.deployment.running) < len(self.deployment.backends))
    @rule(data=st.data())
    def start_backend(self, data: st.DataObject) -> None:
        stopped = sorted(set(range(len(self.deployment.backends))) - set(self.deployment.running))
        self.run(self.deployment.start(data.draw(st.sampled_from(stopped))))

    @invariant()
    def never_more_inside_than_there_are_places(self) -> None:
        if hasattr(self.deployment, "proxy"):
            assert 0 <= self.deployment.proxy.gateway.admission.in_flight <= PLACES

    def teardown(self) -> None:
        try:
            found = violations(self.run(self.deployment.close()))
            left = self.run(_tasks_left())
            assert found == []
            assert left == [], "tasks are left"
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join()
            self.loop.close()
        assert len(os.listdir("/proc/self/fd")) <= self.open_files  # noqa: PTH208


async def _tasks_left() -> list[str]:
    """Return the tasks that do not end."""
    with suppress(TimeoutError):
        await until(lambda: len(asyncio.all_tasks()) == 1, within=10)
    return [task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()]


PHASES = [Phase.reuse, Phase.generate]  # no shrinking: it takes minutes, and failures depend on timing
TestAnything = Machine.TestCase
TestAnything.settings = settings(max_examples=25, stateful_step_count=12, phases=PHASES)


@pytest.mark.slow
def test_state_machine_with_more_examples() -> None:
    from hypothesis.stateful import run_state_machine_as_test

    longer = settings(max_examples=60, stateful_step_count=30, phases=PHASES)
    run_state_machine_as_test(Machine, settings=longer)
