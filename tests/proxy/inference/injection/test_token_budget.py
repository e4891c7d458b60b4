"""Guards that examples leave whole and in order, pinned ones last, and that a conversation does not flap."""

from hypothesis import given
from hypothesis import strategies as st

from index.retrieval.retriever import within_policy
from index.types import Example, Hit
from proxy.inference.injection.token_budget import HYSTERESIS, room_for_injection, select, token_bound


def bank(costs: list[int]) -> tuple[list[Example], dict[str, int]]:
    examples = [Example(str(number), "q", "a") for number in range(len(costs))]
    return examples, {example.id: cost for example, cost in zip(examples, costs, strict=True)}


COSTS = st.lists(st.integers(1, 300), min_size=1, max_size=8)


@given(COSTS, st.integers(0, 3), st.integers(0, 2000))
def test_what_is_selected_fits_and_is_a_prefix_of_what_was_found(costs: list[int], pins: int, room: int) -> None:
    examples, table = bank(costs)
    pinned, hits = examples[:pins], [Hit(example, 0.5, place) for place, example in enumerate(examples)][pins:]
    selection = select(50, table, pinned, hits, room)
    assert selection.hits == tuple(hits[: len(selection.hits)])
    assert selection.pinned == tuple(pinned[: len(selection.pinned)])
    assert selection.tokens <= max(room, 50)
    if selection.hits:
        assert selection.pinned == tuple(pinned), "a pinned example left before a retrieved one"
    if len(selection.hits) < len(hits) and selection.hits:
        following = table[hits[len(selection.hits)].example.id]
        assert selection.tokens + following > room, "an example left that would have fitted"


@given(COSTS, st.integers(0, 1500))
def test_policy_limit_is_kept_and_the_most_similar_are_preferred(costs: list[int], limit: int) -> None:
    examples, table = bank(costs)
    kept = within_policy(10, table, (), [Hit(example, 0.5, place) for place, example in enumerate(examples)], limit)
    total = 10 + sum(table[hit.example.id] for hit in kept)
    assert total <= limit or not kept
    for example in examples:
        if all(hit.example.id != example.id for hit in kept):
            earlier = sum(table[hit.example.id] for hit in kept if int(hit.example.id) < int(example.id))
            assert 10 + earlier + table[example.id] > limit


def test_room_shrinks_in_steps_so_that_a_growing_conversation_keeps_its_prefix() -> None:
    rooms = [room_for_injection(4096, tokens, 256) for tokens in range(2000, 2600)]
    assert rooms == sorted(rooms, reverse=True)
    assert len(set(rooms)) <= 600 // HYSTERESIS + 2
    assert all(room <= 4096 - 256 - tokens for room, tokens in zip(rooms, range(2000, 2600), strict=True))


@given(st.text())
def test_bound_counts_every_byte(text: str) -> None:
    assert token_bound(text) >= len(text)
