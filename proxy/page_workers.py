"""The page of a server of several workers: each answers the page's questions on a socket in the workers' own folder,
and the admin listener, in the process that watches them, passes a question on to one that lives.

The sockets lie in a folder that only this user may enter. Knows no question, and nothing of what it passes on.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp
from aiohttp import web

from proxy.chat import Gateway, error_response
from proxy.errors import OverloadedError
from proxy.front import FrontDoor
from proxy.log import log_event
from proxy.page import add_answers, add_files

_FOLDER: Final = web.AppKey("workers' folder", Path)
_NAME: Final = "page-{}.socket"
_HEADERS_WITHIN: Final = 10.0
_OF_A_CONNECTION: Final = frozenset({"connection", "content-length", "date", "host", "server", "transfer-encoding"})


@asynccontextmanager
async def answering_page(gateway: Gateway, folder: Path, worker: int) -> AsyncIterator[None]:
    """Answer the page's questions until the block ends. Where no socket can be made (a folder's name is too long for
    one), the worker serves without."""
    app = web.Application()
    add_answers(app, gateway)
    runner = FrontDoor(app, _HEADERS_WITHIN)
    await runner.setup()
    try:
        try:
            await web.UnixSite(runner, str(folder / _NAME.format(worker))).start()
        except OSError as error:
            log_event("page is not answered", reason=str(error))
        yield
    finally:
        await runner.cleanup()


def add_page_of_workers(app: web.Application, folder: Path) -> None:
    """The page's routes, where workers that have their sockets in `folder` answer."""
    add_files(app)
    app[_FOLDER] = folder
    app.router.add_route("*", "/ui/api/{question}", _pass_on)


async def _pass_on(request: web.Request) -> web.StreamResponse:
    """To the first worker that takes the question; it is not asked twice."""
    body = request.content if request.can_read_body else None  # not read before a worker is there to take it
    for socket in sorted(request.app[_FOLDER].glob(_NAME.format("*"))):
        connector = aiohttp.UnixConnector(str(socket))
        async with aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(total=None), auto_decompress=False
        ) as session:
            try:
                reply = await session.request(
                    request.method,
                    f"http://worker{request.path_qs}",
                    data=body,
                    headers=_kept(request.headers),
                )
            except aiohttp.ClientConnectorError:
                continue  # it died, and its socket is still there
            except aiohttp.ClientError:
                break
            return await _hand_back(request, reply)
    return error_response(OverloadedError("No worker answers the page now. Ask again in a few seconds."))


async def _hand_back(request: web.Request, reply: aiohttp.ClientResponse) -> web.StreamResponse:
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


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers that say something of the message, not of the connection."""
    return {name: value for name, value in headers.items() if name.lower() not in _OF_A_CONNECTION}
