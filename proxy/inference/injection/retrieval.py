"""Finds examples for a query before a deadline: caches, joint lookups, batches. It does not depend on HTTP or models.

The event loop answers a query whose vector is cached, if the bank is small enough to search at once. Embedding and the
search of a large bank run on one thread (proxy/inference/injection/retrieval_worker.py). Queries that arrive while the
thread is busy form the next batch, most urgent first. Requests with the same query share one lookup. Retrieval fails
open: with a slow or broken embedder a request loses its examples, not its answer.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from time import monotonic, perf_counter
from typing import Final

from index.types import EmbedderSpec, Hit, Vectors
from proxy.core.lru_cache import LruCache
from proxy.core.metrics import Metrics
from proxy.inference.injection.retrieval_worker import BundleSearch, PendingQuery, RetrievalResult, embed_and_search

_MAX_CACHED_QUERIES: Final = 4096
# Large enough to save hops to the thread, small enough that the next batch does not wait long.
_MAX_BATCH: Final = 32


class Retrieval:
    """Finds the examples for queries."""

    def __init__(self, timeout: float, metrics: Metrics) -> None:
        """Start without any cached query.

        Args:
            timeout: Seconds after which a request goes on without retrieved examples.
            metrics: Counts lookups.
        """
        self._timeout = timeout
        self._metrics = metrics
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="retrieval")
        self._hits: LruCache[tuple[str, bytes], tuple[Hit, ...]] = LruCache(_MAX_CACHED_QUERIES)
        self._vectors: LruCache[tuple[EmbedderSpec, bytes], Vectors] = LruCache(_MAX_CACHED_QUERIES)
        self._pending: dict[tuple[str, bytes], PendingQuery] = {}
        self._waiting: list[PendingQuery] = []
        self._batches: asyncio.Task[None] | None = None

    async def find(self, search: BundleSearch, query: str) -> RetrievalResult:
        """The examples for a query; none, with the reason, if they are not found before the deadline."""
        started = perf_counter()
        digest = blake2b(query.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        hits = self._find_cached(search, digest)
        result = await self._find_on_thread(search, query, digest) if hits is None else RetrievalResult(hits)
        self._metrics.retrieval.labels("miss" if hits is None else "hit").observe(perf_counter() - started)
        if result.degraded:
            self._metrics.degraded.labels(result.degraded).inc()
        return result

    def close(self) -> None:
        """Stop the thread. Queries that wait are dropped."""
        if self._batches is not None:
            self._batches.cancel()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _find_cached(self, search: BundleSearch, digest: bytes) -> tuple[Hit, ...] | None:
        """Hits that need neither an embedding nor a long search. Bundles with the same embedder share vectors."""
        hits = self._hits.get((search.id, digest))
        if hits is None and search.retriever.is_quick:
            vector = self._vectors.get((search.embedder.spec, digest))
            if vector is not None:
                hits = search.retriever.choose(vector)
                self._hits.put((search.id, digest), hits)
        return hits

    async def _find_on_thread(self, search: BundleSearch, query: str, digest: bytes) -> RetrievalResult:
        deadline = monotonic() + self._timeout
        pending = self._pending.get((search.id, digest))
        if pending is None:
            pending = self._enqueue(search, query, digest, deadline)
        pending.deadline = deadline  # of the last request that waits
        try:
            async with asyncio.timeout(self._timeout):
                return await asyncio.shield(pending.result)
        except TimeoutError:
            return RetrievalResult((), degraded="timeout")

    def _enqueue(self, search: BundleSearch, query: str, digest: bytes, deadline: float) -> PendingQuery:
        pending = PendingQuery(search, query, digest, asyncio.get_running_loop().create_future(), deadline)
        self._pending[search.id, digest] = pending
        self._waiting.append(pending)
        if self._batches is None or self._batches.done():
            self._batches = asyncio.create_task(self._process_batches(), name="retrieval")
        return pending

    async def _process_batches(self) -> None:
        """Process batches until no query waits. Each result is delivered at once, before the batch is finished."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = self._next_batch()
            await loop.run_in_executor(
                self._executor,
                embed_and_search,
                batch,
                lambda *result: loop.call_soon_threadsafe(self._complete, *result),
            )

    def _next_batch(self) -> list[PendingQuery]:
        """The most urgent queries, with the vectors that have become known meanwhile."""
        self._waiting.sort(key=lambda pending: pending.deadline)
        batch, self._waiting = self._waiting[:_MAX_BATCH], self._waiting[_MAX_BATCH:]
        for pending in batch:
            pending.vector = self._vectors.get((pending.search.embedder.spec, pending.digest))
        return batch

    def _complete(self, pending: PendingQuery, result: RetrievalResult) -> None:
        """Cache a result, even if no request waits for it any more, and give it to the requests that wait."""
        key = (pending.search.id, pending.digest)
        self._pending.pop(key, None)
        if pending.vector is not None:
            self._vectors.put((pending.search.embedder.spec, pending.digest), pending.vector)
        if result.degraded is None:
            self._hits.put(key, result.hits)
        if not pending.result.done():
            pending.result.set_result(result)
