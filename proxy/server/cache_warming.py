"""Warms the prefix caches of backends: sends the beginnings of users' requests to each backend before users do.

The module sends the prefix of each example set to a backend at the start, after each reload, and when the backend comes
back after an outage. One process does this for all workers. It sends one prefix at a time, and only while a backend
serves few requests of users. After each prefix, it pauses for as long as the backend took, so that a backend spends at
most half of its time on prefixes. No pause is longer than five seconds, so a slow backend can spend more of its time.
The requests with prefixes do not pass through the code that serves users. So they are in no experiment, the shadow
judge does not see them, and no metric counts them as requests.
"""

import asyncio
from collections.abc import AsyncIterator, Hashable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from proxy.api.gateway import Gateway
from proxy.backends.backend import Backend
from proxy.backends.discovery import Model, fingerprint
from proxy.backends.fetcher import fetch_reply
from proxy.backends.set_plan import set_key
from proxy.core.errors import ProxyError
from proxy.core.log import log_event, log_failure
from proxy.core.settings import Settings
from proxy.core.shared_state import SharedState
from proxy.inference.injection.injection import Injection
from proxy.inference.injection.served_bundles import ServedBundle
from proxy.inference.request_bodies import prefix_request

_MAX_PREFIXES: Final = 64  # per bundle
_MAX_USER_REQUESTS: Final = 2  # requests of users that a backend may serve when a prefix is sent
_WARMING_TIMEOUT: Final = 300.0  # seconds for all prefixes of one bundle on one backend
_PREFIX_TIMEOUT: Final = 120.0  # seconds for the reply to one prefix
_MAX_INTERVAL: Final = 2.0  # seconds between two checks of the backends and the bundles
_MAX_PAUSE: Final = 5.0  # seconds between two prefixes
_QUIET_INTERVAL: Final = 0.1  # seconds between two checks of the requests of users


@asynccontextmanager
async def warming(gateway: Gateway, settings: Settings, shared: SharedState) -> AsyncIterator[None]:
    """Keep the prefix caches of all backends warm until the server shuts down or the block ends.

    Only the first worker does this. With --no-warm-cache, no worker does.
    """
    if not settings.injection.warm_cache or shared.worker != 0:
        yield
        return
    warmer = CacheWarmer(gateway, shared, min(settings.backends.health_interval, _MAX_INTERVAL))
    tasks = [asyncio.create_task(warmer.keep_warm(backend), name="cache warming") for backend in gateway.pool.backends]
    tasks.append(asyncio.create_task(_cancel_at_drain(gateway, tuple(tasks)), name="end of cache warming"))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _cancel_at_drain(gateway: Gateway, tasks: Sequence["asyncio.Task[None]"]) -> None:
    await gateway.admission.draining.wait()
    for task in tasks:
        task.cancel()


@dataclass(slots=True)
class _Progress:
    """How many prefixes of a bundle were handled.

    Attributes:
        total: The number of prefixes of the bundle.
        sent: The number of prefixes that the backend answered.
        failed: The number of prefixes that failed.
    """

    total: int = 0
    sent: int = 0
    failed: int = 0


class CacheWarmer:
    """Sends the prefixes of all served bundles to backends."""

    def __init__(self, gateway: Gateway, shared: SharedState, interval: float) -> None:
        """Create a warmer.

        Args:
            gateway: The gateway of this process.
            shared: The numbers of requests in flight in all workers.
            interval: Seconds between two checks whether a backend came back or bundles were reloaded.
        """
        self._gateway = gateway
        self._shared = shared
        self._interval = interval

    async def keep_warm(self, backend: Backend) -> None:
        """Warm the cache of a backend now, and again whenever the cache may lack a prefix."""
        tried: frozenset[Hashable] = frozenset()
        while True:
            wanted = self._wanted(backend)
            for key, (model, served) in wanted.items():
                if key not in tried:
                    await self._warm(backend, key, model, served)
            tried = frozenset(wanted)
            await asyncio.sleep(self._interval)

    def _wanted(self, backend: Backend) -> Mapping[Hashable, tuple[Model, ServedBundle]]:
        """Return the pairs of a model and a bundle that a backend serves now.

        Each pair has a key. The key changes when the backend recovers, and when bundles are reloaded, because the cache
        may then lack the prefixes.
        """
        if not backend.healthy:
            return {}
        state = backend.url, backend.recoveries, self._gateway.state.loads
        return {
            (*state, model.id, model.kind, fingerprint(model.card), served.bundle.id): (model, served)
            for name, served in self._gateway.bundles_to_warm
            if (model := backend.models.get(name)) is not None
        }

    async def _warm(self, backend: Backend, key: Hashable, model: Model, served: ServedBundle) -> None:
        """Send the prefixes of one bundle to one backend. Write one line to the log at the end."""
        loop = asyncio.get_running_loop()
        started, progress, problem = loop.time(), _Progress(), ""
        try:
            async with asyncio.timeout(_WARMING_TIMEOUT):
                await self._send_all(backend, key, model, served, progress)
        except TimeoutError:
            problem = f"not done after {_WARMING_TIMEOUT:g} s"
        except ProxyError as error:
            progress.failed, problem = 1, str(error)
        except Exception as error:  # noqa: BLE001 - one failure must not end the task
            log_failure("defect", error, task="cache warming")
        finally:
            self._count("failed", progress.failed)
            self._count("skipped", progress.total - progress.sent - progress.failed)
        facts = {"url": backend.url, "model": model.id, "bundle": served.id, "prefixes": progress.sent}
        if problem:
            log_event("cache not warmed", **facts, reason=problem)
        elif progress.sent:
            log_event("cache warmed", **facts, seconds=round(loop.time() - started, 1))

    async def _send_all(
        self, backend: Backend, key: Hashable, model: Model, served: ServedBundle, progress: _Progress
    ) -> None:
        loop = asyncio.get_running_loop()
        await self._wait_until_quiet(backend)
        injections = await self._gateway.injector.prefixes(served, model)
        injections.sort(key=lambda injection: self._is_preferred(backend, model, injection))
        prefixes = [one for one in (prefix_request(served, model, each) for each in injections) if one]
        progress.total = len(prefixes)
        for prefix in prefixes[-_MAX_PREFIXES:]:
            await self._wait_until_quiet(backend)
            if key not in self._wanted(backend):
                return
            started = loop.time()
            await fetch_reply(self._gateway.pool.fetcher(backend, _PREFIX_TIMEOUT), prefix.path, prefix.body)
            progress.sent += 1
            self._count("sent", 1)
            await asyncio.sleep(min(loop.time() - started, _MAX_PAUSE))

    def _is_preferred(self, backend: Backend, model: Model, injection: Injection) -> bool:
        """Return whether this backend is the pool's first choice for requests with this example set.

        The sets for which this is true are sent last, because a small cache keeps what was sent last.
        """
        ranked = self._gateway.pool.backends_of_set(model.id, set_key(injection.bundle, injection.set_name))
        return next((one for one in ranked if one.healthy), backend) is backend

    async def _wait_until_quiet(self, backend: Backend) -> None:
        while self._user_requests(backend) > _MAX_USER_REQUESTS:  # noqa: ASYNC110  no event reports the requests of other workers
            await asyncio.sleep(_QUIET_INTERVAL)

    def _user_requests(self, backend: Backend) -> float:
        """Return how many requests of users a backend serves now.

        A worker tells the other workers only the number of its requests at all backends together. The number of their
        requests at this backend is therefore estimated.
        """
        in_flight = self._shared.in_flight
        elsewhere = sum(in_flight) - in_flight[self._shared.worker]
        return backend.in_flight.value + elsewhere / len(self._gateway.pool.backends)

    def _count(self, result: str, number: int) -> None:
        self._gateway.metrics.warmed_prefixes.labels(result).inc(number)
