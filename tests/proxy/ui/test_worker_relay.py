"""Tests the operator page of a real server with several workers: it replies like the page of a single process."""

import asyncio
import io
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from proxy.core.settings import AdmissionSettings
from proxy.ui.worker_relay import WorkerSockets, add_page_of_workers
from tests.faults.client import raw_client
from tests.faults.process import Command, command
from tests.faults.scripted import Received, Reply, ScriptedBackend, completion_events, scripted_backend

MODEL = "scripted"
ASKED = {"model": MODEL, "messages": [{"role": "user", "content": "Why is the sky blue?"}]}
FOR_EVER = 10_000


async def streaming(reply: Reply, request: Received) -> None:
    """Stream endless words if the request asks for many tokens, else three words."""
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


async def test_relay_serves_every_view_and_live_counts_the_requests_of_all_workers() -> None:
    async with two_workers() as (server, session, _):
        assert [one["id"] for one in (await asked(session, "/ui/api/state"))["models"]] == [MODEL]
        assert (await asked(session, f"/ui/api/bundle?model={MODEL}"))["examples"]
        assert (await asked(session, "/ui/api/search", {"model": MODEL, "query": "rice"}))["shown"]
        assert (await asked(session, "/ui/api/explain", ASKED))["examples"]
        requests = 0
        async with asyncio.timeout(60):
            while _served_by(server.log) != {0, 1}:  # the kernel draws the worker of each connection
                async with aiohttp.ClientSession() as client:
                    async with client.post(f"{server.url}/chat/completions", json={**ASKED, "stream": True}) as reply:
                        await reply.read()
                requests += 1
            while await _counted(session) < requests:  # a worker counts a request after its last byte
                await asyncio.sleep(0.02)
        assert await _counted(session) == requests


def _served_by(log: list[str]) -> set[int]:
    return {orjson.loads(one)["worker"] for one in log if '"request"' in one}


async def _counted(session: aiohttp.ClientSession) -> float:
    """Return how many requests the live view shows."""
    samples = (await asked(session, "/ui/api/live"))["samples"]
    return sum(one["value"] for one in samples if one["name"] == "drpo_requests_total")


async def test_relay_streams_an_answer_and_cancels_it_when_the_page_closes() -> None:
    async with two_workers() as (_, session, backend):
        async with session.post("/ui/api/chat", json={**ASKED, "stream": True}) as reply:
            assert reply.headers["Content-Type"].startswith("text/event-stream")
            assert (await reply.read()).rstrip().endswith(b"data: [DONE]")
        async with session.post("/ui/api/chat", json={**ASKED, "stream": True, "max_tokens": FOR_EVER}) as reply:
            await reply.content.readany()  # the first words come before the last
        async with asyncio.timeout(60):
            await backend.aborted.wait()


@pytest.mark.parametrize("which", [0, 1])
async def test_relay_skips_a_worker_that_hangs_or_died(which: int) -> None:
    async with two_workers() as (server, session, _):
        pid = server.workers()[which]
        for how in (signal.SIGSTOP, signal.SIGKILL):
            os.kill(pid, how)
            async with asyncio.timeout(60):
                assert (await asked(session, "/ui/api/state"))["models"]
        await server.logged("worker restarted")
        assert (await asked(session, "/ui/api/state"))["models"]


@pytest.mark.parametrize(("below", "said"), [("", "Send the request again"), ("long/" * 20, "TMPDIR")])
async def test_relay_without_a_live_worker_answers_with_what_to_do(below: str, said: str, tmp_path: Path) -> None:
    app = web.Application()
    add_page_of_workers(app, WorkerSockets(tmp_path / below, AdmissionSettings()))
    async with TestServer(app) as nobody, aiohttp.ClientSession(nobody.make_url("/")) as session:
        async with session.get("/ui/api/state") as reply:
            assert reply.status == 503
            assert said in (await reply.json())["error"]["message"]


async def test_relay_refuses_a_bad_body_and_an_unknown_route_like_a_single_process() -> None:
    async with two_workers() as (server, session, _):
        for path, status in (("/ui/api/none", 404), ("/ui/api/chat", 405), ("/none", 404)):
            async with session.get(path) as reply:
                assert reply.status == status
                assert (await reply.json())["error"]["message"]
        for body, status in (("{", 400), ("x" * 3_000_000, 400), ("x" * 30_000_000, 413)):
            headers = {"Content-Type": "application/json"}
            async with session.post("/ui/api/explain", data=io.BytesIO(body.encode()), headers=headers) as reply:
                assert reply.status == status
                assert (await reply.json())["error"]["message"]
        for header, body, status in (
            ("Transfer-Encoding: chunked", b"zz\r\n", 400),
            ("Content-Encoding: gzip\r\nContent-Length: 3", b"abc", 415),
        ):
            head = f"POST /ui/api/explain HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{header}"
            async with raw_client(server.admin_url) as client:
                await client.send(f"{head}\r\n\r\n".encode())
                await asyncio.sleep(0.1)  # the body comes when the request is already being answered
                await client.send(body)
                answer = await client.some(b"}}")
                assert answer.startswith(f"HTTP/1.1 {status} ".encode())
        assert not [line for line in server.log if "Traceback" in line or "defect" in line]
