"""Reads bundles and keys again while the server runs: on SIGHUP, all or nothing. Knows no request.

What is wrong with the new ones is logged, and the old ones serve on.
"""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from index.errors import DrpoError
from proxy.chat import Gateway
from proxy.errors import StartupError
from proxy.keys import Keyring, read_keys
from proxy.live import ServedBundle, load_bundles
from proxy.log import log_event
from proxy.settings import Settings, bundle_arguments

Report = Callable[[str], None]


def read_keyring(settings: Settings) -> Keyring | None:
    """The keys that the settings name; None if they name none. Raises StartupError."""
    if not settings.api_keys_file:
        return None
    if settings.forward_authorization:
        raise StartupError(
            "--forward-authorization would send our own keys (--api-keys-file) to the backend: give one."
        )
    return Keyring(read_keys(Path(settings.api_keys_file)), time.monotonic)


async def warm_up(gateway: Gateway, bundles: Mapping[str, ServedBundle], report: Report) -> None:
    """Do for each bundle whose model is there what its first request would otherwise wait for."""
    for name, served in bundles.items():
        model = gateway.pool.models.get(name)
        if model is not None:
            report(f"Counting the bundle's tokens for {name}")
            await gateway.injector.warm_up(served, model)


@asynccontextmanager
async def reloading(settings: Settings, gateway: Gateway) -> AsyncIterator[None]:
    """Reload at every SIGHUP until the block ends; one that comes during a reload starts another after it."""
    asked, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, asked.set)
    task = asyncio.create_task(_reload_when_asked(asked, settings, gateway), name="reload")
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _reload_when_asked(asked: asyncio.Event, settings: Settings, gateway: Gateway) -> None:
    while True:
        await asked.wait()
        asked.clear()
        try:
            await reload(settings, gateway)
        except DrpoError as error:
            log_event("reload refused", reason=str(error))


async def reload(settings: Settings, gateway: Gateway) -> None:
    """Load all of it, and only then serve it. Raises StartupError, BundleError, EmbedderError; nothing changed then."""
    keyring = read_keyring(settings)
    bundles = await asyncio.to_thread(load_bundles, bundle_arguments(settings), settings.allow_embedder)
    await warm_up(gateway, bundles, lambda _: None)
    if keyring is not None and gateway.live.keyring is not None:
        keyring = gateway.live.keyring.replaced(keyring.keys)
    gateway.live.bundles, gateway.live.keyring = bundles, keyring
    log_event("reloaded", bundles=len(bundles), keys=len(keyring.keys) if keyring is not None else None)
