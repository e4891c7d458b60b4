"""The page of a server of several workers: each answers the page's questions on a socket in the workers' own folder,
and the admin listener, in the process that watches them, passes a question on to one that lives.

The sockets lie in a folder that only this user may enter. Knows no question, and nothing of what it passes on.
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
from proxy.ui.pages import add_answers, add_files


@dataclass(frozen=True, slots=True)
class Behind:
    """The workers, as the admin listener sees them. folder: where their sockets are; limits: of a question."""

    folder: Path
    limits: AdmissionSettings


_BEHIND: Final = web.AppKey("workers behind the page", Behind)
_NAME: Final = "page-{}.socket"
_LONGEST_PATH: Final = 107  # bytes, of a socket's place: unix(7)
_LIVES_WITHIN: Final = 2.0  # seconds
_ALIVE: Final = "/alive"
_OF_A_CONNECTION: Final = frozenset({"connection", "content-length", "date", "host", "server", "transfer-encoding"})


@asynccontextmanager
async def answering_page(gateway: Gateway, folder: Path, worker: int) -> AsyncIterator[None]:
    """Answer the page's questions until the block ends. Where no socket can be made (a folder's name is too long for
    one), the worker serves without."""
    app = web.Application(middlewares=[error_middleware("the page has no such question.")])
    app.router.add_get(_ALIVE, _alive)
    add_answers(app, gateway)
    runner = HttpServer(app)
    await runner.setup()
    try:
        try:
            await web.UnixSite(runner, str(folder / _NAME.format(worker))).start()
        except OSError as error:
            log_event("page is not answered", reason=str(error))
        yield
    finally:
        await runner.cleanup()


async def _alive(_: web.Request) -> web.Response:
    return web.Response()


def add_page_of_workers(app: web.Application, behind: Behind) -> None:
    """The page's routes, where workers answer."""
    add_files(app)
    app[_BEHIND] = behind
    app.router.add_route("*", "/ui/api/{question}", _pass_on)


async def _pass_on(request: web.Request) -> web.StreamResponse:
    """To the first worker that lives, which so has all of the page to itself; a question is not asked twice."""
    behind = request.app[_BEHIND]
    try:
        body = await read_body(request, behind.limits) if request.can_read_body else b""
        for socket in sorted(behind.folder.glob(_NAME.format("*"))):
            async with _connected(socket) as worker:
                if await _lives(worker):
                    return await _ask(worker, request, body)
        raise _nobody(behind.folder)
    except ProxyError as error:
        return error_response(error)


def _connected(socket: Path) -> aiohttp.ClientSession:
    """To one worker; an answer may take as long as the worker lets it."""
    connector = aiohttp.UnixConnector(str(socket))
    return aiohttp.ClientSession(
        "http://worker", connector=connector, timeout=aiohttp.ClientTimeout(total=None), auto_decompress=False
    )


async def _lives(worker: aiohttp.ClientSession) -> bool:
    """A worker that died leaves its socket, and one that hangs still has the kernel take what it is told."""
    try:
        async with worker.get(_ALIVE, timeout=aiohttp.ClientTimeout(total=_LIVES_WITHIN)):
            return True
    except (aiohttp.ClientError, TimeoutError):
        return False


async def _ask(worker: aiohttp.ClientSession, request: web.Request, body: bytes) -> web.StreamResponse:
    """The worker's answer, passed on as it comes. Raises OverloadedError where it died before it began."""
    try:
        reply = await worker.request(request.method, request.rel_url, data=body or None, headers=_kept(request.headers))
    except aiohttp.ClientError as error:
        raise OverloadedError("The worker that was asked ended. Ask again in a few seconds.") from error
    response = web.StreamResponse(status=reply.status, headers=_kept(reply.headers))
    try:
        await response.prepare(request)
        async for chunk in reply.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
    except aiohttp.ClientError:  # either side is gone: the other shall see that the answer is not whole
        if request.transport is not None:
            request.transport.abort()
    return response


def _nobody(folder: Path) -> OverloadedError:
    if len(os.fsencode(folder / _NAME.format(0))) > _LONGEST_PATH:
        return OverloadedError("The page needs a shorter name for the folder of temporary files: set TMPDIR=/tmp.")
    return OverloadedError("No worker answers the page now. Ask again in a few seconds.")


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers that say something of the message, not of the connection."""
    return {name: value for name, value in headers.items() if name.lower() not in _OF_A_CONNECTION}
