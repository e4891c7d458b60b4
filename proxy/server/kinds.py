"""Waits, when a process starts, until the kinds of all models are known, and warms up their bundles."""

import asyncio

from proxy.api.gateway import Gateway
from proxy.backends.opening import wait_for_kinds
from proxy.core.progress import ProgressCallback


async def wait_for_models(gateway: Gateway, report: ProgressCallback, stop: asyncio.Event | None = None) -> None:
    """Wait for the kinds of all models, and warm up the bundles of the models whose kinds became known.

    Args:
        gateway: The gateway of this process. It answers requests already.
        report: Called with a line of text for each step.
        stop: An event that ends the wait early; None if there is none.
    """
    known = set(gateway.pool.models)
    await wait_for_kinds(gateway.pool, report, stop)
    await gateway.warm_up([(name, served) for name, served in gateway.bundles_to_warm if name not in known], report)
