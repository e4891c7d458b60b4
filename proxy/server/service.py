"""Runs one serving process: loads bundles, opens the gateway, answers requests on a socket, and drains open requests.

The process either serves alone or is one of several workers of a server. This module does not depend on signals or on
other processes.
"""

import asyncio
import ctypes
import gc
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from index.counted import counted
from proxy.api.app import listening, open_gateway
from proxy.api.gateway import Gateway, ServingState
from proxy.api.listeners import Listener
from proxy.backends.backend import Backend
from proxy.backends.discovery import kind_warning
from proxy.core.progress import ProgressCallback
from proxy.core.settings import Settings
from proxy.core.shared_state import SharedState
from proxy.experiments.dashboard import state_of
from proxy.experiments.mismatches import mismatch_lines
from proxy.inference.injection.model_bundles import ModelBundles, load_bundles
from proxy.inference.injection.served_bundles import foreign_bundle_note
from proxy.server.bundle_log import logging_choices
from proxy.server.cache_warming import warming
from proxy.server.reload import Loaded, read_active_experiments, read_keyring, serve_loaded

_PROGRESS_DELAY: Final = 2.0  # seconds of waiting for the backends before the wait is reported
_WAITING: Final = "Waiting for the backends. Answers to short questions show whether each model is a chat model"
_COLLECTION_THRESHOLDS: Final = (10_000, 10, 10)  # the arguments of gc.set_threshold


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a server, for the operator.

    Attributes:
        models: The names of the models that backends list.
        bundled: The names of the models that have a bundle, even if no backend lists them.
        chosen: By the name of each listed model that has a bundle: the name of the bundle, and why the model has it.
        problems: One line for each backend that has a problem.
        keyed: Whether clients need an API key.
        warnings: One line for each model whose kind is doubtful, or whose bundle was written for another model, and for
            each setting of an experiment that can have no effect.
        experiments: The names of the experiments, each with its state if it does not run.
    """

    models: tuple[str, ...]
    bundled: tuple[str, ...]
    problems: tuple[str, ...]
    keyed: bool
    warnings: tuple[str, ...] = ()
    chosen: Mapping[str, str] = field(default_factory=dict)
    experiments: tuple[str, ...] = ()


@asynccontextmanager
async def loading_bundles(settings: Settings) -> AsyncIterator["asyncio.Task[ModelBundles]"]:
    """Yield a task that loads the bundles in a thread. The task is cancelled when the block ends."""
    injection = settings.injection
    work = asyncio.to_thread(load_bundles, injection.bundle, injection.allow_embedder)
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
    loading: "asyncio.Task[ModelBundles]",
    listener: Listener,
    shared: SharedState,
    report: ProgressCallback,
) -> AsyncIterator[Gateway]:
    """Answer requests until the block ends.

    Args:
        settings: All settings.
        backends: The backends.
        loading: The task that loads the bundles.
        listener: The socket that clients connect to.
        shared: The numbers that all workers of the server share: requests in flight and rate limits.
        report: Called with a line of text for each step of the start.

    Yields:
        The gateway, as soon as the process answers requests.

    Raises:
        StartupError: A setting is wrong, or the file of the keys or of an experiment is invalid.
        BundleError: A bundle cannot be loaded.
        EmbedderError: An embedder cannot be opened.
    """
    state = ServingState(await loading, read_keyring(settings.api, shared))
    waiting = asyncio.get_running_loop().call_later(_PROGRESS_DELAY, report, _WAITING)
    async with open_gateway(settings, backends, state, shared) as gateway:
        waiting.cancel()
        active = await read_active_experiments(settings, state.bundles.loaded)
        serve_loaded(gateway, Loaded(state.bundles, state.keyring, active))
        await gateway.warm_up(gateway.bundles_to_warm, report)
        _release_memory()
        async with (
            listening(gateway, listener, settings),
            warming(gateway, settings, shared),
            logging_choices(gateway, settings.backends, shared),
        ):
            yield gateway


def _release_memory() -> None:
    """Release the memory that only loading needed, and make the garbage collector run less often.

    Without `malloc_trim`, glibc would keep about 20 MB of free memory. Without `gc.freeze`, the collector would visit
    all loaded objects again and again, which takes a tenth of the time of a request. The collector can run less often,
    because requests create few reference cycles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTION_THRESHOLDS)
    if malloc_trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc only
        malloc_trim(0)


async def drain(gateway: Gateway, grace_period: float, stop: asyncio.Event, report: ProgressCallback) -> None:
    """Refuse new requests, and wait until the open requests have ended.

    Args:
        gateway: The gateway of this process.
        grace_period: The maximum duration of the wait, in seconds. Requests may still be open when it has passed.
        stop: The event that the first signal to stop has set. The function clears the event. If a second signal sets
            the event again, the wait ends at once.
        report: Called with a line of text if there are open requests.
    """
    gateway.admission.draining.set()
    stop.clear()
    if count := gateway.admission.in_flight:
        report(f"Waiting for {counted(count, 'open request')} (at most {grace_period:g} s; Ctrl-C stops at once)")
    waits = [asyncio.create_task(event.wait()) for event in (gateway.admission.idle, stop)]
    await asyncio.wait(waits, timeout=grace_period, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


def status(gateway: Gateway) -> Status:
    """Return the status of this process."""
    problems = tuple(f"{backend.url} ({backend.problem})" for backend in gateway.pool.backends if backend.problem)
    models = gateway.pool.models
    notes = [foreign_bundle_note(name, served) for name, served in gateway.bundles.items() if name in models]
    warnings = [*map(kind_warning, models.values()), *notes, *mismatch_lines(gateway.experiment_mismatches())]
    keyed = gateway.state.keyring is not None
    chosen = {name: gateway.chosen.describe(name) for name in gateway.bundles if name in models}
    bundled, experiments = tuple(gateway.bundles), tuple(_named_experiments(gateway))
    return Status(tuple(models), bundled, problems, keyed, tuple(filter(None, warnings)), chosen, experiments)


def _named_experiments(gateway: Gateway) -> Iterator[str]:
    """Yield the names of the experiments, each with its state if it does not run."""
    service = gateway.experiments
    if service is None or service.active is None:
        return
    for one in service.active.experiments:
        state = state_of(one, service.recorder.allocations.get(one.name), time.time())
        yield one.name if state == "running" else f"{one.name} ({state})"
