"""Watches the workers of a server: starts them, replaces the dead, tells them all the same. Knows no request.

A worker is a process (proxy/server/worker.py). What workers agree on lies in one folder, which goes with this process.
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
from proxy.ui.worker_relay import Behind, add_page_of_workers

_FIRST_PAUSE: Final = 0.1  # seconds before a dead worker is replaced; doubled while they keep dying
_LONGEST_PAUSE: Final = 30.0
_LONG_LIFE: Final = 60.0  # seconds after which a death is no sequel of the last one
_LONGEST_START: Final = 300.0
_LAST_WORDS: Final = 5.0  # seconds beyond the drain
_LOOK_EVERY: Final = 0.5  # seconds between looks at where the backends are


class Worker:
    """One worker process, as seen from here."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self._answers: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue()
        self._reading = asyncio.create_task(self._read(), name="worker's answers")

    async def ask(self, **order: object) -> Mapping[str, Any]:
        """Tell it something, and wait for its answer. Raises StartupError if it dies first."""
        self.tell(**order)
        return await self.answer()

    def tell(self, **order: object) -> None:
        """Tell it something. One that is gone hears nothing."""
        with suppress(ConnectionError):
            cast("asyncio.StreamWriter", self.process.stdin).write(orjson.dumps(order) + b"\n")

    async def answer(self) -> Mapping[str, Any]:
        """Its next answer. Raises StartupError if it dies first."""
        answer = await self._answers.get()
        if not answer:
            self._answers.put_nowait(answer)
            raise StartupError(f"A worker ended (status {self.process.returncode}).")
        return answer

    async def _read(self) -> None:
        answers = cast("asyncio.StreamReader", self.process.stdout)
        while line := await answers.readline():
            self._answers.put_nowait(orjson.loads(line))
        await self.process.wait()
        self._answers.put_nowait({})


class Supervisor:
    """The workers of a server, from start to end. Use as `async with`; raises StartupError, with a worker's own words,
    if they do not come up."""

    status: Status

    def __init__(self, settings: Settings, backends: Sequence[Backend], report: ProgressCallback) -> None:
        self._settings = settings
        self._backends = backends
        self._report = report
        self._workers: dict[int, Worker] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._reloading = asyncio.Lock()  # nor does a worker start while the others change what they serve

    async def __aenter__(self) -> Self:
        self._home = tempfile.TemporaryDirectory(prefix="drpo-")
        self._folder = Path(self._home.name)
        MappedState.prepare(self._folder, self._settings.server.workers)
        try:
            self._report(f"Starting {self._settings.server.workers} workers")
            starts = (self._start(number) for number in range(self._settings.server.workers))
            states = await asyncio.gather(*starts)
        except BaseException:
            await self._end()
            raise
        self.status = states[0]
        self._tasks = [asyncio.create_task(self._keep(n), name=f"worker {n}") for n in self._workers]
        self._tasks.append(asyncio.create_task(self._follow_backends(), name="backends"))
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._end()

    def add_page(self, app: web.Application) -> None:
        """The routes of the page, whose questions a worker answers."""
        add_page_of_workers(app, Behind(self._folder, self._settings.admission))

    async def reload(self) -> Reloaded:
        """All workers load everything anew; if all can, all serve it. Raises StartupError with the reason of one that
        cannot; nothing changed then."""
        async with self._reloading:
            workers = list(self._workers.values())
            answers = await asyncio.gather(*(worker.ask(do="load") for worker in workers), return_exceptions=True)
            refusals = [_refusal(answer) for answer in answers]
            if reason := next(filter(None, refusals), None):
                for worker in workers:
                    worker.tell(do="forget")
                raise StartupError(reason)
            served = await asyncio.gather(*(worker.ask(do="serve") for worker in workers))
            return Reloaded(**served[0]["serving"])

    async def drain(self, again: asyncio.Event) -> None:
        """Tell all workers to end, and wait until their requests have, or their time is over. again: set when a person
        does not want to wait."""
        self._stopping = True
        self._signal(signal.SIGTERM)
        ends = asyncio.create_task(self._all_ended(), name="workers end")
        impatient = asyncio.create_task(again.wait(), name="impatience")
        longest = self._settings.server.drain_timeout + _LAST_WORDS
        await asyncio.wait([ends, impatient], timeout=longest, return_when=asyncio.FIRST_COMPLETED)
        if impatient.done():
            self._signal(signal.SIGTERM)  # the second one: stop at once
            await asyncio.wait([ends], timeout=_LAST_WORDS)
        for task in (ends, impatient):
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
            "backends": self._places(),
        }
        try:
            async with asyncio.timeout(_LONGEST_START):
                answer = await worker.ask(**first)
        except TimeoutError as error:
            raise StartupError(f"Worker {number} did not start within {_LONGEST_START:g} s.") from error
        if "error" in answer:
            raise StartupError(answer["error"])
        return Status(**{name: _untupled(value) for name, value in answer["ready"].items()})

    async def _keep(self, number: int) -> None:
        """Replace the worker whenever it dies, sooner or later according to how long it lived."""
        pause = _FIRST_PAUSE
        while True:
            born = time.monotonic()
            code = await self._workers[number].process.wait()
            if self._stopping:
                return
            if time.monotonic() - born > _LONG_LIFE:
                pause = _FIRST_PAUSE
            self._bury(number)
            log_event("worker died", worker=number, exit_status=code, restart_in_seconds=pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            async with self._reloading:
                with suppress(DrpoError):
                    await self._start(number)
                    log_event("worker restarted", worker=number)

    def _bury(self, number: int) -> None:
        clear_in_flight(self._folder, number)
        mark_process_dead(self._workers[number].process.pid, str(self._folder))  # type: ignore[no-untyped-call]

    async def _follow_backends(self) -> None:
        """Tell the workers when a backend has moved: the embedded model does when it is started again."""
        known = self._places()
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            if (places := self._places()) != known:
                known = places
                for worker in self._workers.values():
                    worker.tell(do="move", backends=places)

    def _places(self) -> list[dict[str, Any]]:
        names = ("url", "api_key", "kinds", "takes_client_keys")
        return [{name: getattr(backend, name) for name in names} for backend in self._backends]

    def _environment(self) -> dict[str, str]:
        """Ours, with the same places to import from, and the folder where the workers meet."""
        return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), FOLDER_VARIABLE: str(self._folder)}

    def _signal(self, number: signal.Signals) -> None:
        for worker in self._workers.values():
            with suppress(ProcessLookupError):
                worker.process.send_signal(number)

    async def _end(self) -> None:
        """Whatever happened: no worker and no file is left."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for worker in self._workers.values():
            with suppress(ProcessLookupError):
                worker.process.kill()
            await worker.process.wait()
        self._home.cleanup()


def _refusal(answer: Mapping[str, Any] | BaseException) -> str | None:
    if isinstance(answer, BaseException):
        return str(answer)
    return answer.get("refused")


def _untupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
