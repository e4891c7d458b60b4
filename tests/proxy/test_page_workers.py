"""Guards the page of a server of several workers, on the real command: it answers as that of one process does."""

import asyncio
import io
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from proxy.page_workers import add_page_of_workers
from tests.faults.process import Command, command
from tests.faults.scripted import Received, Reply, ScriptedBackend, completion_events, scripted_backend

MODEL = "scripted"
ASKED = {"model": MODEL, "messages": [{"role": "user", "content": "Why is the sky blue?"}]}
FOR_EVER = 10_000


async def streaming(reply: Reply, request: Received) -> None:
    """Words without end for who asks for many, else three."""
    await reply.begin()
    for event in completion_events(["a "] * (FOR_EVER if request.json.get("max_tokens") == FOR_EVER else 3)):
        await reply.chunk(event)
        await asyncio.sleep(0.001)
    await reply.end()


@asynccontextmanager
async def two_workers() -> AsyncIterator[tuple[Command, aiohttp.ClientSession, ScriptedBackend]]:
    async with scripted_backend(streaming) as backend:
        told = ["--backend", backend.url, "--kind", f"{MODEL}=completion", "--bundle", f"{MODEL}=default"]
        async with (
            command(*told, "--workers", "2") as server,
            aiohttp.ClientSession(server.admin_url) as session,
        ):
            yield server, session, backend


async def asked(session: aiohttp.ClientSession, path: str, body: Any = None) -> Any:
    async with session.request("GET" if body is None else "POST", path, json=body) as reply:
        assert reply.status == 200, await reply.text()
        return await reply.json()


async def test_every_view_is_answered_and_live_counts_every_request() -> None:
    async with two_workers() as (server, session, _):
        assert [one["id"] for one in (await asked(session, "/ui/api/state"))["models"]] == [MODEL]
        assert (await asked(session, f"/ui/api/bundle?model={MODEL}"))["examples"]
        assert (await asked(session, "/ui/api/search", {"model": MODEL, "query": "rice"}))["shown"]
        assert (await asked(session, "/ui/api/explain", ASKED))["examples"]
        for _ in range(12):  # each on a connection of its own: either worker may get it
            async with aiohttp.ClientSession() as client:
                async with client.post(f"{server.url}/chat/completions", json={**ASKED, "stream": True}) as reply:
                    await reply.read()
        samples = (await asked(session, "/ui/api/live"))["samples"]
        counted = [one["value"] for one in samples if one["name"] == "drpo_requests_total"]
        assert sum(counted) == 12


async def test_an_answer_streams_and_ends_at_the_backend_when_the_page_is_closed() -> None:
    async with two_workers() as (_, session, backend):
        async with session.post("/ui/api/chat", json={**ASKED, "stream": True}) as reply:
            assert reply.headers["Content-Type"].startswith("text/event-stream")
            assert (await reply.read()).rstrip().endswith(b"data: [DONE]")
        async with session.post("/ui/api/chat", json={**ASKED, "stream": True, "max_tokens": FOR_EVER}) as reply:
            await reply.content.readany()  # the first words come before the last
        async with asyncio.timeout(20):
            await backend.aborted.wait()


async def test_a_worker_that_died_is_passed_over_and_that_there_is_none_is_said(tmp_path: Path) -> None:
    async with two_workers() as (server, session, _):
        for pid in server.workers():
            os.kill(pid, signal.SIGKILL)
            await server.logged("worker died")
            assert (await asked(session, "/ui/api/state"))["models"]
            await server.logged("worker restarted")
            server.log.clear()
    app = web.Application()
    add_page_of_workers(app, tmp_path)
    async with TestServer(app) as nobody, aiohttp.ClientSession(nobody.make_url("/")) as session:
        async with session.get("/ui/api/state") as reply:
            assert reply.status == 503
            assert "Ask again" in (await reply.json())["error"]["message"]


async def test_a_body_is_refused_by_the_workers_own_limits_and_words() -> None:
    async with two_workers() as (_, session, _):
        for body, status in (("{", 400), ("x" * 3_000_000, 400), ("x" * 30_000_000, 413)):
            headers = {"Content-Type": "application/json"}
            async with session.post("/ui/api/explain", data=io.BytesIO(body.encode()), headers=headers) as reply:
                assert reply.status == status
                assert (await reply.json())["error"]["message"]


@pytest.mark.parametrize(("path", "status"), [("/ui/api/none", 404), ("/ui/api/chat", 405)])
async def test_a_question_that_there_is_not_is_refused(path: str, status: int) -> None:
    async with two_workers() as (_, session, _), session.get(path) as reply:
        assert reply.status == status
