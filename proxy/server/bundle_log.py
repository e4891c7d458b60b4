"""Logs which bundle each listed model gets, and why: at the start, after a reload, and when a backend lists a model."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Final

from proxy.api.gateway import Gateway
from proxy.core.log import log_event
from proxy.core.settings import BackendSettings
from proxy.core.shared_state import SharedState

_MAX_INTERVAL: Final = 2.0  # seconds between two looks at the models


@asynccontextmanager
async def logging_choices(gateway: Gateway, settings: BackendSettings, shared: SharedState) -> AsyncIterator[None]:
    """Log the choices until the block ends. Of several workers, only the first one logs them."""
    if shared.worker != 0:
        yield
        return
    interval = min(settings.health_interval, _MAX_INTERVAL)
    task = asyncio.create_task(_log_repeatedly(gateway, interval), name="bundle log")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _log_repeatedly(gateway: Gateway, interval: float) -> None:
    logged: Collection[tuple[str, str]] = ()
    while True:
        logged = log_choices(gateway, logged)
        await asyncio.sleep(interval)


def log_choices(gateway: Gateway, logged: Collection[tuple[str, str]]) -> Collection[tuple[str, str]]:
    """Log the bundle of each listed model, unless it was logged before.

    Args:
        gateway: The gateway of this process.
        logged: The models and the bundle ids that the last call returned.

    Returns:
        The listed models, each with the id of its bundle.
    """
    chosen, models = gateway.chosen, gateway.pool.models
    current = {(name, served.id): served for name, served in chosen.bundles.items() if name in models}
    for (name, identity), served in current.items():
        if (name, identity) not in logged:
            bundle = served.bundle.manifest.name
            log_event("bundle", model=name, bundle=bundle, id=identity, reason=chosen.reasons[name])
    return current.keys()
