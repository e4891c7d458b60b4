"""One process that serves: its gateway wired, its bundles loaded, its socket answered, its requests drained.

Used by a server of one process and by each worker of several. Knows no signal and no other process.
"""

import asyncio
import ctypes
import gc
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from proxy.api.app import create_app, open_gateway
from proxy.api.gateway import Gateway, ServingState
from proxy.api.http_server import HttpServer
from proxy.api.listeners import Listener
from proxy.backends.backend import Backend
from proxy.core.progress import ProgressCallback
from proxy.core.settings import Settings
from proxy.core.shared_state import SharedState
from proxy.experiments.assignment import bundles_to_warm
from proxy.inference.injection.served_bundles import ServedBundle, load_bundles
from proxy.server.reload import Loaded, read_active_experiments, read_keyring, serve_loaded, warm_up

Bundles = dict[str, ServedBundle]
_COLLECT_AFTER: Final = (10_000, 10, 10)  # objects made and not freed; then each tenth time the older ones too


@dataclass(frozen=True, slots=True)
class Status:
    """What a person is told of a server that is up. models: listed by a backend; bundled: models that have a bundle;
    troubles: of backends, by URL; keyed: whether clients need a key."""

    models: tuple[str, ...]
    bundled: tuple[str, ...]
    troubles: tuple[str, ...]
    keyed: bool


@asynccontextmanager
async def bundles_loading(settings: Settings) -> AsyncIterator["asyncio.Task[Bundles]"]:
    """The bundles, loaded on a thread while other things start."""
    injection = settings.injection
    work = asyncio.to_thread(load_bundles, injection.bundle, injection.allow_embedder, injection.query_embedder)
    loading = asyncio.create_task(work, name="bundles")
    try:
        yield loading
    finally:
        loading.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await loading


@asynccontextmanager
async def serving(
    settings: Settings,
    backends: Sequence[Backend],
    loading: "asyncio.Task[Bundles]",
    listener: Listener,
    shared: SharedState,
    report: ProgressCallback,
) -> AsyncIterator[Gateway]:
    """Answer requests on `listener` until the block ends. Raises StartupError, BundleError, EmbedderError before."""
    state = ServingState(await loading, read_keyring(settings.api, shared))
    async with open_gateway(settings, backends, state, shared) as gateway:
        active = await read_active_experiments(settings, state.bundles)
        serve_loaded(gateway, Loaded(state.bundles, state.keyring, active))
        await warm_up(gateway, [*state.bundles.items(), *bundles_to_warm(active)], report)
        _settle_memory()
        runner = HttpServer(create_app(gateway, settings.api.cors_origin), settings.admission.read_timeout)
        await runner.setup()
        try:
            await web.SockSite(runner, listener).start()
            yield gateway
        finally:
            await runner.cleanup()


def _settle_memory() -> None:
    """Give back what loading alone needed (glibc keeps some 20 MB of it), and tell Python's garbage collector that the
    rest stays, and to look less often: it would go through all of it again and again, for a tenth of a request's time.
    Requests leave few cycles behind."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)
    if give_back := getattr(ctypes.CDLL(None), "malloc_trim", None):
        give_back(0)


async def drain(gateway: Gateway, grace: float, stop: asyncio.Event, report: ProgressCallback) -> None:
    """Take no new requests; wait for open ones until they end, `grace` seconds are over, or `stop` is set again."""
    gateway.admission.draining = True
    stop.clear()
    if gateway.admission.in_flight:
        report(f"Waiting for {gateway.admission.in_flight} open requests (at most {grace:g} s; Ctrl-C stops at once)")
    ends = [asyncio.create_task(event.wait()) for event in (gateway.admission.idle, stop)]
    await asyncio.wait(ends, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
    for end in ends:
        end.cancel()


def status(gateway: Gateway) -> Status:
    """What is to be told of a gateway."""
    troubles = tuple(f"{backend.url} ({backend.problem})" for backend in gateway.pool.backends if backend.problem)
    return Status(tuple(gateway.pool.models), tuple(gateway.bundles), troubles, gateway.state.keyring is not None)
