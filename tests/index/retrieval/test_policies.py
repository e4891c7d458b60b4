"""Tests of the retrieval policies: the parts of a prompt, the similarity floor, and what little room leaves.

The vectors of the bank are on the axes and between them, so that every similarity is known.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.retrieval.retriever import Retriever
from index.retrieval.selection import Selection, fit_to_room, select_within_policy
from index.types import Bundle, Example, ExampleSet, Hit, RetrievalPolicy, Retrieved, Vectors
from tests.index.retrieval.test_retriever import AXES, bank, unit

# Examples 0 to 2 are about x, 3 to 5 about y; 6 is a refusal about z.
VECTORS = [AXES[0], unit(9, 1, 0, 0), unit(8, 2, 0, 0), AXES[1], unit(1, 9, 0, 0), unit(2, 8, 0, 0), AXES[2]]
SETS = (
    ExampleSet("x", ("2", "0"), ("0", "1", "2")),
    ExampleSet("y", ("3",), ("3", "4", "5")),
    ExampleSet("refusals", ("6",), ("6",), kind="refusal"),
)
SET, BOTH = RetrievalPolicy("set"), RetrievalPolicy("set_and_nearest", k=2)
UNUSABLE = [
    np.zeros(4),
    np.full(4, 1e-9),
    np.array([np.nan, 0, 0, 1]),
    np.array([np.inf, 0, 0, 0]),
    np.full(4, -np.inf),
]


def with_sets(policy: RetrievalPolicy) -> Bundle:
    made = bank(VECTORS, replace(policy, minimum_similarity=-1.0, duplicate_similarity=1.0))
    return replace(made, sets=SETS)


def retrieve(policy: RetrievalPolicy, query: Vectors) -> Retrieved:
    return Retriever(with_sets(policy)).choose(query.astype(np.float32))


def select(
    policy: RetrievalPolicy, query: Vectors, costs: Mapping[str, int] | None = None, pinned: tuple[Example, ...] = ()
) -> Selection:
    table = {str(n): 10 for n in range(len(VECTORS))} | dict(costs or {})
    return select_within_policy(policy, 0, table, pinned, retrieve(policy, query))


def in_set(found: Selection | Retrieved) -> list[str]:
    return [hit.example.id for hit in found.in_set]


def nearest(found: Selection | Retrieved) -> list[str]:
    return [hit.example.id for hit in found.nearest]


X, Y = unit(20, 1, 0, 0), unit(1, 20, 0, 0)  # like the examples 0, 1, 2 and 3, 4, 5, in this order


@pytest.mark.parametrize(
    ("policy", "query", "expected"),
    [
        (RetrievalPolicy(k=2), X, ["1", "0"]),
        (RetrievalPolicy(k=2, order="canonical"), X, ["0", "1"]),
        (RetrievalPolicy("set", k=2), X, ["2", "0"]),
        (RetrievalPolicy("set_and_nearest", k=1), Y, ["3"]),
        (RetrievalPolicy("set_and_nearest", k=2), Y, ["3", "4"]),
        (RetrievalPolicy("set_and_nearest", k=3), Y, ["3", "5", "4"]),
        (RetrievalPolicy("set_and_nearest", k=3, order="canonical"), Y, ["3", "4", "5"]),
        (RetrievalPolicy("set_and_nearest", k=0), Y, ["3"]),
    ],
)
def test_prompt_has_the_set_first_and_the_most_similar_last(
    policy: RetrievalPolicy, query: Vectors, expected: list[str]
) -> None:
    assert [one.id for one in select(policy, query).in_order(policy.order)] == expected


def test_nearest_example_that_the_set_shows_is_neither_repeated_nor_replaced() -> None:
    """The set x shows 0 and 2; the two nearest are 0 and 1, so only 1 is added."""
    assert (in_set(select(BOTH, X)), nearest(select(BOTH, X))) == (["2", "0"], ["1"])
    assert nearest(select(replace(BOTH, k=1), X)) == []


def test_near_duplicate_of_an_example_that_the_set_shows_counts_as_shown() -> None:
    vectors = [AXES[0], unit(20, 1, 0, 0), AXES[1]]
    policy = RetrievalPolicy("set_and_nearest", k=2, minimum_similarity=-1.0, duplicate_similarity=0.99)
    bundle = replace(bank(vectors, policy), sets=(ExampleSet("x", ("0",), ("0", "1")),))
    retrieved = Retriever(bundle).choose(unit(30, 2, 0, 0))
    costs = dict.fromkeys("012", 10)
    assert nearest(select_within_policy(policy, 0, costs, (), retrieved)) == ["2"]


@pytest.mark.parametrize("policy", [SET, BOTH, replace(BOTH, k=6, max_nearest_tokens=30)])
@pytest.mark.parametrize("query", [X, Y, AXES[0], AXES[1], AXES[2], unit(1, 1, 1, 0), AXES[3], -AXES[0]])
def test_requests_with_one_set_begin_alike(policy: RetrievalPolicy, query: Vectors) -> None:
    """The text before the nearest examples depends only on the set, also if the tokens reach their limit."""
    found = select(replace(policy, max_injected_tokens=40), query)
    name = retrieve(policy, query).set_name
    assert in_set(found) == list(next(one.shown for one in SETS if one.name == name))


# The limit of tokens


@pytest.mark.parametrize(
    ("costs", "limit", "expected"),
    [
        ({}, 20, ["4", "5"]),
        ({"4": 21}, 20, ["5", "2"]),
        ({"4": 21, "5": 30}, 20, ["2", "1"]),
        ({"4": 15}, 20, ["4"]),
        ({}, 9, []),
        ({"4": 11, "5": 9, "2": 2}, 20, ["4", "5"]),
    ],
)
def test_nearest_example_that_is_too_long_is_replaced_by_the_next(
    costs: dict[str, int], limit: int, expected: list[str]
) -> None:
    """Example 3 is the nearest, and the set y shows it. It counts as one of the three nearest examples."""
    policy = RetrievalPolicy("set_and_nearest", k=3, max_nearest_tokens=limit)
    found = select(policy, Y, costs)
    assert nearest(found)[: len(expected)] == expected
    assert sum(({"3": 10} | dict.fromkeys("012456", 10) | costs)[one] for one in nearest(found)) <= limit
    assert len(nearest(found)) <= 2


def test_nearest_examples_get_the_tokens_that_the_set_leaves() -> None:
    policy = RetrievalPolicy("set_and_nearest", k=3, max_injected_tokens=25)
    assert (in_set(select(policy, Y)), nearest(select(policy, Y))) == (["3"], ["4"])
    assert (in_set(select(policy, X)), nearest(select(policy, X))) == (["2", "0"], [])


hits = st.integers(0, 5).map(lambda count: [Hit(Example(f"e{n}", "q", "a"), 0.5, n) for n in range(count)])


@given(hits, st.integers(0, 3), st.integers(0, 2), st.integers(0, 100))
def test_little_room_removes_the_least_similar_then_the_set_then_pinned(
    found: list[Hit], shown: int, pins: int, room: int
) -> None:
    pinned = tuple(Example(f"p{n}", "q", "a") for n in range(pins))
    costs = {**{one.id: 10 for one in pinned}, **{hit.example.id: 10 for hit in found}}
    whole = Selection(pinned, tuple(found[:shown]), tuple(found[shown:]), 5 + 10 * (pins + len(found)))
    fitted = fit_to_room(whole, costs, room)
    kept = [*fitted.pinned, *[hit.example for hit in (*fitted.in_set, *fitted.nearest)]]
    everything = [*pinned, *[hit.example for hit in found]]
    assert kept == everything[: min(len(everything), max(0, (room - 5) // 10))]
    assert fitted.tokens == 5 + 10 * len(kept)


# The floor

FLOOR: dict[str, Any] = {"similarity_floor": 0.5, "neutral_set": "y"}


@pytest.mark.parametrize("policy", [SET, BOTH, RetrievalPolicy(k=3)])
@pytest.mark.parametrize("query", [AXES[3], -AXES[3], unit(1, 0, 0, 9), unit(0, 0, 1, 3), -unit(1, 1, 1, 0), *UNUSABLE])
def test_query_unlike_every_example_gets_the_neutral_set_alone(policy: RetrievalPolicy, query: Vectors) -> None:
    found = retrieve(replace(policy, **FLOOR), query)
    assert (found.set_name, in_set(found), nearest(found), found.is_below_floor) == ("y", ["3"], [], True)
    assert all(np.isfinite(hit.similarity) for hit in found.in_set)


@pytest.mark.parametrize("policy", [SET, BOTH, RetrievalPolicy(k=3)])
@pytest.mark.parametrize("query", [X, Y, AXES[2], unit(1, 0, 0, 1), unit(0, 0, 3, 1)])
def test_floor_changes_nothing_for_a_query_that_is_not_below_it(policy: RetrievalPolicy, query: Vectors) -> None:
    assert retrieve(replace(policy, **FLOOR), query) == retrieve(policy, query)


def test_query_exactly_at_the_floor_is_not_below_it() -> None:
    similarity = retrieve(SET, unit(1, 0, 0, 1)).similarity
    assert similarity is not None
    for floor, below in ((similarity, False), (np.nextafter(similarity, 1), True)):
        assert retrieve(replace(SET, similarity_floor=floor, neutral_set="y"), unit(1, 0, 0, 1)).is_below_floor == below


def test_floor_is_compared_with_the_most_similar_example_even_if_it_is_below_the_minimum() -> None:
    policy = RetrievalPolicy(k=3, minimum_similarity=0.9, similarity_floor=0.5)
    found = Retriever(bank(VECTORS, policy)).choose(unit(0, 0, 1, 1))
    assert (found.similarity, nearest(found), found.is_below_floor) == (pytest.approx(0.7071, abs=1e-4), [], False)


@pytest.mark.parametrize("query", [AXES[3], *UNUSABLE])
def test_query_below_the_floor_gets_only_pinned_examples_without_a_neutral_set(query: Vectors) -> None:
    policy = RetrievalPolicy(k=3, similarity_floor=0.5)
    assert retrieve(policy, query).hits == ()
    pinned = Example("p", "q", "a", pinned=True)
    assert select(policy, query, {"p": 10}, (pinned,)).in_order("similar_last") == (pinned,)


@pytest.mark.parametrize("policy", [SET, BOTH, RetrievalPolicy(k=3)])
def test_zero_vector_retrieves_nothing_without_a_floor(policy: RetrievalPolicy) -> None:
    found = retrieve(policy, np.zeros(4))
    assert (found.hits, found.is_below_floor) == ((), True)


@pytest.mark.parametrize("policy", [SET, BOTH, RetrievalPolicy(k=3), replace(BOTH, similarity_floor=0.5)])
def test_passage_that_is_nearest_to_an_example_decides(policy: RetrievalPolicy) -> None:
    retriever = Retriever(with_sets(policy))
    passages = np.stack([AXES[3], AXES[1], unit(1, 0, 0, 1)]).astype(np.float32)
    for order in ([0, 1, 2], [1, 0, 2], [2, 1, 0], [1]):
        assert retriever.choose_by_passages(passages[order]) == retrieve(policy, AXES[1])


@pytest.mark.parametrize("query", UNUSABLE[2:])
def test_vector_that_is_not_finite_is_an_error_without_a_floor(query: Vectors) -> None:
    with pytest.raises(ValueError, match="finite"):
        retrieve(SET, query)


def test_vector_of_another_dimension_is_an_error_with_a_floor() -> None:
    with pytest.raises(ValueError, match="shape"):
        retrieve(replace(SET, **FLOOR), np.zeros(3))


def test_bank_of_pinned_examples_alone_is_unlike_every_query() -> None:
    policy = RetrievalPolicy(similarity_floor=-1.0)
    found = Retriever(bank([AXES[0]], policy, [0])).choose(AXES[0])
    assert (found.similarity, found.is_below_floor) == (None, True)


def test_neutral_set_is_used_when_no_neighbour_votes() -> None:
    policy = replace(SET, neutral_set="y")
    bundle = replace(bank(VECTORS, replace(policy, minimum_similarity=0.9)), sets=SETS)
    found = Retriever(bundle).choose(AXES[3])
    assert (found.set_name, found.is_below_floor) == ("y", False)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (SET, ["x", "y", "refusals"]),
        (replace(BOTH, **FLOOR), ["x", "y", "refusals"]),
        (RetrievalPolicy(), []),
        (replace(RetrievalPolicy(), **FLOOR), ["y"]),
    ],
)
def test_shown_by_set_has_the_examples_of_each_set_that_can_be_chosen(
    policy: RetrievalPolicy, expected: list[str]
) -> None:
    bundle = with_sets(policy)
    by_name = {one.name: list(one.shown) for one in SETS}
    found = Retriever(bundle).shown_by_set()
    assert [(one.set_name, in_set(one), nearest(one)) for one in found] == [
        (name, by_name[name], []) for name in expected
    ]
