"""The thread's part of retrieval: a batch of queries -> vectors -> hits, each told as soon as it is known.

Knows embedders and retrievers; knows no event loop, no cache and no request. Nothing that goes wrong leaves it but as
a result.
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
from index.types import Hit, Vectors
from proxy.core.log import log_failure


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


@dataclass(slots=True, eq=False)
class Lookup:
    """One query of one source on its way. deadline: of the last who waits, in `time.monotonic` seconds; vector: once
    it is known. `found` belongs to the event loop: the thread does not touch it."""

    source: Source
    query: str
    digest: bytes
    found: asyncio.Future[Found]
    deadline: float
    vector: Vectors | None = None


Tell = Callable[[Lookup, Found], object]


def work_off(batch: Sequence[Lookup], tell: Tell) -> None:
    """Embeds and searches, the most urgent first, and tells the result of every lookup once. Whoever could not begin
    in time is dropped, so that a crowd does not leave a queue behind."""
    for call in _calls(batch):
        begun = monotonic()
        for lookup in call:
            if lookup.deadline <= begun:
                tell(lookup, Found((), degraded="timeout"))
        _answer([lookup for lookup in call if lookup.deadline > begun], tell)


def _calls(batch: Sequence[Lookup]) -> Iterator[Sequence[Lookup]]:
    """What goes to an embedder in one call; lookups whose vector is known go first."""
    yield from ([lookup] for lookup in batch if lookup.vector is not None)
    by_embedder: dict[int, dict[str, list[Lookup]]] = {}
    for lookup in batch:
        if lookup.vector is None:
            by_embedder.setdefault(id(lookup.source.embedder), {}).setdefault(lookup.query, []).append(lookup)
    for by_text in by_embedder.values():
        askers = list(by_text.values())
        size = texts_per_call(askers[0][0].source.embedder.spec.name)
        for start in range(0, len(askers), size):
            yield [lookup for same_text in askers[start : start + size] for lookup in same_text]


def _answer(lookups: Sequence[Lookup], tell: Tell) -> None:
    try:
        _embed([lookup for lookup in lookups if lookup.vector is None])
        results = [(lookup, Found(_nearest(lookup))) for lookup in lookups]
    except Exception as error:  # noqa: BLE001 - the root of the thread's work: any embedder's failure must fail open
        _answer_apart(lookups, error, tell)
    else:
        for lookup, found in results:
            tell(lookup, found)


def _answer_apart(lookups: Sequence[Lookup], error: Exception, tell: Tell) -> None:
    """After a failure: one text that an embedder refuses costs the others of its batch nothing but time."""
    if len(lookups) == 1:
        log_failure("retrieval failed", error, bundle=lookups[0].source.id[:12])
        lookups[0].vector = None
        tell(lookups[0], Found((), degraded="embedder"))
        return
    for lookup in lookups:
        work_off([lookup], tell)


def _embed(lookups: Sequence[Lookup]) -> None:
    """Gives each its vector. Two bundles may ask for the same text: it is embedded once."""
    if not lookups:
        return
    texts = list(dict.fromkeys(lookup.query for lookup in lookups))
    vectors = dict(zip(texts, lookups[0].source.embedder.embed(texts), strict=True))
    for lookup in lookups:
        lookup.vector = vectors[lookup.query]


def _nearest(lookup: Lookup) -> tuple[Hit, ...]:
    if lookup.vector is None or not np.isfinite(lookup.vector).all():
        raise EmbedderError("The embedder returned a vector that is not finite.")
    return lookup.source.retriever.choose(lookup.vector)
