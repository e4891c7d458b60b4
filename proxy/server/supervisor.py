"""Supervises the workers of a server: starts them, replaces dead ones, reloads and stops them together.

A worker is a process that runs proxy/server/worker.py. The files that workers share are in one temporary folder, which
is deleted when this process ends. This module does not depend on the content of requests.
"""

import asyncio
import os
import signal
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Self, cast

import orjson
from aiohttp import web
from prometheus_client.multiprocess import mark_process_dead

from index.errors import DrpoError
from proxy.api.admin import Reloaded
from proxy.backends.backend import Backend
from proxy.core.errors import StartupError
from proxy.core.log import log_event
from proxy.core.metrics import FOLDER_VARIABLE
from proxy.core.progress import ProgressCallback
from proxy.core.settings import Settings
from proxy.core.shared_state import MappedState, clear_in_flight
from proxy.server.service import Status
from proxy.ui.worker_relay import WorkerSockets, add_page_of_workers

_MIN_RESTART_DELAY: Final = 0.1  # seconds; doubled each time that a new worker dies soon
_MAX_RESTART_DELAY: Final = 30.0  # seconds
_STABLE_AFTER: Final = 60.0  # seconds; a worker that lived longer is replaced after the minimal delay
_START_TIMEOUT: Final = 300.0  # seconds
_EXIT_TIMEOUT: Final = 5.0  # seconds for a worker to exit after it has drained
_BACKENDS_INTERVAL: Final = 0.5  # seconds between checks whether a backend's address has changed


class Worker:
    """A worker process, and the pipe to it."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self._replies: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue()
        self._reading = asyncio.create_task(self._read(), name="worker's replies")

    async def request(self, **command: object) -> Mapping[str, Any]:
        """Send a command and wait for the reply. Raises StartupError if the worker dies first."""
        self.send(**command)
        reply = await self._replies.get()
        if not reply:
            self._replies.put_nowait(reply)
            raise StartupError(f"A worker ended (status {self.process.returncode}).")
        return reply

    def send(self, **command: object) -> None:
        """Send a command. Nothing happens if the worker is dead."""
        with suppress(ConnectionError):
            cast("asyncio.StreamWriter", self.process.stdin).write(orjson.dumps(command) + b"\n")

    async def _read(self) -> None:
        """Queue each reply, and an empty one when the process has ended."""
        lines = cast("asyncio.StreamReader", self.process.stdout)
        while line := await lines.readline():
            self._replies.put_nowait(orjson.loads(line))
        await self.process.wait()
        self._replies.put_nowait({})


class Supervisor:
    """The workers of a server. Use it as `async with`: entering starts them, leaving ends them.

    Entering raises StartupError with the message of a worker that cannot start.

    Attributes:
        status: The status of the server when it started.
    """

    status: Status

    def __init__(self, settings: Settings, backends: Sequence[Backend], report: ProgressCallback) -> None:
        self._settings = settings
        self._backends = backends
        self._report = report
        self._workers: dict[int, Worker] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._reload_lock = asyncio.Lock()  # also held while a worker starts, so that all serve the same

    async def __aenter__(self) -> Self:
        self._temporary = tempfile.TemporaryDirectory(prefix="drpo-")
        self._folder = Path(self._temporary.name)
        MappedState.prepare(self._folder, self._settings.server.workers)
        try:
            self._report(f"Starting {self._settings.server.workers} workers")
            starts = (self._start(number) for number in range(self._settings.server.workers))
            states = await asyncio.gather(*starts)
        except BaseException:
            await self._end()
            raise
        self.status = states[0]
        self._tasks = [asyncio.create_task(self._replace_when_dead(n), name=f"worker {n}") for n in self._workers]
        self._tasks.append(asyncio.create_task(self._follow_backends(), name="backends"))
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._end()

    def add_page(self, app: web.Application) -> None:
        """Add the routes of the operator page. A worker answers its requests."""
        add_page_of_workers(app, WorkerSockets(self._folder, self._settings.admission))

    async def reload(self) -> Reloaded:
        """Make all workers load everything again, and serve it if all of them can.

        Raises:
            StartupError: A worker cannot load it, and nothing has changed. The message is the worker's.
        """
        async with self._reload_lock:
            workers = list(self._workers.values())
            replies = await asyncio.gather(*(worker.request(do="load") for worker in workers), return_exceptions=True)
            refusals = [_refusal(reply) for reply in replies]
            if reason := next(filter(None, refusals), None):
                for worker in workers:
                    worker.send(do="forget")
                raise StartupError(reason)
            served = await asyncio.gather(*(worker.request(do="serve") for worker in workers))
            return Reloaded(**served[0]["serving"])

    async def drain(self, again: asyncio.Event) -> None:
        """Stop all workers, and wait until their requests have ended or the drain timeout is over.

        Args:
            again: Set when the operator stops the server a second time, which abandons open requests.
        """
        self._stopping = True
        self._signal(signal.SIGTERM)
        ends = asyncio.create_task(self._all_ended(), name="workers end")
        second_stop = asyncio.create_task(again.wait(), name="second stop")
        timeout = self._settings.server.drain_timeout + _EXIT_TIMEOUT
        await asyncio.wait([ends, second_stop], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if second_stop.done():
            self._signal(signal.SIGTERM)  # the second one makes a worker exit at once
            await asyncio.wait([ends], timeout=_EXIT_TIMEOUT)
        for task in (ends, second_stop):
            task.cancel()

    async def _all_ended(self) -> None:
        await asyncio.gather(*(worker.process.wait() for worker in self._workers.values()))

    async def _start(self, number: int) -> Status:
        """Start a worker and wait until it serves. Raises StartupError."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "proxy.server.worker", stdin=PIPE, stdout=PIPE, env=self._environment(),
            start_new_session=True,
        )  # fmt: skip
        worker = self._workers[number] = Worker(process)
        first = {
            "settings": asdict(self._settings),
            "worker": number,
            "backends": self._addresses(),
        }
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                reply = await worker.request(**first)
        except TimeoutError as error:
            raise StartupError(f"Worker {number} did not start within {_START_TIMEOUT:g} s.") from error
        if "error" in reply:
            raise StartupError(reply["error"])
        return Status(**{name: _with_tuple(value) for name, value in reply["ready"].items()})

    async def _replace_when_dead(self, number: int) -> None:
        """Replace the worker whenever it dies. The delay doubles while new workers die soon."""
        delay = _MIN_RESTART_DELAY
        while True:
            started = time.monotonic()
            code = await self._workers[number].process.wait()
            if self._stopping:
                return
            if time.monotonic() - started > _STABLE_AFTER:
                delay = _MIN_RESTART_DELAY
            self._release_shared_state(number)
            log_event("worker died", worker=number, exit_status=code, restart_in_seconds=delay)
            await asyncio.sleep(delay)
            delay = min(2 * delay, _MAX_RESTART_DELAY)
            async with self._reload_lock:
                with suppress(DrpoError):
                    await self._start(number)
                    log_event("worker restarted", worker=number)

    def _release_shared_state(self, number: int) -> None:
        """Free the places and the gauges of a dead worker."""
        clear_in_flight(self._folder, number)
        mark_process_dead(self._workers[number].process.pid, str(self._folder))  # type: ignore[no-untyped-call]

    async def _follow_backends(self) -> None:
        """Tell the workers when a backend's address changes. The embedded model's does when it is restarted."""
        known = self._addresses()
        while True:
            await asyncio.sleep(_BACKENDS_INTERVAL)
            if (addresses := self._addresses()) != known:
                known = addresses
                for worker in self._workers.values():
                    worker.send(do="move", backends=addresses)

    def _addresses(self) -> list[dict[str, Any]]:
        names = ("url", "api_key", "kinds", "takes_client_keys")
        return [{name: getattr(backend, name) for name in names} for backend in self._backends]

    def _environment(self) -> dict[str, str]:
        """This process's variables, with its import path and the folder of the workers."""
        return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), FOLDER_VARIABLE: str(self._folder)}

    def _signal(self, number: signal.Signals) -> None:
        for worker in self._workers.values():
            with suppress(ProcessLookupError):
                worker.process.send_signal(number)

    async def _end(self) -> None:
        """Kill the workers that are left and delete their folder."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for worker in self._workers.values():
            with suppress(ProcessLookupError):
                worker.process.kill()
            await worker.process.wait()
        self._temporary.cleanup()


def _refusal(reply: Mapping[str, Any] | BaseException) -> str | None:
    """Why a worker cannot load; None if it can."""
    if isinstance(reply, BaseException):
        return str(reply)
    return reply.get("refused")


def _with_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
