"""Tests of retrieval: caches, shared lookups, batches, deadlines and failures of an embedder."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.errors import EmbedderError
from index.retrieval.passages import query_passages
from index.retrieval.retriever import Retriever
from index.types import EmbedderSpec, Vectors
from proxy.core.lru_cache import LruCache
from proxy.core.metrics import create_metrics
from proxy.inference.injection import retrieval_worker
from proxy.inference.injection.retrieval import Retrieval
from proxy.inference.injection.retrieval_worker import (
    BundleSearch,
    FoundResult,
    PendingQuery,
    RetrievalResult,
    embed_and_search,
)
from tests.proxy.serving import WordEmbedder, served_bundle, until

WORDS = WordEmbedder().spec
MANY_AT_ONCE = replace(WORDS, name="openai:test")


@dataclass(slots=True)
class Embedder:
    """A slow embedder that records its calls and their threads, and fails for the text `poison`.

    From the second call on, each call waits for `release`, if this is not None.
    """

    seconds: float = 0.0
    spec: EmbedderSpec = WORDS
    calls: list[list[str]] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)
    release: threading.Event | None = None

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.calls.append(list(texts))
        self.threads.add(threading.get_ident())
        time.sleep(self.seconds)
        if self.release is not None and len(self.calls) > 1:
            self.release.wait(20)
        if "poison" in texts:
            raise EmbedderError("refused")
        vectors = WordEmbedder().embed(texts)
        vectors[[n for n, text in enumerate(texts) if text == "infinite"]] = np.inf
        return vectors


def bundle_search(embedder: Embedder, name: str = "bundle") -> BundleSearch:
    return BundleSearch(name, Retriever(served_bundle().bundle), embedder)


@pytest.fixture
async def retrieval() -> AsyncIterator[Retrieval]:
    found = Retrieval(60.0, create_metrics())
    yield found
    found.close()


async def test_cached_query_is_answered_without_the_thread(retrieval: Retrieval) -> None:
    embedder = Embedder()
    first = await retrieval.find(bundle_search(embedder), "hello")
    retrieval._executor.shutdown()
    assert await retrieval.find(bundle_search(embedder), "hello") == first
    assert first.retrieved.hits
    assert threading.get_ident() not in embedder.threads


@pytest.mark.parametrize("text", ["{subject}\n\n{question}", "{question}\n\n{subject}", "{subject} {question}"])
async def test_question_at_an_end_of_a_long_text_decides_what_is_retrieved(retrieval: Retrieval, text: str) -> None:
    search, question = bundle_search(WordEmbedder()), served_bundle().bundle.examples[-1].query
    subject = "Nineteen members came. Coffee was good. " * 500
    asked = text.format(subject=subject.strip(), question=question)
    assert (await retrieval.find(search, asked)).retrieved == (await retrieval.find(search, question)).retrieved


async def test_long_text_and_its_first_and_last_line_alone_are_different_queries(retrieval: Retrieval) -> None:
    embedder, ends = Embedder(), ["Is it safe to eat raw eggs?", "Please answer in one sentence."]
    for text in (f"{ends[0]}\n{'word ' * 200}\n{ends[1]}", "\n".join(ends)):
        await retrieval.find(bundle_search(embedder), text)
    assert embedder.calls == [ends, ["\n".join(ends)]]


@pytest.mark.parametrize("form", ["{own}\n{filler}\n{shared}", "{shared}\n{filler}\n{own}", "{own}\n{filler}\n{own}"])
async def test_passage_of_an_earlier_query_is_not_embedded_again(retrieval: Retrieval, form: str) -> None:
    embedder, shared = Embedder(), "Please answer in one sentence."
    texts = [
        form.format(own=own, filler="word " * 200, shared=shared) for own in ("Is tea safe?", "How long is a mile?")
    ]
    found = [await retrieval.find(bundle_search(embedder), text) for text in texts]
    passages = [text for call in embedder.calls for text in call]
    assert len(passages) == len(set(passages))
    for text, result in zip(texts, found, strict=True):
        vectors = WordEmbedder().embed(query_passages(text))
        assert result.retrieved == Retriever(served_bundle().bundle).choose_by_passages(vectors)


async def test_reloaded_bundle_reuses_query_vectors(retrieval: Retrieval) -> None:
    embedder = Embedder()
    before = await retrieval.find(bundle_search(embedder), "hello")
    retrieval._executor.shutdown()  # The vector is cached and the bank is small, so the thread is not needed.
    assert (await retrieval.find(bundle_search(embedder, "reloaded"), "hello")).retrieved.hits == before.retrieved.hits
    assert embedder.calls == [["hello"]]


async def test_query_vectors_are_not_shared_between_embedders(retrieval: Retrieval) -> None:
    one, other = Embedder(), Embedder(spec=replace(WORDS, revision="2"))
    await retrieval.find(bundle_search(one, "one"), "hello")
    await retrieval.find(bundle_search(other, "other"), "hello")
    assert (one.calls, other.calls) == ([["hello"]], [["hello"]])


async def test_equal_concurrent_queries_are_embedded_once_for_all_bundles(retrieval: Retrieval) -> None:
    embedder = Embedder(0.02)
    searches = [bundle_search(embedder, name) for name in ("one", "two", "one", "two", "one")]
    found = await asyncio.gather(*(retrieval.find(each, "hello") for each in searches))
    assert len({each.retrieved.hits for each in found}) == 1
    assert embedder.calls == [["hello"]]


async def test_queries_that_wait_for_the_embedder_form_one_batch(retrieval: Retrieval) -> None:
    embedder = Embedder(0.02, MANY_AT_ONCE)
    first = asyncio.create_task(retrieval.find(bundle_search(embedder), "first"))
    await asyncio.sleep(0.005)
    await asyncio.gather(*(retrieval.find(bundle_search(embedder), f"query {n}") for n in range(40)))
    assert (await first).retrieved.hits
    assert [len(call) for call in embedder.calls] == [1, 32, 8]


async def test_embedder_without_batching_delivers_each_result_at_once(
    retrieval: Retrieval,
) -> None:
    first_is_found = threading.Event()
    embedder, order = Embedder(release=first_is_found), []

    async def ask(name: str) -> None:
        await retrieval.find(bundle_search(embedder), name)
        order.append((name, first_is_found.is_set() or len(embedder.calls)))
        first_is_found.set()

    await asyncio.gather(*(ask(f"query {n}") for n in range(6)))
    assert [len(call) for call in embedder.calls] == [1] * 6
    assert [name for name, _ in order] == [f"query {n}" for n in range(6)]
    assert order[0][1] <= 2, "the first query got its result before the second one was embedded"


@pytest.mark.parametrize(("seconds_left", "deliveries"), [(60.0, [1, 5]), (0.04, [1] * 6)])
async def test_results_are_delivered_together_unless_a_deadline_is_near(
    seconds_left: float, deliveries: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval_worker, "monotonic", lambda: 1000.0)  # whatever the searches take here
    search, deadline = bundle_search(Embedder()), 1000.0 + seconds_left
    batch = [
        PendingQuery(search, (f"query {n}",), b"", asyncio.get_running_loop().create_future(), deadline, {})
        for n in range(6)
    ]
    delivered: list[Sequence[FoundResult]] = []
    embed_and_search(batch, delivered.append)
    assert [len(found) for found in delivered] == deliveries
    assert [pending for found in delivered for pending, _ in found] == batch


def pending_query(search: BundleSearch, text: str, vectors: dict[str, Vectors] | None = None) -> PendingQuery:
    result = asyncio.get_running_loop().create_future()
    return PendingQuery(search, (text,), text.encode(), result, time.monotonic() + 60, vectors or {})


async def test_results_do_not_wait_for_a_slow_embedder_of_another_bundle() -> None:
    slow, vector = Embedder(0.2), WordEmbedder().embed(["known"])[0]
    known = [pending_query(bundle_search(Embedder()), f"known {n}", {f"known {n}": vector}) for n in range(3)]
    quick, other = bundle_search(Embedder(), "quick"), bundle_search(slow, "slow")
    batch = [*known, *[pending_query(one, f"query {n}") for one in (quick, other) for n in range(3)]]
    slow_calls: list[int] = []  # at the arrival of each result
    embed_and_search(batch, lambda found: slow_calls.extend([len(slow.calls)] * len(found)))
    assert slow_calls == [0] * 6 + [1, 2, 3]


async def test_query_with_a_known_but_unusable_vector_is_delivered_once_and_not_embedded_again() -> None:
    embedder = Embedder()
    infinite = np.full(WORDS.dimension, np.inf, np.float32)
    delivered: list[FoundResult] = []
    embed_and_search([pending_query(bundle_search(embedder), "infinite", {"infinite": infinite})], delivered.extend)
    assert [result.degraded for _, result in delivered] == ["embedder"]
    assert not embedder.calls


async def test_vector_that_only_one_bundle_can_use_fails_no_request_of_another(retrieval: Retrieval) -> None:
    bundle = served_bundle().bundle
    policy = replace(bundle.manifest.retrieval, similarity_floor=0.1)
    with_floor = Retriever(replace(bundle, manifest=replace(bundle.manifest, retrieval=policy)))
    found = await retrieval.find(BundleSearch("floor", with_floor, Embedder()), "infinite")
    assert (found.degraded, found.retrieved.is_below_floor) == (None, True)
    assert await retrieval.find(bundle_search(Embedder()), "infinite") == RetrievalResult(degraded="embedder")


async def test_rejected_text_does_not_fail_the_rest_of_its_batch(retrieval: Retrieval) -> None:
    embedder = Embedder(0.01, MANY_AT_ONCE)
    texts = ["first", "good", "poison", "infinite", "better"]
    found = await asyncio.gather(*(retrieval.find(bundle_search(embedder), text) for text in texts))
    assert [each.degraded for each in found] == [None, None, "embedder", "embedder", None]
    assert (await retrieval.find(bundle_search(embedder), "infinite")).degraded == "embedder"


async def test_expired_queries_leave_no_backlog() -> None:
    embedder = Embedder(0.1)
    retrieval, slow = Retrieval(1.0, create_metrics()), bundle_search(embedder)
    try:
        crowd = await asyncio.gather(*(retrieval.find(slow, f"query {number}") for number in range(60)))
        assert {found.degraded for found in crowd} == {None, "timeout"}
        async with asyncio.timeout(60):
            while (await retrieval.find(slow, "one that comes later")).degraded is not None:
                pass
        assert len(embedder.calls) < 60, "the expired queries are not embedded"
        await until(lambda: not retrieval._pending)
        assert not retrieval._waiting
    finally:
        retrieval.close()


async def test_late_result_is_cached_for_later_requests() -> None:
    late = threading.Event()
    embedder = Embedder(release=late, calls=[["an earlier call"]])
    retrieval, slow = Retrieval(0.05, create_metrics()), bundle_search(embedder)
    try:
        assert (await retrieval.find(slow, "hello")).degraded == "timeout"
        late.set()
        async with asyncio.timeout(60):
            while not (await retrieval.find(slow, "hello")).retrieved.hits:
                await asyncio.sleep(0.01)
        assert embedder.calls[1:] == [["hello"]]
    finally:
        late.set()
        retrieval.close()


async def test_cancelled_request_does_not_cancel_a_shared_lookup(retrieval: Retrieval) -> None:
    slow = bundle_search(Embedder(0.05))
    leaving = asyncio.create_task(retrieval.find(slow, "hello"))
    staying = asyncio.create_task(retrieval.find(slow, "hello"))
    await asyncio.sleep(0.01)
    leaving.cancel()
    assert (await staying).retrieved.hits


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(["one", "two"]), st.booleans()), max_size=30))
def test_each_query_gets_its_own_examples_in_any_order(asked: list[tuple[str, str, bool]]) -> None:
    """The third value of each tuple says whether the next query waits until this query has its result."""

    async def ask_all() -> None:
        retrieval, embedder = Retrieval(60.0, create_metrics()), Embedder(spec=MANY_AT_ONCE)
        tasks: list[tuple[str, asyncio.Task[RetrievalResult]]] = []
        try:
            for text, bundle, waits in asked:
                tasks.append((text, asyncio.create_task(retrieval.find(bundle_search(embedder, bundle), text))))
                if waits:
                    await tasks[-1][1]
            for text, task in tasks:
                expected = Retriever(served_bundle().bundle).choose(WordEmbedder().embed([text])[0])
                assert await task == RetrievalResult(expected)
            assert sorted(text for call in embedder.calls for text in call) == sorted({text for text, _, _ in asked})
        finally:
            retrieval.close()

    asyncio.run(ask_all())


def test_least_recently_used_value_is_evicted() -> None:
    recent: LruCache[str, int] = LruCache(2)
    recent.put("a", 1)
    recent.put("b", 2)
    assert recent.get("a") == 1
    recent.put("c", 3)
    assert [recent.get(key) for key in "abc"] == [1, None, 3]
