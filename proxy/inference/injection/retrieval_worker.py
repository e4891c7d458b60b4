"""Runs on the retrieval thread: embeds a batch of queries, and finds the examples nearest to each query.

It does not depend on an event loop, on caches or on requests. It raises no exceptions: if embedding or search fails for
a query, the RetrievalResult of this query gives the reason.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import monotonic

import numpy as np

from index.embedders.base import Embedder
from index.embedders.registry import texts_per_call
from index.errors import EmbedderError
from index.retrieval.retriever import Retriever
from index.types import NOTHING_RETRIEVED, Retrieved, Vectors
from proxy.core.log import log_failure


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
        digest: A hash of the passages. Caches use it in their keys.
        result: The future of the result. Only the event loop may use it, because a future is not thread-safe.
        deadline: The latest of the deadlines (`time.monotonic`) of the requests that wait for this query.
        vectors: The vectors of the passages, shape (passages, dimension); None until they are known.
    """

    search: BundleSearch
    passages: tuple[str, ...]
    digest: bytes
    result: asyncio.Future[RetrievalResult]
    deadline: float
    vectors: Vectors | None = None


Deliver = Callable[[PendingQuery, RetrievalResult], object]
"""A function that hands the result of a query to the event loop. The retrieval thread calls it."""


def embed_and_search(batch: Sequence[PendingQuery], deliver: Deliver) -> None:
    """Embed the queries of a batch, and find the examples for each. Deliver each result once, as soon as it is known.

    A query whose deadline has already passed is not embedded, and its result is `timeout`. Embedding it would delay the
    queries that can still meet their deadlines.
    """
    for call in _embedder_calls(batch):
        now = monotonic()
        for pending in call:
            if pending.deadline <= now:
                deliver(pending, RetrievalResult(degraded="timeout"))
        _process([pending for pending in call if pending.deadline > now], deliver)


def _embedder_calls(batch: Sequence[PendingQuery]) -> Iterator[Sequence[PendingQuery]]:
    """Yield the queries of a batch in groups that are processed together.

    The queries whose vectors are known come first, each in a group of its own. The other queries are grouped by
    embedder. The number of different queries in these groups is limited to `texts_per_call`.
    """
    yield from ([pending] for pending in batch if pending.vectors is not None)
    by_embedder: dict[int, dict[tuple[str, ...], list[PendingQuery]]] = {}
    for pending in batch:
        if pending.vectors is None:
            by_embedder.setdefault(id(pending.search.embedder), {}).setdefault(pending.passages, []).append(pending)
    for by_passages in by_embedder.values():
        groups = list(by_passages.values())
        size = texts_per_call(groups[0][0].search.embedder.spec.name)
        for start in range(0, len(groups), size):
            yield [pending for same in groups[start : start + size] for pending in same]


def _process(queries: Sequence[PendingQuery], deliver: Deliver) -> None:
    try:
        _embed([pending for pending in queries if pending.vectors is None])
        results = [(pending, RetrievalResult(_choose(pending))) for pending in queries]
    except Exception as error:  # noqa: BLE001 - the root of the thread's work: whatever the embedder raises, requests go on without examples
        _process_one_by_one(queries, error, deliver)
    else:
        for pending, result in results:
            deliver(pending, result)


def _process_one_by_one(queries: Sequence[PendingQuery], error: Exception, deliver: Deliver) -> None:
    """Retry each query of a failed group alone. If the embedder rejects one text, the other queries then succeed.

    A query that was alone in its group is not retried. Its result is `embedder`.
    """
    if len(queries) == 1:
        log_failure("retrieval failed", error, bundle=queries[0].search.id[:12])
        queries[0].vectors = None
        deliver(queries[0], RetrievalResult(degraded="embedder"))
        return
    for pending in queries:
        embed_and_search([pending], deliver)


def _embed(queries: Sequence[PendingQuery]) -> None:
    """Set the vectors of each query. All queries must have the same embedder. Equal texts are embedded once."""
    if not queries:
        return
    texts = list(dict.fromkeys(passage for pending in queries for passage in pending.passages))
    vectors = dict(zip(texts, queries[0].search.embedder.embed(texts), strict=True))
    for pending in queries:
        pending.vectors = np.stack([vectors[passage] for passage in pending.passages])


def _choose(pending: PendingQuery) -> Retrieved:
    if pending.vectors is None:
        raise EmbedderError("The embedder returned no vector.")
    return pending.search.retriever.choose_by_passages(pending.vectors)
