"""The admin listener: what only the server's operator may ask for, on an address of its own. Knows no request of users.

On loopback a browser is the one stranger who gets there: with a page from elsewhere, or a name that resolves to this
machine. So whoever comes under another name than this machine's, or with another page's origin, is turned away.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Final

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from index.errors import DrpoError
from proxy.api.http_server import HttpServer, error_response, saying_what_is_not_served
from proxy.api.listeners import Listener
from proxy.core.addresses import is_loopback
from proxy.core.errors import ForbiddenError, ProxyError, ReloadRefusedError, StoreDownError, StoreError
from proxy.experiments.dashboard import Dashboard


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What is served now: how many bundles, how many keys (None: none are asked for), and how many experiments."""

    bundles: int
    keys: int | None
    experiments: int = 0


Reload = Callable[[], Awaitable[Reloaded]]
"""Load everything anew and serve it. Raises DrpoError; nothing changed then."""

AddPage = Callable[[web.Application], None]


@dataclass(frozen=True, slots=True)
class Controls:
    """What the operator may do. add_page: the page's routes, to an application."""

    reload: Reload
    dashboard: Dashboard
    add_page: AddPage


CONTROLS: Final = web.AppKey("controls", Controls)


@asynccontextmanager
async def administering(listener: Listener | None, controls: Controls) -> AsyncIterator[str | None]:
    """Answer on the listener until the block ends, and close it; yields its URL, None where there is none."""
    if listener is None:
        yield None
        return
    host, port = listener.getsockname()[:2]
    with listener:
        runner = HttpServer(create_admin_app(controls))
        await runner.setup()
        try:
            await web.SockSite(runner, listener).start()
            yield f"http://{f'[{host}]' if ':' in host else host}:{port}"
        finally:
            await runner.cleanup()


def create_admin_app(controls: Controls) -> web.Application:
    """The routes of the admin listener."""
    not_served = saying_what_is_not_served("the admin listener has the page at /ui, and GET /experiments.")
    app = web.Application(middlewares=[_turn_strangers_away, not_served])
    app[CONTROLS] = controls
    app.router.add_post("/admin/reload", reload_now)
    app.router.add_get("/experiments", list_experiments)
    app.router.add_get("/experiments/{name}", show_experiment)
    controls.add_page(app)
    return app


async def reload_now(request: web.Request) -> web.Response:
    """POST /admin/reload: read keys and bundles again. 409 with the reason if they cannot be served."""
    try:
        done = await request.app[CONTROLS].reload()
    except DrpoError as error:
        return error_response(ReloadRefusedError(str(error)))
    return _json(asdict(done))


async def list_experiments(request: web.Request) -> web.Response:
    """GET /experiments: what runs, in which state, with the units of each arm."""
    return await _read(request.app[CONTROLS].dashboard.listing)


async def show_experiment(request: web.Request) -> web.Response:
    """GET /experiments/{name}: one of them, with the statistics that `drpo-proxy experiment report` prints."""
    return await _read(partial(request.app[CONTROLS].dashboard.report, request.match_info["name"]))


async def _read(ask: Callable[[], object]) -> web.Response:
    """The answer of something that waits for the store, as JSON."""
    try:
        return _json(await asyncio.to_thread(ask))
    except ProxyError as error:
        return error_response(error)
    except StoreError as error:
        return error_response(StoreDownError(str(error)))


def _json(value: object) -> web.Response:
    return web.Response(body=orjson.dumps(value), content_type="application/json")


@web.middleware
async def _turn_strangers_away(request: web.Request, handler: Handler) -> web.StreamResponse:
    named = request.host.rpartition(":")[0] or request.host
    own_page = request.headers.get("Origin") in (None, f"http://{request.host}")
    arrived = request.get_extra_info("sockname")
    if is_loopback(arrived[0]) and not (is_loopback(named) and own_page):
        return error_response(ForbiddenError("The admin listener answers this machine's own name and pages alone."))
    return await handler(request)
