"""Reads bundles and keys again while the server runs, all or nothing. Knows no request.

In two steps, so that several workers can change together: first everything is loaded, then it is served. What is wrong
with the new ones is said, and the old ones serve on.
"""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from index.errors import DrpoError
from proxy.api.admin import Reload, Reloaded
from proxy.api.auth import Keyring, read_keys
from proxy.api.gateway import Gateway
from proxy.core.log import log_event
from proxy.core.progress import ProgressCallback
from proxy.core.settings import ApiSettings, Settings
from proxy.core.shared_state import SharedState
from proxy.experiments.assignment import ActiveExperiments, bundles_to_warm, load_experiments
from proxy.inference.injection.served_bundles import ServedBundle, load_bundles


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a reload would serve."""

    bundles: Mapping[str, ServedBundle]
    keyring: Keyring | None
    active: ActiveExperiments | None


def read_keyring(settings: ApiSettings, shared: SharedState) -> Keyring | None:
    """The keys that the settings name; None if they name none. Raises StartupError."""
    if not settings.api_keys_file:
        return None
    return Keyring(read_keys(Path(settings.api_keys_file)), time.monotonic, shared)


async def read_active_experiments(settings: Settings, bundles: Mapping[str, ServedBundle]) -> ActiveExperiments | None:
    """The experiments that the settings name, if they do. Raises StartupError, BundleError, EmbedderError."""
    serving = list(bundles.values())
    allowed, query_embedder = settings.injection.allow_embedder, settings.injection.query_embedder
    paths = settings.experiments.experiment
    return await asyncio.to_thread(load_experiments, paths, allowed, query_embedder, serving)


async def warm_up(gateway: Gateway, bundles: Iterable[tuple[str, ServedBundle]], report: ProgressCallback) -> None:
    """Do for each model that is there, and its bundle, what the first request would otherwise wait for."""
    for name, served in bundles:
        model = gateway.pool.models.get(name)
        if model is not None:
            report(f"Counting the bundle's tokens for {name}")
            await gateway.injector.warm_up(served, model)


async def load(settings: Settings, gateway: Gateway, shared: SharedState) -> Loaded:
    """Load all that the settings name, and serve none of it yet. Raises StartupError, BundleError, EmbedderError."""
    keyring = read_keyring(settings.api, shared)
    serving = list(gateway.bundles.values())
    injection = settings.injection
    bundles = await asyncio.to_thread(
        load_bundles, injection.bundle, injection.allow_embedder, injection.query_embedder, serving
    )
    active = await read_active_experiments(settings, bundles)
    await warm_up(gateway, [*bundles.items(), *bundles_to_warm(active)], lambda _: None)
    return Loaded(bundles, keyring, active)


def serve_loaded(gateway: Gateway, loaded: Loaded) -> Reloaded:
    """From now on, what was loaded is what new requests meet."""
    gateway.state.bundles, gateway.state.keyring = loaded.bundles, loaded.keyring
    if gateway.experiments is not None:
        gateway.experiments.active = loaded.active
    keys = None if loaded.keyring is None else len(loaded.keyring.keys)
    return Reloaded(len(loaded.bundles), keys, len(loaded.active.files) if loaded.active else 0)


async def reload(settings: Settings, gateway: Gateway, shared: SharedState) -> Reloaded:
    """Both steps, for a server of one process. Raises as `load` does; nothing changed then."""
    return serve_loaded(gateway, await load(settings, gateway, shared))


@asynccontextmanager
async def reloading(reload_all: Reload) -> AsyncIterator[Reload]:
    """Reload at every SIGHUP until the block ends. Yields the same as a call; two at a time are done one by one."""
    asked, loop, turn = asyncio.Event(), asyncio.get_running_loop(), asyncio.Lock()

    async def in_turn() -> Reloaded:
        async with turn:
            return await _logged(reload_all)

    loop.add_signal_handler(signal.SIGHUP, asked.set)
    task = asyncio.create_task(_reload_when_asked(asked, in_turn), name="reload")
    try:
        yield in_turn
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _logged(reload_all: Reload) -> Reloaded:
    try:
        done = await reload_all()
    except DrpoError as error:
        log_event("reload refused", reason=str(error))
        raise
    log_event("reloaded", bundles=done.bundles, keys=done.keys, experiments=done.experiments)
    return done


async def _reload_when_asked(asked: asyncio.Event, in_turn: Reload) -> None:
    """One that is asked for during a reload starts another after it."""
    while True:
        await asked.wait()
        asked.clear()
        try:
            await in_turn()
        except DrpoError:
            continue  # said in the log
