"""Serves the admin listener: endpoints for the operator, on another address than the endpoints for clients.

If the listener has a loopback address, a remote attacker can reach it only through a browser on this machine. A page of
another site may make the browser send requests to this address, or to a host name that resolves to it. With a loopback
address, the listener therefore refuses requests whose Host or Origin header does not name this machine.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from index.errors import DrpoError
from proxy.api.http_server import HttpServer, error_middleware, error_response, json_response
from proxy.api.listeners import Listener
from proxy.core.addresses import is_loopback
from proxy.core.errors import ForbiddenError, ProxyError, ReloadRefusedError, StoreDownError, StoreError
from proxy.experiments.dashboard import Dashboard


@dataclass(frozen=True, slots=True)
class Reloaded:
    """How many bundles, keys and experiments are served after a reload.

    Attributes:
        bundles: The number of bundles of --bundle.
        keys: The number of API keys; None if no keys are required.
        experiments: The number of experiments.
    """

    bundles: int
    keys: int | None
    experiments: int = 0


Reload = Callable[[], Awaitable[Reloaded]]
"""A function that loads bundles, keys and experiments again. If all are valid, they replace those in use.

If it raises DrpoError, the server keeps the bundles, keys and experiments that were in use before the call.
"""

AddPage = Callable[[web.Application], None]


@dataclass(frozen=True, slots=True)
class Controls:
    """The functions behind the admin listener's endpoints.

    Attributes:
        reload: Reloads bundles, keys and experiments.
        dashboard: Reads the state and the statistics of experiments from the store.
        add_page: Adds the routes of the operator page to an application.
    """

    reload: Reload
    dashboard: Dashboard
    add_page: AddPage


CONTROLS: Final = web.AppKey("controls", Controls)
_FOREIGN_ORIGIN: Final = (
    "The headers Host and Origin of a request to the admin listener must name this machine. Call the listener by its "
    "address or by localhost."
)


@asynccontextmanager
async def administering(listener: Listener | None, controls: Controls) -> AsyncIterator[str | None]:
    """Serve the admin listener until the block ends, and then close it. Yield its URL; None if `listener` is None."""
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
    """Create the application with the routes of the admin listener."""
    not_served = error_middleware("the admin listener has the page at /ui, and GET /experiments.")
    app = web.Application(middlewares=[_refuse_foreign_origins, not_served])
    app[CONTROLS] = controls
    app.router.add_post("/admin/reload", reload_now)
    app.router.add_get("/experiments", list_experiments)
    app.router.add_get("/experiments/{name}", show_experiment)
    app.router.add_get("/experiments/{name}/feedback", show_feedback)
    app.router.add_get("/feedback", show_feedback_without_experiment)
    controls.add_page(app)
    return app


async def reload_now(request: web.Request) -> web.Response:
    """POST /admin/reload: load bundles, keys and experiments again. If this fails, answer 409 with the reason."""
    try:
        done = await request.app[CONTROLS].reload()
    except DrpoError as error:
        return error_response(ReloadRefusedError(str(error)))
    return json_response(asdict(done))


async def list_experiments(request: web.Request) -> web.Response:
    """GET /experiments: answer with all experiments, their state, and the number of units in each arm."""
    return await _read(request.app[CONTROLS].dashboard.listing)


async def show_experiment(request: web.Request) -> web.Response:
    """GET /experiments/{name}: answer with the statistics that `drpo-proxy experiment report` prints."""
    return await _read(partial(request.app[CONTROLS].dashboard.report, request.match_info["name"]))


async def show_feedback(request: web.Request) -> web.Response:
    """GET /experiments/{name}/feedback: answer with a summary of the feedback.

    The summary has the feedback by arm and example set, and the questions with the worst feedback.
    """
    return await _read(partial(request.app[CONTROLS].dashboard.feedback, request.match_info["name"]))


async def show_feedback_without_experiment(request: web.Request) -> web.Response:
    """GET /feedback: answer with the same summary of the recorded requests that were in no experiment."""
    return await _read(request.app[CONTROLS].dashboard.feedback_without_experiment)


async def _read(query: Callable[[], object]) -> web.Response:
    """Run a query on a thread, because it waits for the store. Return its result, or its error, as JSON."""
    try:
        return json_response(await asyncio.to_thread(query))
    except ProxyError as error:
        return error_response(error)
    except StoreError as error:
        return error_response(StoreDownError(str(error)))


@web.middleware
async def _refuse_foreign_origins(request: web.Request, handler: Handler) -> web.StreamResponse:
    host = request.host.rpartition(":")[0] or request.host
    is_same_origin = request.headers.get("Origin") in (None, f"http://{request.host}")
    local_address = request.get_extra_info("sockname")
    if is_loopback(local_address[0]) and not (is_loopback(host) and is_same_origin):
        return error_response(ForbiddenError(_FOREIGN_ORIGIN))
    return await handler(request)
