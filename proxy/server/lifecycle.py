"""Starts, runs and stops the server: its backends, the admin listener, and one serving process or several workers.

This module does not depend on the content of requests.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Final

from index.bundle.shipped import find_bundle
from index.errors import DrpoError
from proxy.api.admin import AddPage, Controls, Reload, Reloaded, administering
from proxy.api.sockets import base_url, bind, bind_admin, hold_port
from proxy.backends.embedded.child_process import check_context
from proxy.backends.embedded.model_file import with_embedded_model
from proxy.backends.opening import backend_key, open_backends
from proxy.core.key_file import read_key
from proxy.core.log import log_event
from proxy.core.progress import ProgressCallback
from proxy.core.settings import EMBEDDED, Settings
from proxy.core.settings_reader import check_reachability
from proxy.core.shared_state import LocalState
from proxy.experiments.config import read_experiments
from proxy.experiments.dashboard import Dashboard
from proxy.experiments.store.dsn import dsn_of
from proxy.inference.injection.bundle_flags import check_bundle_arguments, check_directory
from proxy.server.kinds import wait_for_models
from proxy.server.reload import read_keyring, reload, reload_on_hangup
from proxy.server.service import Status, drain, loading_bundles, serving, status
from proxy.server.supervisor import Supervisor
from proxy.ui.pages import add_page

_ALLOCATION_INTERVAL: Final = 60.0  # seconds between two updates of the experiments' allocations

Announce = Callable[[str, str | None, Status], None]
"""A function that is called once, as soon as the server accepts requests.

Its arguments are the base URL for clients, the URL of the admin listener (None if it is off), and the server's status.
"""


async def serve(settings: Settings, report: ProgressCallback, announce: Announce) -> None:
    """Serve until SIGINT or SIGTERM, and then until the open requests have ended or the drain timeout has passed.

    A second signal ends the open requests at once.

    Args:
        settings: All settings.
        report: Called with a line of text for each step of the start and of the shutdown.
        announce: Called once, as soon as the server accepts requests.

    Raises:
        StartupError: A setting is wrong, or a part of the server cannot start.
        BundleError: A bundle cannot be loaded.
        EmbedderError: An embedder cannot be opened.
    """
    if starting := asyncio.current_task():
        # During the start, SIGTERM cancels this task. The cancellation closes everything that the start has opened.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, starting.cancel)
    settings = await asyncio.to_thread(with_embedded_model, settings)
    _check_files(settings)
    await (_serve_alone if settings.server.workers == 1 else _serve_together)(settings, report, announce)


def _check_files(settings: Settings) -> None:
    """Check flags, key files and experiment files before a port is opened or a model is loaded.

    Raises:
        StartupError: A setting is wrong, or a file cannot be read or is invalid.
    """
    check_reachability(settings)
    injection = settings.injection
    check_bundle_arguments(injection.bundle, injection.allow_embedder)
    if EMBEDDED in settings.backends.backend and not settings.backends.model_file:
        check_context(settings.backends.context)
    read_keyring(settings.api, LocalState())
    backend_key(settings.backends)
    experiments = settings.experiments
    for file in read_experiments(experiments.experiment):
        for arm in file.experiment.arms:
            if arm.bundle:
                check_directory(find_bundle(arm.bundle), injection.allow_embedder)
    if experiments.store:
        dsn_of(experiments.store)
    if experiments.judge:
        read_key(experiments.judge_api_key_file, "--judge-api-key-file")


async def _serve_alone(settings: Settings, report: ProgressCallback, announce: Announce) -> None:
    """Serve with this process alone."""
    shared = LocalState()
    with bind(settings.server) as listener:
        async with (
            loading_bundles(settings) as loading,
            open_backends(settings.backends, report) as backends,
            serving(settings, backends, loading, listener, shared, report) as gateway,
        ):
            await wait_for_models(gateway, report)
            stop = _stop_signals()  # called only now, because a signal during the start must cancel the start
            reload_all, add_routes = partial(reload, settings, gateway, shared), partial(add_page, gateway=gateway)
            async with _operator_access(settings, reload_all, add_routes) as admin_url:
                announce(base_url(settings.server.host, listener.getsockname()[1]), admin_url, status(gateway))
                await stop.wait()
                await drain(gateway, settings.server.drain_timeout, stop, report)


async def _serve_together(settings: Settings, report: ProgressCallback, announce: Announce) -> None:
    """Serve with several worker processes. This process supervises them and itself serves only the admin listener."""
    holder, server = hold_port(settings.server)
    settings = replace(settings, server=server)
    with holder:
        async with (
            open_backends(settings.backends, report) as backends,
            Supervisor(settings, backends, report) as workers,
        ):
            stop = _stop_signals()
            async with _operator_access(settings, workers.reload, workers.add_page) as admin_url:
                announce(base_url(server.host, server.port), admin_url, workers.status)
                await stop.wait()
                stop.clear()
                await workers.drain(stop)


@asynccontextmanager
async def _operator_access(settings: Settings, reload_all: Reload, add_routes: AddPage) -> AsyncIterator[str | None]:
    """Reload at every SIGHUP, serve the admin listener and update experiments' allocations until the block ends.

    Args:
        settings: All settings.
        reload_all: Reloads bundles, keys and experiments in all serving processes.
        add_routes: Adds the routes of the operator page to the admin listener.

    Yields:
        The URL of the admin listener, or None if it is off.
    """
    dashboard = await asyncio.to_thread(Dashboard, settings.experiments)

    async def reload_with_dashboard() -> Reloaded:
        reloaded = await reload_all()
        await asyncio.to_thread(dashboard.refresh)
        return reloaded

    async with (
        reload_on_hangup(reload_with_dashboard) as reload_once,
        administering(bind_admin(settings.server), Controls(reload_once, dashboard, add_routes)) as admin_url,
    ):
        allocations = asyncio.create_task(_update_allocations(dashboard), name="allocations")
        try:
            yield admin_url
        finally:
            allocations.cancel()
            await asyncio.gather(allocations, return_exceptions=True)


async def _update_allocations(dashboard: Dashboard) -> None:
    """Every minute, stop the experiments that a guardrail stops, and change the arm weights of adaptive experiments.

    An experiment is adaptive if its file sets `adaptive`. The new weights of its arms are computed from the outcomes so
    far. If an update raises an error, the error is logged, and the next update follows a minute later.
    """
    while True:
        await asyncio.sleep(_ALLOCATION_INTERVAL)
        try:
            for decision in await asyncio.to_thread(dashboard.update_allocations):
                log_event("allocation changed", experiment=decision.experiment, stopped=decision.stopped)
        except DrpoError as error:
            log_event("allocations cannot be updated", reason=str(error))


def _stop_signals() -> asyncio.Event:
    """Return a new event that every SIGINT and SIGTERM sets from now on."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    return stop
