"""Tests what a user sees when the network to a model server fails, and when it works again.

The model server runs in a network namespace of its own. It is cut off silently: its packets go into a black hole.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest

from tests.deploy.parts import ROOT, program
from tests.faults.process import Command, command
from tests.faults.scripted import Received, Reply, completion, scripted_backend

pytestmark = [pytest.mark.slow, pytest.mark.deploy]
NAME = f"drpo{os.getpid() % 100_000}"
HERE, THERE = "198.18.77.1", "198.18.77.2"  # in a network that RFC 2544 reserves for tests
PORT = 8000
SILENCE = 2.0  # --backend-timeout
CONNECT = 0.5  # --connect-timeout
PATIENCE = 60.0  # seconds; less than the kernel would wait for a server that is cut off


def ip(*words: str) -> None:
    subprocess.run([program("ip", "iproute2"), *words], check=True, capture_output=True)


@asynccontextmanager
async def far_server() -> AsyncIterator[Callable[[bool], None]]:
    """Run the server in a network namespace. Yield a function that cuts the network (True) or restores it (False)."""
    try:
        ip("netns", "add", NAME)
    except (subprocess.CalledProcessError, PermissionError):
        pytest.skip("no network namespaces here")
    try:
        ip("link", "add", f"{NAME}a", "type", "veth", "peer", "name", f"{NAME}b", "netns", NAME)
        ip("addr", "add", f"{HERE}/30", "dev", f"{NAME}a")
        ip("link", "set", f"{NAME}a", "up")
        ip("-n", NAME, "addr", "add", f"{THERE}/30", "dev", f"{NAME}b")
        ip("-n", NAME, "link", "set", f"{NAME}b", "up")
        within = [program("ip", "iproute2"), "netns", "exec", NAME, sys.executable, "-m", "tests.deploy.far_server"]
        server = await asyncio.create_subprocess_exec(*within, str(PORT), cwd=ROOT)
        yield lambda cut: ip("-n", NAME, "route", "add" if cut else "del", "blackhole", f"{HERE}/32")
        server.kill()
        await server.wait()
    finally:
        ip("netns", "del", NAME)  # this also removes the links


async def _up() -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                (await asyncio.open_connection(THERE, PORT))[1].close()
                return
            except OSError:
                await asyncio.sleep(0.1)


async def _near(reply: Reply, _request: Received) -> None:
    await reply.whole(completion("near"))


async def _ask(proxy: Command, content: str) -> tuple[int, str, float]:
    """Send a request. Return the status, which server answered, and the time in seconds."""
    started = time.monotonic()
    status, _, body = await proxy.chat(content)
    said = body["choices"][0]["message"]["content"] if status == 200 else ""
    return status, said, time.monotonic() - started


async def _stream(proxy: Command, begun: asyncio.Event) -> bytes:
    body = {"model": "scripted", "messages": [{"role": "user", "content": "to the far one"}], "stream": True}
    said = b""
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{proxy.url}/chat/completions", json=body) as response:
            async for data in response.content.iter_any():
                said += data
                begun.set()
    return said


async def test_stream_from_an_unreachable_server_ends_in_an_error_and_new_requests_go_to_another() -> None:
    told = ["--kind", "scripted=completion", "--connect-timeout", str(CONNECT), "--backend-timeout", str(SILENCE)]
    async with far_server() as cut, scripted_backend(_near) as near:
        await _up()
        async with command("--backend", f"http://{THERE}:{PORT}", *told) as alone:
            begun = asyncio.Event()
            streaming = asyncio.create_task(_stream(alone, begun))
            await begun.wait()
            cut(True)
            said = await asyncio.wait_for(streaming, PATIENCE)
            cut(False)
        assert said.count(b"data: ") > 1
        assert b'"error"' in said
        assert b"[DONE]" not in said

        both = ["--backend", f"http://{THERE}:{PORT}", "--backend", near.url, "--health-interval", "0.5"]
        async with command(*both, *told) as proxy:
            assert {said for _, said, _ in [await _ask(proxy, f"question {n}") for n in range(20)]} == {"far", "near"}
            cut(True)
            answers = await asyncio.gather(*(_ask(proxy, f"cut off {n}") for n in range(20)))
            assert {status for status, _, _ in answers} <= {200, 504}, "what may have been generated is not repeated"
            assert max(seconds for _, _, seconds in answers) < PATIENCE
            later = await asyncio.gather(*(_ask(proxy, f"later {n}") for n in range(20)))
            assert {(status, said) for status, said, _ in later} == {(200, "near")}
            cut(False)
            async with asyncio.timeout(60):
                while (await _ask(proxy, f"again {time.monotonic()}"))[1] != "far":
                    await asyncio.sleep(0.1)
