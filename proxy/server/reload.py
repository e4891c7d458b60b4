"""Reloads bundles, keys and experiments while the server runs. It does not depend on the content of requests.

A reload has two steps: `load` reads the new bundles, keys and experiments, and `serve_loaded` replaces the old ones. In
a server with several workers, no worker takes the second step before all workers have taken the first. If `load` fails,
the error is logged, and the old bundles, keys and experiments stay in use.
"""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from index.errors import DrpoError
from proxy.api.admin import Reload, Reloaded
from proxy.api.auth import Keyring, read_keys
from proxy.api.gateway import Gateway
from proxy.core.log import log_event
from proxy.core.settings import ApiSettings, Settings
from proxy.core.shared_state import SharedState
from proxy.experiments.assignment import ActiveExperiments, bundles_to_warm, load_experiments
from proxy.experiments.mismatches import mismatch_lines
from proxy.inference.injection.model_bundles import ModelBundles, load_bundles
from proxy.inference.injection.served_bundles import ServedBundle


@dataclass(frozen=True, slots=True)
class Loaded:
    """The bundles, keys and experiments that `load` has read, for `serve_loaded`.

    Attributes:
        bundles: The loaded bundles, and which bundle each model gets.
        keyring: The API keys of clients; None if clients need no key.
        active: The experiments; None if the settings name no experiment.
    """

    bundles: ModelBundles
    keyring: Keyring | None
    active: ActiveExperiments | None


def read_keyring(settings: ApiSettings, shared: SharedState) -> Keyring | None:
    """Return a keyring with the API keys of the keys file, or None if the settings name no file.

    Raises:
        StartupError: The file cannot be read or is invalid.
    """
    if not settings.api_keys_file:
        return None
    return Keyring(read_keys(Path(settings.api_keys_file)), time.monotonic, shared)


async def read_active_experiments(settings: Settings, serving: Sequence[ServedBundle]) -> ActiveExperiments | None:
    """Return the experiments that the settings name, or None if the settings name no experiment.

    Args:
        settings: All settings.
        serving: The loaded bundles. An experiment that uses one of them does not load the bundle again.

    Raises:
        StartupError: The file of an experiment is invalid.
        BundleError: A bundle of an experiment cannot be loaded.
        EmbedderError: An embedder cannot be opened.
    """
    allowed = settings.injection.allow_embedder
    paths = settings.experiments.experiment
    return await asyncio.to_thread(load_experiments, paths, allowed, serving)


async def load(settings: Settings, gateway: Gateway, shared: SharedState) -> Loaded:
    """Load the bundles, keys and experiments that the settings name, but do not serve them yet.

    Raises:
        StartupError: A setting or a file is invalid.
        BundleError: A bundle cannot be loaded.
        EmbedderError: An embedder cannot be opened.
    """
    keyring = read_keyring(settings.api, shared)
    serving = gateway.state.bundles.loaded
    injection = settings.injection
    bundles = await asyncio.to_thread(load_bundles, injection.bundle, injection.allow_embedder, serving)
    active = await read_active_experiments(settings, bundles.loaded)
    chosen = bundles.of(gateway.pool.models).bundles
    await gateway.warm_up([*chosen.items(), *bundles_to_warm(active)], lambda _: None)
    return Loaded(bundles, keyring, active)


def serve_loaded(gateway: Gateway, loaded: Loaded) -> Reloaded:
    """Use `loaded` for all requests that arrive from now on. Returns its numbers of bundles, keys and experiments."""
    gateway.state.bundles, gateway.state.keyring = loaded.bundles, loaded.keyring
    gateway.state.loads += 1
    if gateway.experiments is not None:
        gateway.experiments.active = loaded.active
    keys = None if loaded.keyring is None else len(loaded.keyring.keys)
    return Reloaded(len(gateway.bundles), keys, len(loaded.active.files) if loaded.active else 0)


async def reload(settings: Settings, gateway: Gateway, shared: SharedState) -> Reloaded:
    """Take both steps of a reload, in a server with one process. If `load` raises an error, nothing changes."""
    reloaded = serve_loaded(gateway, await load(settings, gateway, shared))
    log_mismatches(gateway)
    return reloaded


def log_mismatches(gateway: Gateway) -> None:
    """Log each setting of the experiments that can have no effect. Of several workers, only one calls the function."""
    for line in mismatch_lines(gateway.experiment_mismatches()):
        log_event("experiment mismatch", warning=line)


@asynccontextmanager
async def reload_on_hangup(reload_all: Reload) -> AsyncIterator[Reload]:
    """Reload at every SIGHUP until the block ends.

    Yields:
        A function that reloads. If another reload is in progress, the function first waits for the end of that reload.
    """
    requested, loop, lock = asyncio.Event(), asyncio.get_running_loop(), asyncio.Lock()

    async def reload_once() -> Reloaded:
        async with lock:
            return await _reload_and_log(reload_all)

    loop.add_signal_handler(signal.SIGHUP, requested.set)
    task = asyncio.create_task(_reload_on_request(requested, reload_once), name="reload")
    try:
        yield reload_once
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _reload_and_log(reload_all: Reload) -> Reloaded:
    try:
        reloaded = await reload_all()
    except DrpoError as error:
        log_event("reload refused", reason=str(error))
        raise
    log_event("reloaded", bundles=reloaded.bundles, keys=reloaded.keys, experiments=reloaded.experiments)
    return reloaded


async def _reload_on_request(requested: asyncio.Event, reload_once: Reload) -> None:
    """Reload whenever `requested` is set. If the event is set during a reload, another reload follows."""
    while True:
        await requested.wait()
        requested.clear()
        with suppress(DrpoError):  # `_reload_and_log` has logged the error
            await reload_once()
