"""Tests of retrieval for conversations: what is embedded, what is cached, and what happens if a turn cannot be read."""

import threading
from collections.abc import AsyncIterator

import pytest

from index.retrieval.retriever import Retriever
from index.types import ExampleSet
from proxy.core.metrics import Metrics, create_metrics
from proxy.inference.injection.retrieval import Retrieval
from proxy.inference.injection.retrieval_worker import BundleSearch
from tests.proxy.inference.injection.test_retrieval import MANY_AT_ONCE, Embedder
from tests.proxy.serving import EXAMPLES, served_bundle

APART = ExampleSet("apart", ("tea",), ("tea",), kind="hot", minimum_similarity=0.6)
SETS = (ExampleSet("air", ("sky",), ("sky",)), ExampleSet("numbers", ("sum",), ("sum",)), APART)
SKY, SUM, TEA = (example.query for example in EXAMPLES[1:])
FOLLOW_UP = "photosynthesis"  # shares no word with any example


def search_in(embedder: Embedder, sets: tuple[ExampleSet, ...] = SETS, policy: str = "set_and_nearest") -> BundleSearch:
    served = served_bundle(sets=sets, policy=policy, k=1, similarity_floor=0.2, neutral_set="numbers")
    return BundleSearch("bundle", Retriever(served.bundle), embedder)


@pytest.fixture
def metrics() -> Metrics:
    return create_metrics()


@pytest.fixture
async def retrieval(metrics: Metrics) -> AsyncIterator[Retrieval]:
    found = Retrieval(60.0, metrics)
    yield found
    found.close()


async def shown(retrieval: Retrieval, embedder: Embedder, *turns: str) -> tuple[str, list[str], str | None]:
    """Return the set, the nearest examples and the failure of a conversation."""
    result = await retrieval.find_by_turns(search_in(embedder), turns)
    return result.retrieved.set_name, [hit.example.id for hit in result.retrieved.nearest], result.degraded


def unread(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("drpo_retrieval_unread_turns_total")


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ((SKY,), "air"),
        ((SKY, SUM), "air"),
        ((SKY, FOLLOW_UP), "air"),
        ((FOLLOW_UP, SKY), "numbers"),
        ((SKY, TEA), "apart"),
        ((SKY, SUM, TEA), "apart"),
        ((SKY, TEA, FOLLOW_UP), "apart"),
        ((SKY, TEA, SUM, SKY), "apart"),
        ((SKY, TEA, SUM, FOLLOW_UP, SKY), "air"),
        ((SKY, TEA, SUM, TEA, SUM, FOLLOW_UP), "apart"),
        ((TEA, SKY), "apart"),
        ((SKY, SKY, TEA, TEA), "apart"),
    ],
)
async def test_turn_of_a_separate_tag_decides_for_itself_and_two_more(
    retrieval: Retrieval, turns: tuple[str, ...], expected: str
) -> None:
    found = await shown(retrieval, Embedder(), *turns)
    assert found[0] == expected
    assert await shown(retrieval, Embedder(), *turns) == found
    other_process = Retrieval(60.0, create_metrics())
    assert await shown(other_process, Embedder(), *turns) == found
    other_process.close()


async def test_nearest_example_is_that_of_the_deciding_turn(retrieval: Retrieval) -> None:
    assert (await shown(retrieval, Embedder(), SKY, "tea leaves", FOLLOW_UP))[1] == ["sky"]
    assert (await shown(retrieval, Embedder(), SKY, TEA, SUM))[1] == ["tea"]


async def test_each_turn_is_embedded_once_in_a_conversation_that_grows(retrieval: Retrieval) -> None:
    embedder, turns = Embedder(), (SKY, FOLLOW_UP, TEA, "thanks", SUM)
    for count in range(1, len(turns) + 1):
        await shown(retrieval, embedder, *turns[:count])
    assert embedder.calls == [[turn] for turn in turns]


async def test_known_conversation_needs_no_thread(retrieval: Retrieval) -> None:
    embedder = Embedder()
    found = await shown(retrieval, embedder, SKY, SUM, TEA)
    retrieval._executor.shutdown()
    assert await shown(retrieval, embedder, SKY, SUM, TEA) == found
    assert (await shown(retrieval, embedder, SKY, TEA))[0] == "apart"  # a new order of known turns


async def test_unknown_conversation_is_embedded_in_one_batch(retrieval: Retrieval) -> None:
    embedder = Embedder(spec=MANY_AT_ONCE)
    await shown(retrieval, embedder, SKY, SUM, SKY, TEA)
    assert embedder.calls == [[SKY, SUM, TEA]]


async def test_only_the_first_and_the_last_three_turns_are_embedded(retrieval: Retrieval) -> None:
    embedder, turns = Embedder(), [f"turn {number}" for number in range(300)]
    await shown(retrieval, embedder, *turns)
    assert [text for call in embedder.calls for text in call] == [turns[0], *turns[-3:]]


async def test_client_that_cuts_the_history_gets_what_its_turns_choose(retrieval: Retrieval) -> None:
    turns = (SKY, TEA, SUM, FOLLOW_UP)
    assert [(await shown(retrieval, Embedder(), *turns[cut:]))[0] for cut in range(3)] == ["apart", "apart", "numbers"]


@pytest.mark.parametrize(
    ("sets", "policy"), [(SETS[:2], "set"), (SETS[:2], "set_and_nearest"), (SETS[1:2], "nearest"), ((), "nearest")]
)
async def test_later_turns_are_not_embedded_without_a_separate_tag(
    retrieval: Retrieval, sets: tuple[ExampleSet, ...], policy: str
) -> None:
    embedder = Embedder()
    search = search_in(embedder, sets, policy)
    found = await retrieval.find_by_turns(search, (SKY, TEA, SUM))
    assert embedder.calls == [[SKY]]
    assert found == await retrieval.find(search, SKY)


async def test_turns_and_passages_that_join_to_the_same_text_are_different(retrieval: Retrieval) -> None:
    """The cache must not take one conversation for another."""
    conversations = [(f"{SKY}\n{TEA}",), (SKY, TEA), (SKY, f"{SUM}\n{TEA}"), (SKY, SUM, TEA), (f"{SKY}\n{SUM}", TEA)]
    found = [await shown(retrieval, Embedder(), *turns) for turns in conversations]
    alone = [await shown(Retrieval(60.0, create_metrics()), Embedder(), *turns) for turns in conversations]
    assert found == alone
    assert found[0] != found[1]


@pytest.mark.parametrize(
    ("turns", "expected", "left_out"),
    [
        ((SKY, "poison"), ("air", ["sky"], None), 1),
        ((SKY, "poison", TEA), ("apart", ["tea"], None), 1),
        (("poison", TEA), ("apart", ["tea"], None), 1),
        (("poison", SUM), ("", [], "embedder"), 1),
        ((SKY, TEA, "poison", "infinite"), ("apart", ["tea"], None), 1),
    ],
)
async def test_turn_that_cannot_be_embedded_does_not_decide(
    retrieval: Retrieval,
    metrics: Metrics,
    turns: tuple[str, ...],
    expected: tuple[str, list[str], str | None],
    left_out: int,
) -> None:
    assert await shown(retrieval, Embedder(), *turns) == expected
    assert unread(metrics) == left_out


async def test_turn_that_is_late_does_not_decide_until_it_is_known(metrics: Metrics) -> None:
    late = threading.Event()
    retrieval, slow = Retrieval(60.0, metrics), Embedder(release=late)
    try:
        assert (await shown(retrieval, slow, SKY))[0] == "air"
        retrieval._timeout = 0.05
        assert await shown(retrieval, slow, SKY, TEA) == ("air", ["sky"], None)
        assert unread(metrics) == 1
        retrieval._timeout = 60.0
        late.set()
        assert (await shown(retrieval, slow, SKY, TEA, SKY))[0] == "apart"
        assert (await shown(retrieval, slow, SKY, TEA))[0] == "apart"
        assert slow.calls == [[SKY], [TEA]]
    finally:
        late.set()
        retrieval.close()
