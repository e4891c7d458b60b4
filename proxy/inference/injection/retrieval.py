"""Examples for a query, in time or not at all: caches, single flight, micro-batches, deadline. Knows no HTTP, no model.

A query whose vector is known is answered on the event loop where the search is quick; embedding, and the search of a
large bank, leave it for one thread (proxy/inference/injection/retrieval_worker.py). What arrives while the thread
works goes there together, the most
urgent first. Retrieval fails open: a slow or broken embedder costs a request its examples, never its answer.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from time import monotonic, perf_counter
from typing import Final

from index.types import EmbedderSpec, Hit, Vectors
from proxy.core.lru_cache import LruCache
from proxy.core.metrics import Metrics
from proxy.inference.injection.retrieval_worker import Found, Lookup, Source, work_off

_CACHED_QUERIES: Final = 4096
# What one hop to the thread carries: large enough to spare hops, small enough that what comes next is not far behind.
_BATCH: Final = 32


class Retrieval:
    """Finds examples off the event loop; a query seen before is answered at once."""

    def __init__(self, timeout: float, metrics: Metrics) -> None:
        """`timeout`: seconds after which a request goes on without retrieved examples."""
        self._timeout = timeout
        self._metrics = metrics
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="retrieval")
        self._hits: LruCache[tuple[str, bytes], tuple[Hit, ...]] = LruCache(_CACHED_QUERIES)
        self._vectors: LruCache[tuple[EmbedderSpec, bytes], Vectors] = LruCache(_CACHED_QUERIES)
        self._flights: dict[tuple[str, bytes], Lookup] = {}
        self._waiting: list[Lookup] = []
        self._batches: asyncio.Task[None] | None = None

    async def find(self, source: Source, query: str) -> Found:
        """The examples for `query`, or none, with the reason, when they cannot be had before the deadline."""
        started = perf_counter()
        digest = blake2b(query.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        hits = self._at_once(source, digest)
        found = await self._in_time(source, query, digest) if hits is None else Found(hits)
        self._metrics.retrieval.labels("miss" if hits is None else "hit").observe(perf_counter() - started)
        if found.degraded:
            self._metrics.degraded.labels(found.degraded).inc()
        return found

    def close(self) -> None:
        """Stop the thread; what waits is dropped."""
        if self._batches is not None:
            self._batches.cancel()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _at_once(self, source: Source, digest: bytes) -> tuple[Hit, ...] | None:
        """What needs neither an embedding nor a long search. A reloaded or second bundle finds the vectors of the
        first one's queries here."""
        hits = self._hits.get((source.id, digest))
        if hits is None and source.retriever.is_quick:
            vector = self._vectors.get((source.embedder.spec, digest))
            if vector is not None:
                hits = source.retriever.choose(vector)
                self._hits.put((source.id, digest), hits)
        return hits

    async def _in_time(self, source: Source, query: str, digest: bytes) -> Found:
        deadline = monotonic() + self._timeout
        flight = self._flights.get((source.id, digest))
        if flight is None:
            flight = self._take_off(source, query, digest, deadline)
        flight.deadline = deadline  # the last who waits is in time if the lookup is
        try:
            async with asyncio.timeout(self._timeout):
                return await asyncio.shield(flight.found)
        except TimeoutError:
            return Found((), degraded="timeout")

    def _take_off(self, source: Source, query: str, digest: bytes, deadline: float) -> Lookup:
        flight = Lookup(source, query, digest, asyncio.get_running_loop().create_future(), deadline)
        self._flights[source.id, digest] = flight
        self._waiting.append(flight)
        if self._batches is None or self._batches.done():
            self._batches = asyncio.create_task(self._work_off(), name="retrieval")
        return flight

    async def _work_off(self) -> None:
        """Batch after batch, until nobody waits. Results arrive one by one, while the batch is still at work."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = self._next_batch()
            await loop.run_in_executor(
                self._executor, work_off, batch, lambda *result: loop.call_soon_threadsafe(self._land, *result)
            )

    def _next_batch(self) -> list[Lookup]:
        """The most urgent of what waits. A vector that is known by now, if only for another bundle, goes along."""
        self._waiting.sort(key=lambda lookup: lookup.deadline)
        batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
        for lookup in batch:
            lookup.vector = self._vectors.get((lookup.source.embedder.spec, lookup.digest))
        return batch

    def _land(self, lookup: Lookup, found: Found) -> None:
        """Keep a result, even if nobody waits for it any more, and hand it to those who do."""
        key = (lookup.source.id, lookup.digest)
        self._flights.pop(key, None)
        if lookup.vector is not None:
            self._vectors.put((lookup.source.embedder.spec, lookup.digest), lookup.vector)
        if found.degraded is None:
            self._hits.put(key, found.hits)
        if not lookup.found.done():
            lookup.found.set_result(found)
