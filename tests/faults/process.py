"""Runs the real command in a process, in front of the test's backends, to test signals and workers."""

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

ROOT = Path(__file__).parents[2]


def children(pid: int) -> list[int]:
    """Return the process ids of the children of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


@dataclass(slots=True)
class Command:
    """A running `drpo-proxy`.

    Attributes:
        process: The process.
        url: The base URL that it printed.
        admin_url: The URL of the admin listener that it printed.
        log: The lines of standard error so far.
        store: What it printed about the store and the experiments; empty if nothing.
    """

    process: Process
    url: str
    admin_url: str
    log: list[str]
    store: str = ""

    async def chat(self, content: str = "hi", headers: Any = None, **fields: Any) -> tuple[int, Any, Any]:
        """Send one request on a new connection, so that any worker may accept it."""
        body = {"model": "scripted", "messages": [{"role": "user", "content": content}], **fields}
        async with aiohttp.ClientSession() as session:
            async with session.post(f"{self.url}/chat/completions", json=body, headers=headers) as response:
                return response.status, response.headers, await response.json(content_type=None)

    async def get(self, path: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as session:
            async with session.get(self.url.removesuffix("/v1") + path) as response:
                return response.status, await response.text()

    async def logged(self, what: str, within: float = 60.0) -> str:
        """Wait for a log line that contains `what`, and return it."""
        async with asyncio.timeout(within):
            while True:
                for line in self.log:
                    if what in line:
                        return line
                await asyncio.sleep(0.02)

    def workers(self) -> list[int]:
        """Return the process ids of its workers."""
        return children(self.process.pid)

    async def ended(self, within: float = 60.0) -> int:
        async with asyncio.timeout(within):
            return await self.process.wait()


@asynccontextmanager
async def command(*arguments: str, within: float = 60.0, folder: Path = ROOT) -> AsyncIterator[Command]:
    """Start the command, wait until it prints its URL, and kill it and its workers at the end.

    Args:
        arguments: The flags of the command.
        within: Seconds in which the command must print its URL.
        folder: The folder that contains the package `proxy`.
    """
    command_line = [sys.executable, "-m", "proxy", "--port", "0", "--log-format", "json", *arguments]
    process = await asyncio.create_subprocess_exec(*command_line, stdout=PIPE, stderr=PIPE, cwd=folder)
    running = Command(process, "", "", [])
    reading = asyncio.create_task(_read_log(process, running.log))
    children: list[int] = []
    try:
        printed = await _announcement(process, running.log, within)
        running.url = printed["Base URL"]
        running.admin_url, running.store = printed.get("Admin", ""), printed.get("Store", "")
        children = running.workers()
        yield running
    finally:
        if process.returncode is None:
            children = running.workers()
            process.kill()
        for pid in children:  # a worker that drains would keep standard error open, and so the wait would not end
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await process.wait()
        await reading


async def _announcement(process: Process, log: list[str], within: float) -> dict[str, str]:
    assert process.stdout is not None
    printed = {}
    async with asyncio.timeout(within):
        while line := (await process.stdout.readline()).decode():
            if found := re.match(r"(Base URL|Admin) +(http\S+)|(Store) +(.*)", line):
                printed[found[1] or found[3]] = found[2] or found[4]
            if line.startswith("Stop with"):
                return printed
    await asyncio.sleep(0.2)
    raise AssertionError(f"it did not start: {log}")


async def _read_log(process: Process, log: list[str]) -> None:
    assert process.stderr is not None
    while line := await process.stderr.readline():
        log.append(line.decode())
