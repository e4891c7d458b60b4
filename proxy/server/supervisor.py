"""Supervises the workers of a server: starts the workers, replaces dead workers, and reloads or stops all of them.

A worker is a process that runs proxy/server/worker.py. The supervisor is the process that started the workers. It
creates a temporary folder for the files that the workers share, and deletes the folder when it stops. This module does
not depend on the content of requests.
"""

import asyncio
import json
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from typing import Any, Final, Self, cast

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
from proxy.core.shared_state import clear_in_flight
from proxy.server.service import Status
from proxy.server.workers_folder import workers_folder
from proxy.ui.worker_relay import WorkerSockets, add_page_of_workers

_MIN_RESTART_DELAY: Final = 0.1  # seconds before the first replacement of a worker; each further delay is twice as long
_MAX_RESTART_DELAY: Final = 30.0  # seconds; the maximum delay before a replacement of a worker
_STABLE_AFTER: Final = 60.0  # seconds; after a worker that lived longer, the delay is the minimum again
_START_TIMEOUT: Final = 300.0  # seconds within which a new worker must begin to serve
_EXIT_TIMEOUT: Final = 5.0  # seconds that a worker may need to exit after its drain
_BACKENDS_INTERVAL: Final = 0.5  # seconds between two checks whether the address of a backend has changed


class Worker:
    """A worker process. Commands to the worker pass through one pipe, and the worker's replies through another."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self._replies: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue()
        self._reading = asyncio.create_task(self._read(), name="worker's replies")

    async def request(self, **command: object) -> Mapping[str, Any]:
        """Send a command and return the worker's reply. Raises StartupError if the worker dies before it replies."""
        self.send(**command)
        reply = await self._replies.get()
        if not reply:
            self._replies.put_nowait(reply)  # so that the next request raises the error too
            raise StartupError(f"A worker ended (status {self.process.returncode}).")
        return reply

    def send(self, **command: object) -> None:
        """Send a command without waiting for a reply. If the worker is dead, the command is lost."""
        with suppress(ConnectionError):
            cast("asyncio.StreamWriter", self.process.stdin).write(json.dumps(command).encode() + b"\n")

    async def _read(self) -> None:
        """Queue each reply of the worker. When the worker's process has ended, queue an empty reply."""
        lines = cast("asyncio.StreamReader", self.process.stdout)
        while line := await lines.readline():
            self._replies.put_nowait(json.loads(line))
        await self.process.wait()
        self._replies.put_nowait({})


class Supervisor:
    """Supervises the workers of a server, as an asynchronous context manager.

    Entering the context starts the workers. If a worker cannot start, StartupError is raised with the worker's message.
    Leaving the context kills the workers that still run.

    Attributes:
        status: The status of the server at its start.
    """

    status: Status

    def __init__(self, settings: Settings, backends: Sequence[Backend], report: ProgressCallback) -> None:
        self._settings = settings
        self._backends = backends
        self._report = report
        self._workers: dict[int, Worker] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._opened = ExitStack()  # holds the workers' folder
        self._reload_lock = asyncio.Lock()  # also held during a replacement, so that the new worker misses no reload

    async def __aenter__(self) -> Self:
        self._folder = self._opened.enter_context(workers_folder(self._settings.server.workers))
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
        """Add the routes of the operator page to the admin listener. A worker answers the requests of the page."""
        add_page_of_workers(app, WorkerSockets(self._folder, self._settings.admission))

    async def reload(self) -> Reloaded:
        """Make all workers load bundles, keys and experiments. If every worker has loaded them, make all serve them.

        Raises:
            StartupError: A worker could not load them, or died. If it could not load them, the message is the reason
                that this worker gave, and no worker changes what it serves.
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
        """Send SIGTERM to all workers, and wait until they have ended.

        The wait is limited to the sum of the drain timeout and `_EXIT_TIMEOUT`.

        Args:
            again: The event that a second SIGINT or SIGTERM sets. When it is set, the workers abandon open requests.
        """
        self._stopping = True
        self._signal(signal.SIGTERM)
        ends = asyncio.create_task(self._all_ended(), name="workers end")
        second_stop = asyncio.create_task(again.wait(), name="second stop")
        timeout = self._settings.server.drain_timeout + _EXIT_TIMEOUT
        await asyncio.wait([ends, second_stop], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if second_stop.done():
            self._signal(signal.SIGTERM)  # a second SIGTERM makes a worker exit at once
            await asyncio.wait([ends], timeout=_EXIT_TIMEOUT)
        for task in (ends, second_stop):
            task.cancel()

    async def _all_ended(self) -> None:
        await asyncio.gather(*(worker.process.wait() for worker in self._workers.values()))

    async def _start(self, number: int) -> Status:
        """Start a worker, wait until it serves, and return its status.

        Raises:
            StartupError: The worker could not start, died, or did not serve within `_START_TIMEOUT`.
        """
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
        """Replace the worker with this number whenever it dies.

        The delay before a replacement doubles each time, up to `_MAX_RESTART_DELAY`. After a worker that lived longer
        than `_STABLE_AFTER`, the delay is `_MIN_RESTART_DELAY` again.
        """
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
        """Set the count of a dead worker's requests in flight to 0, and remove its gauges from the metrics."""
        clear_in_flight(self._folder, number)
        mark_process_dead(self._workers[number].process.pid, str(self._folder))  # type: ignore[no-untyped-call]

    async def _follow_backends(self) -> None:
        """Send the addresses of the backends to the workers when an address has changed.

        Only a restart of the embedded model changes an address.
        """
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
        """Return the environment of a worker: this process's variables, its import path, and the workers' folder."""
        return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), FOLDER_VARIABLE: str(self._folder)}

    def _signal(self, number: signal.Signals) -> None:
        for worker in self._workers.values():
            with suppress(ProcessLookupError):
                worker.process.send_signal(number)

    async def _end(self) -> None:
        """Kill the workers that still run, and delete the workers' folder."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for worker in self._workers.values():
            with suppress(ProcessLookupError):
                worker.process.kill()
            await worker.process.wait()
        self._opened.close()


def _refusal(reply: Mapping[str, Any] | BaseException) -> str | None:
    """Return the reason why a worker could not carry out `load`, or None if the worker carried it out."""
    if isinstance(reply, BaseException):
        return str(reply)
    return reply.get("refused")


def _with_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
