"""Tests of the selection of examples by tokens: only whole examples, hits are removed first, and the prompt's order."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from index.retrieval.selection import Selection, fit_to_room, select_within_policy
from index.types import Example, Hit, RetrievalPolicy, Retrieved

COSTS = st.lists(st.integers(1, 300), min_size=1, max_size=8)


def bank(costs: list[int]) -> tuple[list[Example], dict[str, int]]:
    examples = [Example(str(number), "q", "a") for number in range(len(costs))]
    return examples, {example.id: cost for example, cost in zip(examples, costs, strict=True)}


def nearest(hits: Sequence[Hit]) -> Retrieved:
    return Retrieved(nearest=tuple(hits))


def hits_of(examples: list[Example]) -> list[Hit]:
    return [Hit(example, 0.5, position) for position, example in enumerate(examples)]


@given(COSTS, st.integers(0, 3), st.integers(0, 2000))
def test_fitted_selection_is_a_prefix_of_the_hits_and_fits(costs: list[int], pins: int, room: int) -> None:
    examples, table = bank(costs)
    pinned, hits = examples[:pins], hits_of(examples)[pins:]
    everything = select_within_policy(
        RetrievalPolicy(k=99, max_injected_tokens=2**31), 50, table, pinned, nearest(hits)
    )
    assert everything == Selection(tuple(pinned), (), tuple(hits), 50 + sum(costs))
    selection = fit_to_room(everything, table, room)
    assert selection.nearest == tuple(hits[: len(selection.nearest)])
    assert selection.pinned == tuple(pinned[: len(selection.pinned)])
    assert selection.tokens <= max(room, 50)
    if selection.nearest:
        assert selection.pinned == tuple(pinned), "a pinned example was removed before a retrieved one"
    if len(selection.nearest) < len(hits) and selection.nearest:
        following = table[hits[len(selection.nearest)].example.id]
        assert selection.tokens + following > room, "an example was removed that would have fitted"


@given(COSTS, st.integers(0, 1500))
def test_policy_limit_is_kept_and_the_most_similar_are_preferred(costs: list[int], limit: int) -> None:
    examples, table = bank(costs)
    policy = RetrievalPolicy(k=99, max_injected_tokens=limit)
    kept = select_within_policy(policy, 10, table, (), nearest(hits_of(examples))).nearest
    total = 10 + sum(table[hit.example.id] for hit in kept)
    assert total <= limit or not kept
    for example in examples:
        if all(hit.example.id != example.id for hit in kept):
            earlier = sum(table[hit.example.id] for hit in kept if int(hit.example.id) < int(example.id))
            assert 10 + earlier + table[example.id] > limit


def test_pinned_examples_stay_when_they_exceed_the_policy_limit() -> None:
    examples, table = bank([300, 20])
    policy = RetrievalPolicy(max_injected_tokens=100)
    selection = select_within_policy(policy, 10, table, examples[:1], nearest(hits_of(examples)[1:]))
    assert selection == Selection((examples[0],), tokens=310)


def test_prompt_shows_pinned_examples_first_and_the_most_similar_last() -> None:
    examples, _ = bank([1, 1, 1])
    selection = Selection((examples[0],), nearest=tuple(hits_of(examples)[1:]), tokens=3)
    assert [example.id for example in selection.in_order("similar_last")] == ["0", "2", "1"]
    assert [example.id for example in selection.in_order("canonical")] == ["0", "1", "2"]
