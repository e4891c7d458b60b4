"""Examples for a query, in time or not at all: cache, single flight, deadline. Knows no HTTP and no model.

Retrieval fails open: a slow or broken embedder costs a request its examples, never its answer.
"""

import asyncio
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Final

import numpy as np

from index.embed import Embedder
from index.errors import EmbedderError
from index.retrieve import Retriever
from index.types import Hit
from proxy.log import log_failure
from proxy.metrics import Metrics

_CACHED_QUERIES: Final = 4096


@dataclass(frozen=True, slots=True)
class Found:
    """The hits, most similar first; `degraded` says in a word why there are none when retrieval failed."""

    hits: tuple[Hit, ...]
    degraded: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Where examples come from: one bundle's retriever (`id`: the bundle's) and the embedder that made its vectors."""

    id: str
    retriever: Retriever
    embedder: Embedder


class Retrieval:
    """Finds examples off the event loop; a query seen before is answered at once."""

    def __init__(self, timeout: float, metrics: Metrics) -> None:
        self._timeout = timeout
        self._metrics = metrics
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="retrieval")
        self._cache: OrderedDict[tuple[str, str], tuple[Hit, ...]] = OrderedDict()
        self._flights: dict[tuple[str, str], asyncio.Task[Found]] = {}

    async def find(self, source: Source, query: str) -> Found:
        """The examples for `query`, or none, with the reason, when they cannot be had before the deadline."""
        started, key = perf_counter(), (source.id, query)
        hits = self._cache.get(key)
        if hits is not None:
            self._cache.move_to_end(key)
            found = Found(hits)
        else:
            found = await self._search(source, key)
        self._metrics.retrieval.labels("miss" if hits is None else "hit").observe(perf_counter() - started)
        if found.degraded:
            self._metrics.degraded.labels(found.degraded).inc()
        return found

    def close(self) -> None:
        """Stop the thread; what waits is dropped."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _search(self, source: Source, key: tuple[str, str]) -> Found:
        flight = self._flights.get(key)
        if flight is None:
            flight = asyncio.create_task(self._fly(source, key), name="retrieval")
            self._flights[key] = flight
            flight.add_done_callback(lambda _: self._flights.pop(key, None))
        try:
            async with asyncio.timeout(self._timeout):
                return await asyncio.shield(flight)
        except TimeoutError:
            return Found((), degraded="timeout")

    async def _fly(self, source: Source, key: tuple[str, str]) -> Found:
        """One search, whose result is kept even if nobody waits for it any more, unless it could not begin in time:
        then it is dropped, so that a crowd does not leave a queue behind."""
        search = self._executor.submit(_nearest, source, key[1])
        asyncio.get_running_loop().call_later(self._timeout, search.cancel)  # does nothing to one that has begun
        try:
            hits = await asyncio.wrap_future(search)
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            return Found((), degraded="timeout")
        except Exception as error:  # noqa: BLE001 - the root of the task: any embedder's failure must fail open
            log_failure("retrieval failed", error, bundle=source.id[:12])
            return Found((), degraded="embedder")
        self._cache[key] = hits
        if len(self._cache) > _CACHED_QUERIES:
            self._cache.popitem(last=False)
        return Found(hits)


def _nearest(source: Source, query: str) -> tuple[Hit, ...]:
    vector = source.embedder.embed([query])[0]
    if not np.isfinite(vector).all():
        raise EmbedderError("The embedder returned a vector that is not finite.")
    return source.retriever.nearest(vector)
