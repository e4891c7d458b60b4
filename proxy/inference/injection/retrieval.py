"""Finds examples for a conversation before a deadline, with caches and batches. It does not depend on HTTP or models.

If the examples for a query are cached, they are returned at once. If only the vectors of the query's passages are
cached, and the bank has at most 5,000 examples, the event loop itself searches the bank. In all other cases, one thread
searches, after it has embedded the passages that are not cached (proxy/inference/injection/retrieval_worker.py). Many
long queries of an application end or begin with the same text, which is embedded once. While the thread is busy, new
queries wait in a queue. The queries with the earliest deadlines form the next batch. Requests with the same query to
the same bundle share one search. Retrieval fails open: if the embedder is slow or broken, a request is answered without
retrieved examples.

Each user turn of a conversation is a query of its own. One turn decides (index/retrieval/turns.py), and its examples
are cached for the conversation. A known conversation therefore needs no embedding, and a new turn needs only one.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from time import monotonic, perf_counter
from typing import Final

import numpy as np

from index.retrieval.passages import query_passages, read_parts
from index.retrieval.turns import deciding_turn, turns_to_read
from index.types import EmbedderSpec, Retrieved, Vectors
from proxy.core.lru_cache import LruCache
from proxy.core.metrics import Metrics
from proxy.inference.injection.retrieval_worker import (
    BundleSearch,
    FoundResult,
    PendingQuery,
    RetrievalResult,
    embed_and_search,
)

_MAX_CACHED_QUERIES: Final = 4096
_MAX_CACHED_CONVERSATIONS: Final = 4096
_MAX_CACHED_VECTORS: Final = 4096  # 2 KiB each with the default embedder
# The maximum number of queries in one batch. Larger batches need fewer switches between threads. With smaller batches,
# later queries wait for a shorter time.
_MAX_BATCH: Final = 32


class Retrieval:
    """Finds the examples for queries. All bundles share its caches and its retrieval thread."""

    def __init__(self, timeout: float, metrics: Metrics) -> None:
        """Begin with empty caches.

        Args:
            timeout: Seconds that a request waits for retrieved examples. After this time it is served without them.
            metrics: The metrics in which the duration of each search is recorded.
        """
        self._timeout = timeout
        self._metrics = metrics
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="retrieval")
        self._retrieved: LruCache[tuple[str, bytes], Retrieved] = LruCache(_MAX_CACHED_QUERIES)
        self._decided: LruCache[tuple[str, int], Retrieved] = LruCache(_MAX_CACHED_CONVERSATIONS)
        self._vectors: LruCache[tuple[EmbedderSpec, bytes], Vectors] = LruCache(_MAX_CACHED_VECTORS)
        self._pending: dict[tuple[str, bytes], PendingQuery] = {}
        self._waiting: list[PendingQuery] = []
        self._batches: asyncio.Task[None] | None = None

    async def find(self, search: BundleSearch, query: str) -> RetrievalResult:
        """Return the examples for a query. If retrieval fails or is late, return no examples and the reason."""
        return await self.find_by_turns(search, (query,))

    async def find_by_turns(self, search: BundleSearch, turns: Sequence[str]) -> RetrievalResult:
        """Return the examples for the turn of a conversation that decides (index/retrieval/turns.py).

        A later turn does not decide if retrieval fails or is late for it. If the first turn decides, and retrieval
        failed for it, return no examples and the reason.

        Args:
            search: The bundle in which examples are searched.
            turns: The texts of the user turns; at least one.
        """
        started = perf_counter()
        read = turns_to_read(search.retriever, turns)
        # The key is a hash, so that the cache holds no text of a user. `hash` is several times as fast as a digest.
        key = (search.id, hash(tuple(read_parts(read))))
        cached = self._decided.get(key)
        result = await self._decide(search, read, key) if cached is None else RetrievalResult(cached)
        self._metrics.retrieval.labels("miss" if cached is None else "hit").observe(perf_counter() - started)
        return result

    def close(self) -> None:
        """Stop the thread after its current batch. Queries that still wait get no result."""
        if self._batches is not None:
            self._batches.cancel()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _find_cached(self, search: BundleSearch, passages: tuple[str, ...], digest: bytes) -> Retrieved | None:
        """Return the examples for a query; None if the retrieval thread must find them.

        The examples come from the cache. If they are not cached and the bank has at most 5,000 examples, they come from
        a search with cached vectors. A cached vector serves all bundles that have the same embedder.
        """
        found = self._retrieved.get((search.id, digest))
        if found is None and search.retriever.is_quick:
            vectors = self._cached_vectors(search, passages)
            if all(passage in vectors for passage in passages):
                found = _choose(search, [vectors[passage] for passage in passages])
                if found is not None:
                    self._retrieved.put((search.id, digest), found)
        return found

    def _cached_vectors(self, search: BundleSearch, passages: tuple[str, ...]) -> dict[str, Vectors]:
        keys = {passage: (search.embedder.spec, _digest((passage,))) for passage in passages}
        found = {passage: self._vectors.get(key) for passage, key in keys.items()}
        return {passage: vector for passage, vector in found.items() if vector is not None}

    async def _decide(self, search: BundleSearch, turns: Sequence[str], key: tuple[str, int]) -> RetrievalResult:
        """Find the examples for each turn. Return the examples of the deciding turn, and cache them under `key`."""
        results = await self._find_each(search, [query_passages(turn) for turn in turns])
        result = results[deciding_turn([one.retrieved for one in results])]
        unread = sum(one.degraded is not None for one in results)
        self._metrics.unread_turns.inc(unread)
        if not unread:
            self._decided.put(key, result.retrieved)
        return result

    async def _find_each(self, search: BundleSearch, turns: Sequence[tuple[str, ...]]) -> list[RetrievalResult]:
        """Return the result for each turn. All results that are not cached are found at the same time."""
        digests = [_digest(passages) for passages in turns]
        queries = dict(zip(digests, turns, strict=True))
        cached = {digest: self._find_cached(search, passages, digest) for digest, passages in queries.items()}
        missing = [digest for digest, one in cached.items() if one is None]
        found = await asyncio.gather(*[self._find_on_thread(search, queries[digest], digest) for digest in missing])
        results = {digest: RetrievalResult(one) for digest, one in cached.items() if one is not None}
        results |= dict(zip(missing, found, strict=True))
        return [results[digest] for digest in digests]

    async def _find_on_thread(self, search: BundleSearch, passages: tuple[str, ...], digest: bytes) -> RetrievalResult:
        deadline = monotonic() + self._timeout
        pending = self._pending.get((search.id, digest))
        if pending is None:
            pending = self._enqueue(search, passages, digest, deadline)
        pending.deadline = deadline  # The query is useful until the last request that waits for it gives up.
        try:
            async with asyncio.timeout(self._timeout):
                return await asyncio.shield(pending.result)
        except TimeoutError:
            return RetrievalResult(degraded="timeout")

    def _enqueue(self, search: BundleSearch, passages: tuple[str, ...], digest: bytes, deadline: float) -> PendingQuery:
        pending = PendingQuery(search, passages, digest, asyncio.get_running_loop().create_future(), deadline, {})
        self._pending[search.id, digest] = pending
        self._waiting.append(pending)
        if self._batches is None or self._batches.done():
            self._batches = asyncio.create_task(self._process_batches(), name="retrieval")
        return pending

    async def _process_batches(self) -> None:
        """Process batches until no query waits."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = self._next_batch()
            await loop.run_in_executor(
                self._executor,
                embed_and_search,
                batch,
                lambda found: loop.call_soon_threadsafe(self._complete, found),
            )

    def _next_batch(self) -> list[PendingQuery]:
        """Take the queries with the earliest deadlines off the queue, and return them.

        Each query gets the vectors of those of its passages that are cached.
        """
        self._waiting.sort(key=lambda pending: pending.deadline)
        batch, self._waiting = self._waiting[:_MAX_BATCH], self._waiting[_MAX_BATCH:]
        for pending in batch:
            pending.vectors = self._cached_vectors(pending.search, pending.passages)
        return batch

    def _complete(self, found: Sequence[FoundResult]) -> None:
        """Cache the vectors and the examples of queries, and give the results to the requests that wait for them.

        Vectors and examples are cached even if all these requests have given up. A failed result has no examples.
        """
        for pending, result in found:
            key = (pending.search.id, pending.digest)
            self._pending.pop(key, None)
            for passage, vector in pending.vectors.items():
                self._vectors.put((pending.search.embedder.spec, _digest((passage,))), vector)
            if result.degraded is None:
                self._retrieved.put(key, result.retrieved)
            if not pending.result.done():
                pending.result.set_result(result)


def _choose(search: BundleSearch, vectors: Sequence[Vectors]) -> Retrieved | None:
    """Return the examples for a query; None if the vectors of the query do not fit this bundle.

    Another bundle may have cached such vectors. If the result is None, the retrieval thread searches, and reports the
    failure.
    """
    try:
        return search.retriever.choose_by_passages(np.stack(vectors))
    except ValueError:
        return None


def _digest(passages: tuple[str, ...]) -> bytes:
    """Return a hash of a query's passages and of their number. So two passages differ from one with two lines."""
    text = "\n".join((str(len(passages)), *passages))
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
