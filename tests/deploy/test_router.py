"""Tests of the proxy in front of a real vllm-router with two real model servers, one of which is killed under load.

The model servers are llama.cpp with the embedded model.
"""

import asyncio
import json
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import aiohttp
import pytest

from proxy.backends.embedded.model_file import MODEL_NAME
from proxy.backends.embedded.weights import GEMMA, default_cache, prepare_weights
from tests.bench.peers.install import python_of
from tests.deploy.parts import ROOT
from tests.faults.process import Command, command
from tests.ports import free_port
from tools.steps import StepError

pytestmark = [pytest.mark.slow, pytest.mark.deploy]
KEY = "of-the-model-servers"
CLIENTS_RETRY = 2
BEFORE, AFTER, AT_ONCE = 6, 14, 3  # requests that begin before the kill and after it, and requests in flight


@dataclass(frozen=True, slots=True)
class Answer:
    """The reply that a client received.

    Attributes:
        after: Whether the request began after the server was killed.
        status: The HTTP status.
        whole: Whether the reply is complete: a stream with [DONE], or a complete JSON answer.
        told: Whether the status or an event says that the request failed.
    """

    after: bool
    status: int
    whole: bool
    told: bool


@asynccontextmanager
async def model_servers(number: int) -> AsyncIterator[list[tuple[Process, str]]]:
    """Yield the processes of model servers and their addresses. At the end, all processes are killed."""
    weights = await prepare_weights(GEMMA, default_cache(), print)
    settings = {"weights": str(weights), "name": MODEL_NAME, "api_key": KEY, "context": 1024, "slots": AT_ONCE}
    child = [sys.executable, "-I", str(ROOT / "proxy" / "backends" / "embedded" / "child_main.py")]
    started = [await asyncio.create_subprocess_exec(*child, stdin=PIPE, stdout=PIPE) for _ in range(number)]
    try:
        for process in started:
            assert process.stdin
            process.stdin.write(json.dumps(settings).encode() + b"\n")
        addresses = [json.loads(await process.stdout.readline())["address"] for process in started if process.stdout]
        yield list(zip(started, addresses, strict=True))
    finally:
        for process in started:
            if process.returncode is None:
                process.kill()
            await process.wait()


@asynccontextmanager
async def router(workers: list[str]) -> AsyncIterator[str]:
    """Run vllm-router with the settings of deploy/kubernetes, and yield its URL."""
    try:
        python = await asyncio.to_thread(python_of, "vllm-router", print)
    except StepError as error:
        pytest.skip(f"vllm-router cannot be had here: {str(error).splitlines()[0]}")
    port = free_port()
    told = ["--worker-urls", *workers, "--policy", "cache_aware", "--host", "127.0.0.1", "--port", str(port)]
    told += ["--health-check-interval-secs", "5", "--health-failure-threshold", "2"]
    told += ["--prometheus-port", str(free_port()), "--log-level", "warning"]
    process = await asyncio.create_subprocess_exec(
        str(python), str(python.with_name("vllm-router")), *told, stdout=subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(120), aiohttp.ClientSession() as session:
            while not await _is_well(session, f"http://127.0.0.1:{port}/health"):
                await asyncio.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


async def _is_well(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as response:
            return response.status == 200
    except aiohttp.ClientConnectionError:
        return False


async def _ask(proxy: Command, number: int, *, after: bool) -> Answer:
    """Send a request. Every second request asks for a stream."""
    question = [{"role": "user", "content": f"What is the number {number}?"}]
    body = {"model": MODEL_NAME, "messages": question, "max_tokens": 8, "stream": number % 2 == 0}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as session:
        async with session.post(f"{proxy.url}/chat/completions", json=body) as response:
            said = await response.text()
            whole = "data: [DONE]" in said if body["stream"] else '"finish_reason"' in said
            return Answer(
                after, response.status, whole and response.status == 200, response.status >= 500 or '"error"' in said
            )


async def _ask_as_clients_do(proxy: Command, number: int, killed: asyncio.Event) -> Answer:
    """Send a request. After the kill, send a failed request up to two more times, as OpenAI's own clients do.

    vllm-router answers 500 to some requests that it sends to the dead server before it notices its death.
    """
    after = killed.is_set()
    answer = await _ask(proxy, number, after=after)
    for _ in range(CLIENTS_RETRY if after else 0):
        if not answer.whole:
            await asyncio.sleep(0.5)
            answer = await _ask(proxy, number, after=after)
    return answer


async def test_model_server_killed_under_load_fails_only_its_started_requests(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY, encoding="utf-8")
    async with model_servers(2) as servers, router([address for _, address in servers]) as url:
        told = ["--backend", url, "--kind", f"{MODEL_NAME}=completion", "--bundle", "default"]
        async with command(*told, "--backend-api-key-file", str(tmp_path / "key")) as proxy:
            answers = await _under_load(proxy, servers[0][0])
    assert len(answers) == BEFORE + AFTER
    assert all(answer.whole or answer.told for answer in answers), "an answer is whole, or an error says that it is not"
    assert sum(not answer.whole and not answer.after for answer in answers) <= AT_ONCE
    assert [answer for answer in answers if answer.after and not answer.whole] == []


async def _under_load(proxy: Command, victim: Process) -> list[Answer]:
    numbers, killed, answers = count(), asyncio.Event(), list[Answer]()

    async def client() -> None:
        while (number := next(numbers)) < BEFORE + AFTER:
            answers.append(await _ask_as_clients_do(proxy, number, killed))
            if number == BEFORE:
                victim.kill()
                await victim.wait()  # a process that is dying still accepts connections
                killed.set()
            elif not answers[-1].whole:
                await killed.wait()

    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    return answers
