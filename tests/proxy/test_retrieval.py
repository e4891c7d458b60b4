"""Guards that retrieval which is late or crowded costs examples, and leaves nothing behind that costs the next ones."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from index.retrieve import Retriever
from index.types import EmbedderSpec, Vectors
from proxy.metrics import create_metrics
from proxy.retrieval import Retrieval, Source
from tests.proxy.serving import WordEmbedder, served_bundle


@dataclass(frozen=True, slots=True)
class SlowEmbedder:
    """The words' vectors, after a while."""

    seconds: float
    spec: EmbedderSpec = WordEmbedder().spec

    def embed(self, texts: Sequence[str]) -> Vectors:
        time.sleep(self.seconds)
        return WordEmbedder().embed(texts)


def source(seconds: float) -> Source:
    bundle = served_bundle().bundle
    return Source(bundle.id, Retriever(bundle), SlowEmbedder(seconds))


async def test_crowd_that_is_gone_leaves_no_queue_for_those_who_come_later() -> None:
    retrieval, slow = Retrieval(0.2, create_metrics()), source(0.05)
    try:
        crowd = await asyncio.gather(*(retrieval.find(slow, f"query {number}") for number in range(60)))
        assert {found.degraded for found in crowd} == {None, "timeout"}
        assert (await retrieval.find(slow, "one that comes later")).degraded is None
        assert not retrieval._flights
    finally:
        retrieval.close()


async def test_search_that_was_late_is_kept_for_the_next_who_asks() -> None:
    retrieval, slow = Retrieval(0.05, create_metrics()), source(0.1)
    try:
        assert (await retrieval.find(slow, "hello")).degraded == "timeout"
        await asyncio.sleep(0.2)
        assert (await retrieval.find(slow, "hello")).hits
    finally:
        retrieval.close()
