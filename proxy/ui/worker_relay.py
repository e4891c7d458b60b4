"""Relays requests of the operator page to a worker. Only a server with several workers needs this module.

The admin listener runs in the workers' parent process (the supervisor), but only a worker can answer a request of the
page. Each worker therefore listens on a Unix socket in the folder that the workers share, and the admin listener relays
each request to a live worker. Only the user who runs the server has access to this folder. This module does not depend
on the content of requests.
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
    """The folder of the workers' sockets, and the limits on the requests that are relayed.

    Attributes:
        folder: The folder of the sockets.
        limits: Limits on the size of a request's body, and on the time within which the body must arrive.
    """

    folder: Path
    limits: AdmissionSettings


_SOCKETS: Final = web.AppKey("worker sockets", WorkerSockets)
_SOCKET_NAME: Final = "page-{}.socket"
_MAX_PATH: Final = 107  # bytes; the limit for the path of a Unix socket, from unix(7)
_ALIVE_TIMEOUT: Final = 2.0  # seconds within which a live worker replies
_ALIVE: Final = "/alive"
_CONNECTION_HEADERS: Final = frozenset({"connection", "content-length", "date", "host", "server", "transfer-encoding"})


@asynccontextmanager
async def answering_page(gateway: Gateway, folder: Path, worker: int) -> AsyncIterator[None]:
    """Answer requests of the page on this worker's socket until the block ends.

    If the socket cannot be opened, for example because its path is too long, the error is logged. The block still runs,
    but this worker answers no requests of the page.
    """
    app = web.Application(middlewares=[error_middleware("the page sends no such request.")])
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
    """Add the routes of the page to the admin listener of a server with several workers."""
    add_files(app)
    app[_SOCKETS] = sockets
    app.router.add_route("*", "/ui/api/{name}", _relay)


async def _relay(request: web.Request) -> web.StreamResponse:
    """Relay a request to the first worker that is alive. If this worker fails, no other worker gets the request."""
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
    """Return a session with one worker. The session has no timeout, because the worker limits each request's time."""
    connector = aiohttp.UnixConnector(str(path))
    return aiohttp.ClientSession(
        "http://worker", connector=connector, timeout=aiohttp.ClientTimeout(total=None), auto_decompress=False
    )


async def _is_alive(worker: aiohttp.ClientSession) -> bool:
    """Return whether the worker replies to a request.

    An open connection would not be enough: the kernel accepts connections even while the worker hangs.
    """
    try:
        async with worker.get(_ALIVE, timeout=aiohttp.ClientTimeout(total=_ALIVE_TIMEOUT)):
            return True
    except (aiohttp.ClientError, TimeoutError):
        return False


async def _relay_to(worker: aiohttp.ClientSession, request: web.Request, body: bytes) -> web.StreamResponse:
    """Relay a request to a worker and stream the reply to the page.

    Raises:
        OverloadedError: The worker died before it replied.
    """
    headers = _end_to_end_headers(request.headers)
    try:
        reply = await worker.request(request.method, request.rel_url, data=body or None, headers=headers)
    except aiohttp.ClientError as error:
        raise OverloadedError("The worker ended before it replied. Send the request again in a few seconds.") from error
    response = web.StreamResponse(status=reply.status, headers=_end_to_end_headers(reply.headers))
    try:
        await response.prepare(request)
        async for chunk in reply.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
    except aiohttp.ClientError:  # the worker died: abort the connection, so that the page sees a truncated reply
        if request.transport is not None:
            request.transport.abort()
    return response


def _no_worker(folder: Path) -> OverloadedError:
    if len(os.fsencode(folder / _SOCKET_NAME.format(0))) > _MAX_PATH:
        return OverloadedError("The path of the folder of temporary files is too long for the page. Set TMPDIR=/tmp.")
    return OverloadedError("No worker answers the page now. Send the request again in a few seconds.")


def _end_to_end_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that are relayed: all headers except those that each connection or server sets itself."""
    return {name: value for name, value in headers.items() if name.lower() not in _CONNECTION_HEADERS}
