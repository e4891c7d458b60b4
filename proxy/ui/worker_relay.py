"""Relays requests of the operator page to a worker, in a server of several workers.

Each worker answers them on a Unix socket in the workers' folder, which only this user may enter. The admin listener
runs in the supervisor and relays each request to a live worker. This module does not depend on the content of requests.
"""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
from aiohttp import web

from proxy.api.admission import read_body
from proxy.api.gateway import Gateway
from proxy.api.http_server import HttpServer, error_middleware, error_response
from proxy.core.errors import OverloadedError, ProxyError
from proxy.core.log import log_event
from proxy.core.settings import AdmissionSettings
from proxy.ui.pages import add_api, add_files


@dataclass(frozen=True, slots=True)
class WorkerSockets:
    """The sockets of the workers.

    Attributes:
        folder: The folder of the sockets.
        limits: The limits on a request.
    """

    folder: Path
    limits: AdmissionSettings


_SOCKETS: Final = web.AppKey("worker sockets", WorkerSockets)
_SOCKET_NAME: Final = "page-{}.socket"
_MAX_PATH: Final = 107  # bytes, of the path of a Unix socket: unix(7)
_ALIVE_TIMEOUT: Final = 2.0  # seconds
_ALIVE: Final = "/alive"
_CONNECTION_HEADERS: Final = frozenset({"connection", "content-length", "date", "host", "server", "transfer-encoding"})


@asynccontextmanager
async def answering_page(gateway: Gateway, folder: Path, worker: int) -> AsyncIterator[None]:
    """Answer requests of the page on this worker's socket until the block ends.

    If the socket cannot be opened, for example because its path is too long, the worker serves without the page.
    """
    app = web.Application(middlewares=[error_middleware("the page has no such question.")])
    app.router.add_get(_ALIVE, _alive)
    add_api(app, gateway)
    runner = HttpServer(app)
    await runner.setup()
    try:
        try:
            await web.UnixSite(runner, str(folder / _SOCKET_NAME.format(worker))).start()
        except OSError as error:
            log_event("page is not answered", reason=str(error))
        yield
    finally:
        await runner.cleanup()


async def _alive(_: web.Request) -> web.Response:
    return web.Response()


def add_page_of_workers(app: web.Application, sockets: WorkerSockets) -> None:
    """Add the routes of the page, in a server of several workers."""
    add_files(app)
    app[_SOCKETS] = sockets
    app.router.add_route("*", "/ui/api/{name}", _relay)


async def _relay(request: web.Request) -> web.StreamResponse:
    """Relay a request to the first live worker. No request is sent twice."""
    sockets = request.app[_SOCKETS]
    try:
        body = await read_body(request, sockets.limits) if request.can_read_body else b""
        for path in sorted(sockets.folder.glob(_SOCKET_NAME.format("*"))):
            async with _open_session(path) as worker:
                if await _is_alive(worker):
                    return await _relay_to(worker, request, body)
        raise _no_worker(sockets.folder)
    except ProxyError as error:
        return error_response(error)


def _open_session(path: Path) -> aiohttp.ClientSession:
    """A session with one worker. It has no timeout: the worker has its own."""
    connector = aiohttp.UnixConnector(str(path))
    return aiohttp.ClientSession(
        "http://worker", connector=connector, timeout=aiohttp.ClientTimeout(total=None), auto_decompress=False
    )


async def _is_alive(worker: aiohttp.ClientSession) -> bool:
    """Whether the worker replies. A connection alone proves nothing: the kernel also accepts it if the worker hangs."""
    try:
        async with worker.get(_ALIVE, timeout=aiohttp.ClientTimeout(total=_ALIVE_TIMEOUT)):
            return True
    except (aiohttp.ClientError, TimeoutError):
        return False


async def _relay_to(worker: aiohttp.ClientSession, request: web.Request, body: bytes) -> web.StreamResponse:
    """Relay a request to a worker and stream the reply. Raises OverloadedError if the worker died before replying."""
    headers = _end_to_end_headers(request.headers)
    try:
        reply = await worker.request(request.method, request.rel_url, data=body or None, headers=headers)
    except aiohttp.ClientError as error:
        raise OverloadedError("The worker that was asked ended. Ask again in a few seconds.") from error
    response = web.StreamResponse(status=reply.status, headers=_end_to_end_headers(reply.headers))
    try:
        await response.prepare(request)
        async for chunk in reply.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
    except aiohttp.ClientError:  # abort the connection, so that the client sees a truncated reply
        if request.transport is not None:
            request.transport.abort()
    return response


def _no_worker(folder: Path) -> OverloadedError:
    if len(os.fsencode(folder / _SOCKET_NAME.format(0))) > _MAX_PATH:
        return OverloadedError("The page needs a shorter name for the folder of temporary files: set TMPDIR=/tmp.")
    return OverloadedError("No worker answers the page now. Ask again in a few seconds.")


def _end_to_end_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of the message, without those of the connection."""
    return {name: value for name, value in headers.items() if name.lower() not in _CONNECTION_HEADERS}
