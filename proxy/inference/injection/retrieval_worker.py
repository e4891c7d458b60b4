"""Runs on the retrieval thread: embeds a batch of queries, and finds the examples nearest to each query.

It does not depend on an event loop, on caches or on requests. It raises no exceptions: if embedding or search fails for
a query, the RetrievalResult of this query gives the reason.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Final

import numpy as np

from index.embedders.base import Embedder
from index.embedders.registry import texts_per_call
from index.retrieval.retriever import Retriever
from index.types import NOTHING_RETRIEVED, Retrieved, Vectors
from proxy.core.log import log_failure

_MAX_DELAY: Final = 0.05  # seconds that a result waits for other results


@dataclass(frozen=True, slots=True)
class RetrievalResult:
    """The result of retrieval for one query.

    Attributes:
        retrieved: The retrieved examples, as `Retriever.choose` returns them; empty if retrieval failed.
        degraded: Why retrieval failed: `timeout` or `embedder`. None if it did not fail.
    """

    retrieved: Retrieved = NOTHING_RETRIEVED
    degraded: str | None = None


@dataclass(frozen=True, slots=True)
class BundleSearch:
    """The retriever and the embedder that find examples in one bundle.

    Attributes:
        id: The bundle's id.
        retriever: Searches the bundle's vectors.
        embedder: Turns queries into vectors.
    """

    id: str
    retriever: Retriever
    embedder: Embedder


@dataclass(slots=True, eq=False)
class PendingQuery:
    """A query that waits for its result.

    Attributes:
        search: The bundle in which examples are searched, with its retriever and embedder.
        passages: The passages of the query.
        digest: A hash of the passages. The cache of results uses it in its keys.
        result: The future of the result. Only the event loop may use it, because a future is not thread-safe.
        deadline: The latest of the deadlines (`time.monotonic`) of the requests that wait for this query.
        vectors: The known vectors, by passage.
    """

    search: BundleSearch
    passages: tuple[str, ...]
    digest: bytes
    result: asyncio.Future[RetrievalResult]
    deadline: float
    vectors: dict[str, Vectors]

    @property
    def is_embedded(self) -> bool:
        """Whether the vectors of all passages are known."""
        return len(self.vectors) == len(set(self.passages))


FoundResult = tuple[PendingQuery, RetrievalResult]
"""A query and its result."""

Deliver = Callable[[Sequence[FoundResult]], object]
"""A function that hands results to the event loop. The retrieval thread calls it."""


def embed_and_search(batch: Sequence[PendingQuery], deliver: Deliver) -> None:
    """Embed the queries of a batch, and find the examples for each. Deliver the result of each query once.

    An embedder may be a slow server. Results that do not need it are delivered before it is called.
    """
    for calls in _embedder_calls(batch):
        _process_calls(calls, deliver)


def _process_calls(calls: Sequence[Sequence[PendingQuery]], deliver: Deliver) -> None:
    """Process the calls of one embedder, and deliver the results.

    The first result is delivered at once. Later results wait for each other for at most 50 ms, unless a deadline is
    near. A result also does not wait if the next call would end too late. This call is assumed to take as long as the
    last one. Delivering several results at once takes about half as much CPU time of the event loop: after each switch
    between threads, the processor's caches contain the weights of the embedder instead of the event loop's data.
    """
    found: list[FoundResult] = []
    due, now = -math.inf, monotonic()
    for call in calls:
        found += _process(call)
        began, now = now, monotonic()
        next_end = now + (now - began)
        if next_end >= min(due, *[pending.deadline - _MAX_DELAY for pending, _ in found]):
            deliver(found)
            found, due = [], now + _MAX_DELAY
    if found:
        deliver(found)


def _embedder_calls(batch: Sequence[PendingQuery]) -> Sequence[Sequence[Sequence[PendingQuery]]]:
    """Return the queries of a batch as lists of groups. The queries of a group are processed together.

    The first list has the queries whose vectors are known, each in a group of its own. Each further list is for one
    embedder. A group in it has at most `texts_per_call` different queries.
    """
    # All groups are made before the first is processed, because a failed query loses its vectors.
    by_embedder: dict[int, dict[tuple[str, ...], list[PendingQuery]]] = {}
    for pending in batch:
        if not pending.is_embedded:
            by_embedder.setdefault(id(pending.search.embedder), {}).setdefault(pending.passages, []).append(pending)
    known = [[pending] for pending in batch if pending.is_embedded]
    return [known, *[_groups(list(by_passages.values())) for by_passages in by_embedder.values()]]


def _groups(queries: Sequence[Sequence[PendingQuery]]) -> Sequence[Sequence[PendingQuery]]:
    size = texts_per_call(queries[0][0].search.embedder.spec.name)
    starts = range(0, len(queries), size)
    return [[pending for same in queries[start : start + size] for pending in same] for start in starts]


def _process(queries: Sequence[PendingQuery]) -> Sequence[FoundResult]:
    """Return the results of queries that are embedded in one call.

    A query whose deadline has already passed is not embedded, and its result is `timeout`. Embedding it would delay the
    queries that can still meet their deadlines.
    """
    now = monotonic()
    late = [pending for pending in queries if pending.deadline <= now]
    on_time = [pending for pending in queries if pending.deadline > now]
    expired = [(pending, RetrievalResult(degraded="timeout")) for pending in late]
    try:
        _embed([pending for pending in on_time if not pending.is_embedded])
        return expired + [(pending, RetrievalResult(_choose(pending))) for pending in on_time]
    except Exception as error:  # noqa: BLE001 - the root of the thread's work: whatever the embedder raises, requests go on without examples
        return expired + _process_one_by_one(on_time, error)


def _process_one_by_one(queries: Sequence[PendingQuery], error: Exception) -> list[FoundResult]:
    """Retry each query of a failed group alone. If the embedder rejects one text, the other queries then succeed.

    A query that was alone in its group is not retried. Its result is `embedder`.
    """
    if len(queries) == 1:
        log_failure("retrieval failed", error, bundle=queries[0].search.id[:12])
        queries[0].vectors.clear()
        return [(queries[0], RetrievalResult(degraded="embedder"))]
    return [found for pending in queries for found in _process([pending])]


def _embed(queries: Sequence[PendingQuery]) -> None:
    """Find the unknown vectors of queries with the same embedder. Equal texts are embedded once."""
    passages = [passage for pending in queries for passage in pending.passages if passage not in pending.vectors]
    if not passages:
        return
    texts = list(dict.fromkeys(passages))
    vectors = dict(zip(texts, queries[0].search.embedder.embed(texts), strict=True))
    for pending in queries:
        # Each row is copied, because a row that is only a view keeps the whole array in memory.
        pending.vectors.update({text: vectors[text].copy() for text in pending.passages if text in vectors})


def _choose(pending: PendingQuery) -> Retrieved:
    return pending.search.retriever.choose_by_passages(np.stack([pending.vectors[text] for text in pending.passages]))
