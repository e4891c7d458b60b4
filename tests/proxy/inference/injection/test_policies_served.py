"""Tests of the retrieval policies in a running proxy: the sent examples, the metric, and a context with little room."""

from typing import Any

import numpy as np
import pytest

from index.types import EmbedderSpec, ExampleSet
from proxy.inference.injection.served_bundles import ServedBundle
from tests.faults.scripted import say_yes, scripted_backend
from tests.proxy.serving import WordEmbedder, served_bundle, serving

SETS = (ExampleSet("air", ("sky",), ("sky", "tea")), ExampleSet("numbers", ("sum",), ("sum",)))
FLOOR: dict[str, Any] = {"similarity_floor": 0.2, "neutral_set": "numbers"}
LIKE, UNLIKE = "Why is the sky so blue?", "photosynthesis"


class BrokenEmbedder:
    """Returns a vector with no direction, as for a text of unknown words, or one that is not finite."""

    def __init__(self, value: float) -> None:
        self.spec: EmbedderSpec = WordEmbedder().spec
        self._value = value

    def embed(self, texts: Any) -> Any:
        return np.full((len(texts), 64), self._value, dtype=np.float32)


def with_sets(embedder: Any = None, **policy: Any) -> ServedBundle:
    policy = {"policy": "set_and_nearest", "k": 1, "minimum_similarity": -1.0, **policy}
    return served_bundle(embedder=embedder, sets=SETS, **policy)


async def examples(served: ServedBundle, query: str, context: int = 4096) -> tuple[list[str], str, str]:
    """Return the examples of a request, the reason for fewer examples, and the value of the metric."""
    async with (
        scripted_backend(say_yes, context=context) as backend,
        serving(backend.url, bundles={"scripted": served}, retrieval_timeout=10.0) as proxy,
    ):
        status, headers, _ = await proxy.chat(query)
        assert status == 200
        async with proxy.session.get(f"{proxy.url}/metrics") as reply:
            page = await reply.text()
    (count,) = [line.split()[-1] for line in page.splitlines() if line.startswith("drpo_retrieval_below_floor_total ")]
    return headers["x-drpo-examples"].split(","), headers.get("x-drpo-reduced", ""), count


@pytest.mark.parametrize(
    ("policy", "query", "expected"),
    [
        ({"policy": "set"}, LIKE, ["refuse", "sky"]),
        ({"policy": "nearest", "k": 2}, "How do I make blue tea?", ["refuse", "sky", "tea"]),
        ({"k": 2}, LIKE, ["refuse", "sky", "sum"]),
        ({"k": 2}, "How do I make two cups of tea?", ["refuse", "sky", "sum", "tea"]),
        ({**FLOOR}, LIKE, ["refuse", "sky"]),
    ],
)
async def test_pinned_set_and_nearest_are_sent_in_this_order(
    policy: dict[str, Any], query: str, expected: list[str]
) -> None:
    shown, reduced, below = await examples(with_sets(**policy), query)
    assert sorted(shown) == sorted(expected)
    assert shown[0] == "refuse"
    assert shown[-1] == expected[-1]
    assert (reduced, below) == ("", "0.0")


@pytest.mark.parametrize("policy", ["nearest", "set", "set_and_nearest"])
@pytest.mark.parametrize("embedder", [None, BrokenEmbedder(0.0), BrokenEmbedder(np.nan), BrokenEmbedder(np.inf)])
async def test_unlike_query_gets_pinned_and_neutral_examples_and_is_counted(policy: str, embedder: Any) -> None:
    found = await examples(with_sets(embedder, policy=policy, **FLOOR), UNLIKE)
    assert found == (["refuse", "sum"], "", "1.0")


@pytest.mark.parametrize("value", [np.nan, np.inf])
async def test_vector_that_is_not_finite_is_a_failed_retrieval_without_a_floor(value: float) -> None:
    assert await examples(with_sets(BrokenEmbedder(value)), LIKE) == (["refuse"], "embedder", "0.0")


@pytest.mark.parametrize("policy", ["set", "set_and_nearest"])
async def test_examples_are_removed_in_order_as_the_conversation_grows(policy: str) -> None:
    """The nearest example is removed before the set, and the set before the pinned refusal."""
    served = with_sets(policy=policy)
    seen = []
    for words in (1, 100, 200, 300, 400, 500, 600, 700):
        shown, reduced, _ = await examples(served, "How do I make tea? " + "word " * words, context=900)
        if [shown, reduced] not in seen:
            seen.append([shown, reduced])
    nearest = [["refuse", "sky", "tea"]] if policy == "set_and_nearest" else []
    orders = [shown for shown, _ in seen]
    assert [one for one in [*nearest, ["refuse", "sky"], ["refuse"]] if one in orders] == orders
    assert all(bool(reduced) == (shown != orders[0]) for shown, reduced in seen)
