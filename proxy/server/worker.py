"""One of several workers: a process that serves what its supervisor tells it to. Run as `python -m
proxy.server.worker`.

Its supervisor talks to it in lines of JSON: the first on standard input says what to serve; later ones say to load,
serve or forget, or that a backend moved. It answers in lines on standard output. When its input ends, its supervisor is
gone: it drains and leaves, so that no worker outlives its server.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
import uvloop

from index.errors import DrpoError
from proxy.api.gateway import Gateway
from proxy.backends.backend import Backend
from proxy.core.log import log_lines
from proxy.core.malloc import return_large_blocks_to_system
from proxy.core.metrics import FOLDER_VARIABLE
from proxy.core.settings import Settings, settings_from_json
from proxy.core.shared_state import MappedState
from proxy.server.reload import Loaded, load, serve_loaded
from proxy.server.service import bundles_loading, drain, serving, status
from proxy.server.sockets import join_port
from proxy.ui.worker_relay import answering_page


def main() -> None:
    """Serve until told to stop."""
    return_large_blocks_to_system()
    uvloop.run(_work())


async def _work() -> None:
    orders = await _orders()
    line = await orders.readline()
    first = orjson.loads(line) if line else {"worker": 0}  # without a word its supervisor is gone already
    try:
        shared = MappedState(Path(os.environ[FOLDER_VARIABLE]), first["worker"])
    except FileNotFoundError:
        return
    with shared:
        try:
            if line:
                await _serve_as_told(first, shared, orders)
        finally:
            if orders.at_eof():
                shared.remove_if_last()


async def _serve_as_told(first: Mapping[str, Any], shared: MappedState, orders: asyncio.StreamReader) -> None:
    settings = settings_from_json(first["settings"])
    backends = [Backend(**backend) for backend in first["backends"]]
    with log_lines(settings.log.log_format, worker=shared.worker):
        try:
            await _serve(settings, backends, shared, orders)
        except DrpoError as error:
            say(error=str(error))


async def _serve(
    settings: Settings, backends: list[Backend], shared: MappedState, orders: asyncio.StreamReader
) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with bundles_loading(settings) as loading:
        await asyncio.wait([loading])
        with join_port(settings.server) as listener:
            async with (
                serving(settings, backends, loading, listener, shared, lambda _: None) as gateway,
                answering_page(gateway, shared.folder, shared.worker),
            ):
                say(ready=asdict(status(gateway)))
                following = asyncio.create_task(Orders(settings, gateway, shared, orders, stop).follow())
                await stop.wait()
                await drain(gateway, settings.server.drain_timeout, stop, lambda _: None)
                following.cancel()


class Orders:
    """What the supervisor says after the first line, and the answers."""

    def __init__(
        self,
        settings: Settings,
        gateway: Gateway,
        shared: MappedState,
        lines: asyncio.StreamReader,
        stop: asyncio.Event,
    ) -> None:
        self._settings = settings
        self._gateway = gateway
        self._shared = shared
        self._lines = lines
        self._stop = stop
        self._loaded: Loaded | None = None

    async def follow(self) -> None:
        """Do what each line says, until there are no more."""
        while line := await self._lines.readline():
            order = orjson.loads(line)
            if order["do"] == "load":
                await self._load()
            elif order["do"] == "serve" and self._loaded is not None:
                say(serving=asdict(serve_loaded(self._gateway, self._loaded)))
                self._loaded = None
            elif order["do"] == "forget":
                self._loaded = None
            elif order["do"] == "move":
                self._move(order["backends"])
        if not self._gateway.admission.draining:  # a stop that comes while it drains ends what it waits for
            self._stop.set()

    async def _load(self) -> None:
        try:
            self._loaded = await load(self._settings, self._gateway, self._shared)
        except DrpoError as error:
            say(refused=str(error))
        else:
            say(loaded=True)

    def _move(self, places: list[Mapping[str, Any]]) -> None:
        for backend, place in zip(self._gateway.pool.backends, places, strict=True):
            backend.url, backend.api_key = place["url"], place["api_key"]


def say(**answer: object) -> None:
    """One line to the supervisor; one that is gone does not hear it."""
    with suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), orjson.dumps(answer) + b"\n")


async def _orders() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


if __name__ == "__main__":
    main()
