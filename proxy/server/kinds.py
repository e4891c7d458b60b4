"""Waits, when a process starts, until the kinds of all models are known, and reports the progress."""

import asyncio
import time
from typing import Final

from proxy.api.gateway import Gateway
from proxy.backends.backend import is_undecided
from proxy.backends.pool import Pool
from proxy.core.progress import ProgressCallback
from proxy.server.reload import warm_up

_INTERVAL: Final = 0.5  # seconds between two checks
_REPORT_INTERVAL: Final = 2.0  # seconds between two lines of progress


async def wait_for_models(gateway: Gateway, report: ProgressCallback, stop: asyncio.Event | None = None) -> None:
    """Wait for the kinds of all models, and warm up the bundles of the models whose kinds became known.

    Args:
        gateway: The gateway of this process. It answers requests already.
        report: Called with a line of text for each step.
        stop: An event that ends the wait early; None if there is none.
    """
    known = set(gateway.pool.models)
    await wait_for_kinds(gateway.pool, report, stop)
    await warm_up(gateway, [(name, served) for name, served in gateway.bundles_to_warm if name not in known], report)


async def wait_for_kinds(pool: Pool, report: ProgressCallback, stop: asyncio.Event | None = None) -> None:
    """Wait while a model cannot be served because its kind is not known. The pool's health checks find out the kind.

    Args:
        pool: The backends.
        report: Called with a line of text every two seconds.
        stop: An event that ends the wait early; None if there is none.
    """
    begun = reported = time.monotonic()
    while is_undecided(pool.backends, None) and not (stop and stop.is_set()):
        await asyncio.sleep(_INTERVAL)
        if (now := time.monotonic()) - reported >= _REPORT_INTERVAL:
            reported = now
            report(waiting_line(now - begun))


def waiting_line(seconds: float) -> str:
    """Return the line of progress after a wait of `seconds`."""
    return (
        f"Waiting for the models to answer short questions, which show whether each is a chat model ({seconds:.0f} s)"
    )
