"""A worker: one of several serving processes. The supervisor starts it as `python -m proxy.server.worker`.

The supervisor (the parent process) writes lines of JSON to the worker's standard input. The first line contains the
settings, the number of the worker, and the backends. Each later line is a command:

    load      read bundles, keys and experiments again, but do not serve them yet
    serve     serve what `load` has read
    forget    discard what `load` has read
    move      use new addresses for the backends

The worker replies to the first line, to `load` and to `serve`, each with a line of JSON on its standard output. If its
standard input ends, the supervisor has ended. The worker then drains and exits, so that it does not run forever without
a supervisor.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import uvloop

from index.errors import DrpoError
from proxy.api.gateway import Gateway
from proxy.api.sockets import join_port
from proxy.backends.backend import Backend
from proxy.core.log import log_lines
from proxy.core.malloc import set_malloc_thresholds
from proxy.core.metrics import FOLDER_VARIABLE
from proxy.core.settings import Settings, settings_from_json
from proxy.core.shared_state import MappedState
from proxy.server.kinds import wait_for_models
from proxy.server.reload import Loaded, load, log_mismatches, serve_loaded
from proxy.server.service import drain, loading_bundles, serving, status
from proxy.ui.worker_relay import answering_page


def main() -> None:
    """Serve until SIGTERM, SIGINT, or the end of the supervisor's process."""
    set_malloc_thresholds()
    uvloop.run(_work())


async def _work() -> None:
    lines = await _open_standard_input()
    line = await lines.readline()
    first = json.loads(line) if line else {"worker": 0}  # no line: the supervisor has ended already
    try:
        shared = MappedState(Path(os.environ[FOLDER_VARIABLE]), first["worker"])
    except FileNotFoundError:
        return
    with shared:
        try:
            if line:
                await _serve_or_report(first, shared, lines)
        finally:
            if lines.at_eof():
                shared.remove_if_last()


async def _serve_or_report(first: Mapping[str, Any], shared: MappedState, lines: asyncio.StreamReader) -> None:
    """Serve with the settings and backends in the first line. If a DrpoError is raised, send its message as a reply."""
    settings = settings_from_json(first["settings"])
    backends = [Backend(**backend) for backend in first["backends"]]
    with log_lines(settings.log.log_format, worker=shared.worker):
        try:
            await _serve(settings, backends, shared, lines)
        except DrpoError as error:
            reply(error=str(error))


async def _serve(settings: Settings, backends: list[Backend], shared: MappedState, lines: asyncio.StreamReader) -> None:
    stop = _Stop(asyncio.Event())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.on_signal)
    async with loading_bundles(settings) as loading:
        await asyncio.wait([loading])
        with join_port(settings.server) as listener:
            async with (
                serving(settings, backends, loading, listener, shared, lambda _: None) as gateway,
                answering_page(gateway, shared.folder, shared.worker),
            ):
                await wait_for_models(gateway, lambda _: None, stop.event)
                reply(ready=asdict(status(gateway)))
                commands = asyncio.create_task(CommandReader(settings, gateway, shared, lines, stop).run())
                await stop.event.wait()
                await drain(gateway, settings.server.drain_timeout, stop.event, lambda _: None)
                commands.cancel()


class _Stop:
    """Sets an event to stop the worker, and sets it again to end a drain at once.

    When a whole server is stopped, the supervisor may end just before the worker gets its first signal. The end of the
    supervisor and this signal then count as one reason to stop, so that open requests are completed.
    """

    def __init__(self, event: asyncio.Event) -> None:
        self.event = event
        self._got_signal = self._has_ended = False

    def on_signal(self) -> None:
        """Stop the worker. If it drains already because of a signal, end the drain."""
        is_first, self._got_signal = not self._got_signal, True
        if not (is_first and self._has_ended):
            self.event.set()

    def on_end_of_supervisor(self) -> None:
        """Stop the worker, unless a signal has stopped it already."""
        self._has_ended = True
        if not self._got_signal:
            self.event.set()


class CommandReader:
    """Carries out the supervisor's commands and replies to them."""

    def __init__(
        self,
        settings: Settings,
        gateway: Gateway,
        shared: MappedState,
        lines: asyncio.StreamReader,
        stop: _Stop,
    ) -> None:
        self._settings = settings
        self._gateway = gateway
        self._shared = shared
        self._lines = lines
        self._stop = stop
        self._loaded: Loaded | None = None

    async def run(self) -> None:
        """Carry out each command until the input ends. Then stop the worker, unless it is draining already."""
        while line := await self._lines.readline():
            command = json.loads(line)
            if command["do"] == "load":
                await self._load()
            elif command["do"] == "serve" and self._loaded is not None:
                reply(serving=asdict(serve_loaded(self._gateway, self._loaded)))
                self._loaded = None
                if self._shared.worker == 0:
                    log_mismatches(self._gateway)
            elif command["do"] == "forget":
                self._loaded = None
            elif command["do"] == "move":
                self._move(command["backends"])
        self._stop.on_end_of_supervisor()

    async def _load(self) -> None:
        try:
            self._loaded = await load(self._settings, self._gateway, self._shared)
        except DrpoError as error:
            reply(refused=str(error))
        else:
            reply(loaded=True)

    def _move(self, addresses: list[Mapping[str, Any]]) -> None:
        for backend, address in zip(self._gateway.pool.backends, addresses, strict=True):
            backend.url, backend.api_key = address["url"], address["api_key"]


def reply(**content: object) -> None:
    """Write one line of JSON to the supervisor. If the supervisor has ended, the line is lost."""
    with suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), json.dumps(content).encode() + b"\n")


async def _open_standard_input() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


if __name__ == "__main__":
    main()
