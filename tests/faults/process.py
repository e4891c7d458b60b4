"""The real command in a process of its own, in front of backends of the test: for signals, workers and their ends."""

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
    """The process ids of a process's children."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


@dataclass(slots=True)
class Command:
    """A running `drpo-proxy`. `url` and `admin_url` as it printed them; `log`: the lines of standard error so far."""

    process: Process
    url: str
    admin_url: str
    log: list[str]

    async def chat(self, content: str = "hi", headers: Any = None, **fields: Any) -> tuple[int, Any, Any]:
        """One request on a connection of its own, so that any worker may get it."""
        body = {"model": "scripted", "messages": [{"role": "user", "content": content}], **fields}
        async with aiohttp.ClientSession() as session:
            async with session.post(f"{self.url}/chat/completions", json=body, headers=headers) as response:
                return response.status, response.headers, await response.json(content_type=None)

    async def get(self, path: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as session:
            async with session.get(self.url.removesuffix("/v1") + path) as response:
                return response.status, await response.text()

    async def logged(self, what: str, within: float = 20.0) -> str:
        """The first line with `what` in it, when it is there."""
        async with asyncio.timeout(within):
            while True:
                for line in self.log:
                    if what in line:
                        return line
                await asyncio.sleep(0.02)

    def workers(self) -> list[int]:
        """The process ids of its children."""
        return children(self.process.pid)

    async def ended(self, within: float = 20.0) -> int:
        async with asyncio.timeout(within):
            return await self.process.wait()


@asynccontextmanager
async def command(*arguments: str) -> AsyncIterator[Command]:
    """Start it, wait until it says where it listens, and leave nothing of it behind."""
    told = [sys.executable, "-m", "proxy", "--port", "0", "--log-format", "json", *arguments]
    process = await asyncio.create_subprocess_exec(*told, stdout=PIPE, stderr=PIPE, cwd=ROOT)
    running = Command(process, "", "", [])
    reading = asyncio.create_task(_read_log(process, running.log))
    children: list[int] = []
    try:
        printed = await _announcement(process, running.log)
        running.url = printed["Base URL"]
        running.admin_url = printed.get("Admin", "")
        children = running.workers()
        yield running
    finally:
        if process.returncode is None:
            children = running.workers()
            process.kill()
        await process.wait()
        await reading
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


async def _announcement(process: Process, log: list[str]) -> dict[str, str]:
    assert process.stdout is not None
    printed = {}
    async with asyncio.timeout(60):
        while line := (await process.stdout.readline()).decode():
            if found := re.match(r"(Base URL|Admin) +(http\S+)", line):
                printed[found[1]] = found[2]
            if line.startswith("Stop with"):
                return printed
    await asyncio.sleep(0.2)
    raise AssertionError(f"it did not start: {log}")


async def _read_log(process: Process, log: list[str]) -> None:
    assert process.stderr is not None
    while line := await process.stderr.readline():
        log.append(line.decode())
