"""Opens the backends that the settings name, and waits until the kinds of their models are known."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from index.counted import counted
from proxy.backends.backend import Backend, is_undecided
from proxy.backends.embedded.child_process import EmbeddedModel
from proxy.backends.embedded.model_file import open_model_file
from proxy.backends.pool import Pool
from proxy.core.errors import EmbeddedError
from proxy.core.key_file import read_key
from proxy.core.log import log_event
from proxy.core.progress import ProgressCallback
from proxy.core.settings import EMBEDDED, BackendSettings, Kind

_MAX_RESTART_DELAY: Final = 30.0  # seconds; the maximum delay before a restart of the embedded model
_INTERVAL: Final = 0.5  # seconds between two looks at the kinds of the models
_REPORT_INTERVAL: Final = 2.0  # seconds between two lines of progress


@asynccontextmanager
async def open_backends(settings: BackendSettings, report: ProgressCallback) -> AsyncIterator[list[Backend]]:
    """Yield the backends that the settings name.

    If the settings name the embedded model, the model is started before the block begins, restarted whenever it dies,
    and stopped when the block ends.

    Raises:
        StartupError: The key for the backends cannot be read, or the embedded model does not start.
    """
    api_key = backend_key(settings)
    backends = [Backend(url, api_key) for url in settings.backend if url != EMBEDDED]
    if EMBEDDED not in settings.backend:
        yield backends
        return
    file = None
    if settings.model_file:
        file = await asyncio.to_thread(open_model_file, settings.model_file, settings.model_name, settings.context)
        slots = counted(file.slots, "request")
        report(f"{file.path.name} is served as {file.name}: {slots} of {file.context} tokens at once")
    model = EmbeddedModel(context=settings.context, file=file)
    kinds: dict[str, Kind] = {} if file and file.has_template else {model.name: "completion"}
    try:
        backend = Backend(await model.start(report), model.api_key, kinds, takes_client_keys=False)
        supervision = asyncio.create_task(_restart_when_dead(model, backend), name="embedded model")
        try:
            yield [*backends, backend]
        finally:
            supervision.cancel()
            await asyncio.gather(supervision, return_exceptions=True)
    finally:
        await model.stop()


def backend_key(settings: BackendSettings) -> str | None:
    """Return the key that the settings name for the backends. Raises StartupError if its file cannot be read."""
    return read_key(settings.backend_api_key_file, "--backend-api-key-file")


async def _restart_when_dead(model: EmbeddedModel, backend: Backend) -> None:
    """Restart the embedded model whenever it dies or a restart has failed.

    The delay before the first restart is one second. The delay before each further restart is twice the previous delay,
    up to `_MAX_RESTART_DELAY`. The delay never becomes shorter again, however long the model has run since a restart.
    """
    delay = 1.0
    while True:
        await model.exited.wait()
        backend.record_check("the embedded model died", answering=False)
        log_event("embedded model died", restart_in_seconds=delay)
        await asyncio.sleep(delay)
        delay = min(2 * delay, _MAX_RESTART_DELAY)
        with suppress(EmbeddedError):
            backend.url = await model.start(lambda _: None)
            backend.api_key = model.api_key
            log_event("embedded model restarted", model=model.name)


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
