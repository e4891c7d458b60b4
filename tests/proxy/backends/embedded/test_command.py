"""Guards the command with the real embedded model: it restarts a dead model, and no process outlives the command."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import psutil
import pytest

ROOT = Path(__file__).parents[4]


@pytest.fixture
async def command() -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "--port", "0", "--log-format", "json"),
        cwd=ROOT,
        stdout=PIPE,
        stderr=STDOUT,
        start_new_session=True,
    )
    yield process
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


async def _wait_for_line(command: Process, words: str) -> str:
    """Return the next line that contains these words."""
    assert command.stdout
    output = b""
    while line := await command.stdout.readline():
        output += line
        if words in line.decode():
            return line.decode()
    raise AssertionError(output.decode())


def _child(command: Process) -> psutil.Process:
    (child,) = psutil.Process(command.pid).children()
    return child


async def _answer(base_url: str) -> int:
    question = {"model": "google/gemma-3-270m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    async with aiohttp.ClientSession() as session, session.post(f"{base_url}/chat/completions", json=question) as reply:
        return reply.status


async def test_ctrl_c_leaves_no_process(command: Process) -> None:
    await _wait_for_line(command, "Stop with Ctrl-C")
    child = _child(command)
    os.killpg(command.pid, signal.SIGINT)  # as a terminal does: to the whole group
    assert await asyncio.wait_for(command.wait(), 60) == 0
    assert not child.is_running()


async def test_ctrl_c_during_the_start_ends_the_command_at_once(command: Process) -> None:
    await _wait_for_line(command, "Starting the embedded model")
    os.killpg(command.pid, signal.SIGINT)
    assert await asyncio.wait_for(command.wait(), 60) == 130
    assert command.stdout is not None
    assert b"is ready" not in await command.stdout.read()


@pytest.mark.parametrize("words", ["Starting the embedded model", "Starting 2 workers"])
async def test_sigterm_during_the_start_leaves_no_process(words: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "--port", "0", "--workers", "2"),
        cwd=ROOT,
        stdout=PIPE,
        stderr=STDOUT,
        start_new_session=True,
    )
    await _wait_for_line(process, words)
    begun: list[psutil.Process] = []
    while not begun:
        await asyncio.sleep(0.05)
        begun = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    assert await asyncio.wait_for(process.wait(), 60) == 143
    assert not [one for one in begun if one.is_running()]
    assert process.stdout is not None
    assert b"Traceback" not in await process.stdout.read()


async def test_dead_model_is_restarted_and_sigterm_ends_model_and_command(command: Process) -> None:
    base_url = (await _wait_for_line(command, "Base URL")).split()[2]
    await _wait_for_line(command, "Stop with Ctrl-C")
    assert await _answer(base_url) == 200
    _child(command).kill()
    event = json.loads(await _wait_for_line(command, "embedded model restarted"))
    assert event["model"] == "google/gemma-3-270m"
    child = _child(command)
    while await _answer(base_url) != 200:
        await asyncio.sleep(0.1)
    command.terminate()
    assert await asyncio.wait_for(command.wait(), 60) == 0
    assert not child.is_running()
