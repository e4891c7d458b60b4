"""The life of the server: bind, start what it needs, serve alone or with workers, drain, stop. Knows no request."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Final

from index.errors import DrpoError
from proxy.api.admin import AddPage, Controls, Reload, Reloaded, administering
from proxy.backends.backend import Backend
from proxy.backends.embedded.child_process import MODEL_NAME, EmbeddedModel
from proxy.core.errors import EmbeddedError
from proxy.core.key_file import read_key
from proxy.core.log import log_event
from proxy.core.progress import ProgressCallback
from proxy.core.settings import EMBEDDED, BackendSettings, Settings
from proxy.core.settings_reader import check_reachability
from proxy.core.shared_state import LocalState
from proxy.experiments.config import read_experiments
from proxy.experiments.dashboard import Dashboard
from proxy.experiments.store.dsn import dsn_of
from proxy.inference.injection.served_bundles import check_bundle_arguments
from proxy.server.reload import read_keyring, reload, reloading
from proxy.server.service import Status, bundles_loading, drain, serving, status
from proxy.server.sockets import base_url, bind, bind_admin, hold_port
from proxy.server.supervisor import Supervisor
from proxy.ui.pages import add_page

_STEERING_EVERY: Final = 60.0  # seconds
_LONGEST_PAUSE: Final = 30.0

Announce = Callable[[str, str | None, Status], None]
"""Given the base URL, the admin listener's, if there is one, and what is served."""


async def serve(settings: Settings, report: ProgressCallback, announce: Announce) -> None:
    """Serve until SIGINT or SIGTERM. `report` gets progress; `announce` what is served once requests are answered.

    Raises StartupError, BundleError, EmbedderError before anything is served.
    """
    if starting := asyncio.current_task():
        # Until there is something to drain, being told to stop ends the start, and all that was begun for it.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, starting.cancel)
    _check_inputs(settings)
    await (_serve_alone if settings.server.workers == 1 else _serve_together)(settings, report, announce)


def _check_inputs(settings: Settings) -> None:
    """Raise StartupError for a mistake that can be found before a port is tried or a model is loaded."""
    check_reachability(settings)
    check_bundle_arguments(settings.injection.bundle)
    read_keyring(settings.api, LocalState())
    _backend_key(settings.backends)
    experiments = settings.experiments
    read_experiments(experiments.experiment)
    if experiments.store:
        dsn_of(experiments.store)
    if experiments.judge:
        read_key(experiments.judge_api_key_file, "--judge-api-key-file")


async def _serve_alone(settings: Settings, report: ProgressCallback, announce: Announce) -> None:
    """One process: this one."""
    shared = LocalState()
    with bind(settings.server) as listener:
        async with (
            bundles_loading(settings) as loading,
            open_backends(settings.backends, report) as backends,
            serving(settings, backends, loading, listener, shared, report) as gateway,
        ):
            stop = _stop_signals()  # not before: until then an interrupt ends the start itself
            reload_all, page = partial(reload, settings, gateway, shared), partial(add_page, gateway=gateway)
            async with _operated(settings, reload_all, page) as admin_url:
                announce(base_url(settings.server.host, listener.getsockname()[1]), admin_url, status(gateway))
                await stop.wait()
                await drain(gateway, settings.server.drain_timeout, stop, report)


async def _serve_together(settings: Settings, report: ProgressCallback, announce: Announce) -> None:
    """Several workers, each a process; this one watches them, and serves nothing but the admin listener."""
    holder, server = hold_port(settings.server)
    settings = replace(settings, server=server)
    with holder:
        async with (
            open_backends(settings.backends, report) as backends,
            Supervisor(settings, backends, report) as workers,
        ):
            stop = _stop_signals()
            async with _operated(settings, workers.reload, workers.add_page) as admin_url:
                announce(base_url(server.host, server.port), admin_url, workers.status)
                await stop.wait()
                stop.clear()
                await workers.drain(stop)


@asynccontextmanager
async def _operated(settings: Settings, reload_all: Reload, page: AddPage) -> AsyncIterator[str | None]:
    """The operator's ways in: SIGHUP, and the admin listener, whose URL this yields. page: adds the page's routes."""
    dashboard = await asyncio.to_thread(Dashboard, settings.experiments)

    async def reload_and_show() -> Reloaded:
        done = await reload_all()
        await asyncio.to_thread(dashboard.refresh)
        return done

    async with (
        reloading(reload_and_show) as in_turn,
        administering(bind_admin(settings.server), Controls(in_turn, dashboard, page)) as admin_url,
    ):
        allocations = asyncio.create_task(_keep_allocating(dashboard), name="steering")
        try:
            yield admin_url
        finally:
            allocations.cancel()
            await asyncio.gather(allocations, return_exceptions=True)


async def _keep_allocating(dashboard: Dashboard) -> None:
    """Do what guardrails and adaptive weights decide. A store or a library that is missing changes nothing."""
    while True:
        await asyncio.sleep(_STEERING_EVERY)
        try:
            for decision in await asyncio.to_thread(dashboard.update_allocations):
                log_event("experiment steered", experiment=decision.experiment, stopped=decision.stopped)
        except DrpoError as error:
            log_event("experiments cannot be steered", reason=str(error))


@asynccontextmanager
async def open_backends(settings: BackendSettings, report: ProgressCallback) -> AsyncIterator[list[Backend]]:
    """The backends of the settings; the embedded one is started, watched, and stopped at the end."""
    api_key = _backend_key(settings)
    backends = [Backend(url, api_key) for url in settings.backend if url != EMBEDDED]
    if EMBEDDED not in settings.backend:
        yield backends
        return
    model = EmbeddedModel(context=settings.context)
    try:
        backend = Backend(await model.start(report), model.api_key, {MODEL_NAME: "completion"}, takes_client_keys=False)
        watch = asyncio.create_task(_keep_alive(model, backend), name="embedded model")
        try:
            yield [*backends, backend]
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
    finally:
        await model.stop()


def _backend_key(settings: BackendSettings) -> str | None:
    return read_key(settings.backend_api_key_file, "--backend-api-key-file")


async def _keep_alive(model: EmbeddedModel, backend: Backend) -> None:
    """Start the embedded model again whenever it dies, after a pause that grows."""
    pause = 1.0
    while True:
        await model.exited.wait()
        backend.record_check("the embedded model died", answering=False)
        log_event("embedded model died", restart_in_seconds=pause)
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
        with suppress(EmbeddedError):
            backend.url = await model.start(lambda _: None)
            backend.api_key = model.api_key
            log_event("embedded model restarted", model=MODEL_NAME)


def _stop_signals() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    return stop
