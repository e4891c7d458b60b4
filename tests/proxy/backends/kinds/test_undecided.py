"""Guards that no request is served in the wrong form while it is unknown whether its model takes chat."""

import asyncio
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from proxy.backends import pool
from proxy.backends.kinds import judge
from proxy.core.log import log_lines
from tests.faults.scripted import Received, Reply, ScriptedBackend, scripted_backend
from tests.proxy.backends.kinds.test_kinds_served import CUT, ENDS, LOOP, PARIS, RAMBLE, RUNS_ON, always
from tests.proxy.serving import Serving, serving, until

REPORTED = pytest.mark.parametrize("reported", ["chat", "unknown"])
ASK = {"model": "scripted", "messages": [{"role": "user", "content": "Why is the sky blue?"}]}


class Slow:
    """A script that answers the questions only when the test releases it."""

    def __init__(self, *answer: Any) -> None:
        self.answer = answer
        self.released = asyncio.Event()

    async def __call__(self, reply: Reply, request: Received) -> None:
        await self.released.wait()
        await reply.whole(*self.answer)


async def _by_path(reply: Reply, request: Received) -> None:
    """Answer a chat request and a completion request, each in its own form."""
    await reply.whole(PARIS if "chat" in request.path else ENDS)


@asynccontextmanager
async def slowly_decided(
    monkeypatch: pytest.MonkeyPatch, slow: Slow, reported: str, **settings: Any
) -> AsyncIterator[tuple[Serving, ScriptedBackend]]:
    """Run a proxy that has just started in front of a backend whose model has not answered the questions."""
    monkeypatch.setattr(pool, "_KINDS_PATIENCE", 0.05)
    async with scripted_backend(_by_path, kind=reported, questions=slow, **settings) as backend:
        async with serving(backend.url, health_interval=0.1) as proxy:
            yield proxy, backend
            slow.released.set()


def _paths(backend: ScriptedBackend) -> list[str]:
    """Return the paths of the requests for an answer, without the probe's own completion."""
    return [one.path for one in backend.generating if b"sky" in one.body]


@REPORTED
@pytest.mark.parametrize(
    ("answer", "path"),
    [
        (RAMBLE, "/v1/completions"),
        (LOOP, "/v1/completions"),
        (CUT, "/v1/completions"),
        (PARIS, "/v1/chat/completions"),
        (({"error": "no template"}, "400 Bad Request"), "/v1/completions"),
    ],
)
@pytest.mark.parametrize("named", ["scripted", "scripted@raw", None])
async def test_request_waits_for_the_kind_and_is_served_in_the_right_form(
    monkeypatch: pytest.MonkeyPatch, reported: str, answer: Any, path: str, named: str | None
) -> None:
    slow = Slow(*answer) if isinstance(answer, tuple) else Slow(answer)
    async with slowly_decided(monkeypatch, slow, reported) as (proxy, backend):
        asking = asyncio.create_task(proxy.post("/v1/chat/completions", {**ASK, "model": named}))
        await asyncio.sleep(0.3)
        assert not asking.done()
        assert not _paths(backend)
        slow.released.set()
        status, _, reply = await asking
        assert (status, reply["choices"][0]["message"]["content"]) == (200, "Paris.")
        assert _paths(backend) == [path]


@REPORTED
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
async def test_request_that_has_waited_long_is_told_to_come_again(
    monkeypatch: pytest.MonkeyPatch, reported: str, path: str
) -> None:
    monkeypatch.setattr(pool, "_KIND_TIMEOUT", 0.1)
    async with slowly_decided(monkeypatch, Slow(RAMBLE), reported) as (proxy, backend):
        status, headers, reply = await proxy.post(path, {"model": "scripted", "prompt": "sky", "input": "sky", **ASK})
        assert status == 503
        assert int(headers["Retry-After"]) > 0
        assert "not known yet whether the model takes chat" in reply["error"]["message"]
        assert not _paths(backend)


@REPORTED
async def test_server_is_not_ready_until_the_kind_is_known(monkeypatch: pytest.MonkeyPatch, reported: str) -> None:
    slow = Slow(RAMBLE)
    async with slowly_decided(monkeypatch, slow, reported) as (proxy, _):
        async with proxy.session.get("/health/ready") as response:
            assert response.status == 503
            assert (await response.json())["reasons"] == ["the kind of the models is not known yet: chat or completion"]
        slow.released.set()
        await until(lambda: proxy.gateway.pool.models)
        async with proxy.session.get("/health/ready") as response:
            assert response.status == 200
        assert proxy.gateway.pool.backends[0].healthy
        assert not proxy.gateway.pool.backends[0].problem


@REPORTED
@pytest.mark.parametrize("answers_later", [True, False])
async def test_model_that_never_answers_is_served_by_a_guess_which_is_corrected(
    monkeypatch: pytest.MonkeyPatch, reported: str, answers_later: bool
) -> None:
    monkeypatch.setattr(judge, "_MAX_UNDECIDED", 0.3)
    slow = Slow(RAMBLE)
    async with slowly_decided(monkeypatch, slow, reported) as (proxy, backend):
        status, _, _ = await proxy.chat()
        assert (status, _paths(backend)) == (200, ["/v1/chat/completions"])
        (model,) = proxy.gateway.pool.models.values()
        assert (model.kind, model.decision.settled) == ("chat", False)
        assert "has not answered" in model.decision.doubt
        assert model.decision.evidence
        if answers_later:
            slow.released.set()
            await until(lambda: proxy.gateway.pool.models["scripted"].kind == "completion")
            await proxy.chat()
            assert _paths(backend)[1:] == ["/v1/completions"]


@REPORTED
@pytest.mark.parametrize("failure", ["503 Service Unavailable", "429 Too Many Requests", "500 Internal Server Error"])
async def test_model_that_cannot_be_asked_now_is_asked_again_before_it_is_served(
    monkeypatch: pytest.MonkeyPatch, reported: str, failure: str
) -> None:
    monkeypatch.setattr(judge, "_MIN_RETRY_DELAY", 0.1)
    ready: list[bool] = []

    async def busy(reply: Reply, _: Received) -> None:
        await (reply.whole(RAMBLE) if ready else reply.whole({"error": {"message": "busy"}}, failure))

    async with scripted_backend(_by_path, kind=reported, questions=busy) as backend:
        async with serving(backend.url, health_interval=0.1) as proxy:
            asking = asyncio.create_task(proxy.chat())
            await until(lambda: failure[:3] in proxy.gateway.pool.backends[0].problem)
            assert not _paths(backend)
            ready.append(True)
            assert (await asking)[0] == 200
            assert _paths(backend) == ["/v1/completions"]


@REPORTED
@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden"])
async def test_server_that_wants_the_clients_key_is_served_at_once(reported: str, status: str) -> None:
    refused = always({"error": {"message": "no key"}}, status)
    async with scripted_backend(_by_path, kind=reported, questions=refused) as backend:
        async with serving(backend.url) as proxy:
            assert (await proxy.chat())[0] == 200
            (model,) = proxy.gateway.pool.models.values()
            assert (model.kind, model.decision.settled) == ("chat", False)
            assert status[:3] in model.decision.doubt


async def test_only_requests_for_the_undecided_model_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_KINDS_PATIENCE", 0.05)
    slow = Slow(RAMBLE)

    async def questions(reply: Reply, request: Received) -> None:
        await (slow(reply, request) if request.json["model"] == "other" else reply.whole(PARIS))

    async with scripted_backend(_by_path, kind="unknown", questions=questions, second_model="other") as backend:
        async with serving(backend.url, health_interval=0.1) as proxy:
            waiting = asyncio.create_task(proxy.post("/v1/chat/completions", {**ASK, "model": "other"}))
            assert (await proxy.chat())[0] == 200
            assert (await proxy.post("/v1/chat/completions", {**ASK, "model": "unknown"}))[0] == 404
            assert not waiting.done()
            slow.released.set()
            assert (await waiting)[0] == 200
            assert _paths(backend) == ["/v1/chat/completions", "/v1/completions"]


async def test_backend_that_dies_meanwhile_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    async with slowly_decided(monkeypatch, Slow(RAMBLE), "chat") as (proxy, backend):
        asking = asyncio.create_task(proxy.chat())
        await asyncio.sleep(0.1)
        backend.listing = always({}, "503 Service Unavailable")
        status, headers, _ = await asking
        assert (status, "Retry-After" in headers) == (503, True)


async def test_long_wait_is_logged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(judge, "_PROGRESS_DELAY", 0.05)
    slow = Slow(RAMBLE)
    with (tmp_path / "log").open("w") as log, log_lines("json", log):
        async with slowly_decided(monkeypatch, slow, "chat") as (proxy, _):
            await until(lambda: "waiting" in (tmp_path / "log").read_text())
            slow.released.set()
            await until(lambda: proxy.gateway.pool.models)
    lines = [line for line in (tmp_path / "log").read_text().splitlines() if '"model kind"' in line]
    assert ["waiting" in line for line in lines] == [True, False]


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_server_listens_while_it_waits_and_then_says_that_it_is_ready(workers: str) -> None:
    slow = Slow(RAMBLE)
    async with scripted_backend(always(RUNS_ON), kind="chat", questions=slow) as backend:
        command = (sys.executable, "-m", "proxy", "--backend", backend.url, "--port", "0", "--workers", workers)
        process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=STDOUT)
        assert process.stdout is not None
        try:
            async with asyncio.timeout(100), aiohttp.ClientSession(await _listening_url(process.pid)) as session:
                assert await _answers(session, "/health/live")
                assert not await _answers(session, "/health/ready")
                if workers == "1":
                    while b"chat model (" not in (line := await process.stdout.readline()):
                        assert line, "the server says nothing of its wait"
                        assert b"Base URL" not in line
                slow.released.set()
                said = b""
                while b"Stop with Ctrl-C" not in said:
                    line = await process.stdout.readline()
                    assert line, f"the server did not start: {said.decode()}"
                    said += line
                async with session.post("/v1/chat/completions", json=ASK) as response:
                    assert response.status == 200
                    assert backend.generating[-1].path == "/v1/completions"
        finally:
            with suppress(ProcessLookupError):  # a server that did not start has ended
                process.terminate()
            await process.communicate()


async def _listening_url(pid: int) -> str:
    """Wait until a server or one of its workers listens. Return the URL, which the server itself does not say yet."""
    while True:
        for process in [psutil.Process(pid), *psutil.Process(pid).children()]:
            for one in process.net_connections("tcp4"):
                if one.status == psutil.CONN_LISTEN:
                    return f"http://127.0.0.1:{one.laddr.port}"
        await asyncio.sleep(0.1)


async def _answers(session: aiohttp.ClientSession, path: str) -> bool:
    try:
        async with session.get(path) as response:
            return response.status == 200
    except aiohttp.ClientConnectionError:
        return False
