"""Tests of the tokens that a context leaves for prompt and examples."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.inference.injection.token_budget import HYSTERESIS, max_token_count, room_for_injection


def test_room_shrinks_in_steps_so_that_a_growing_conversation_keeps_its_prefix() -> None:
    rooms = [room_for_injection(4096, tokens, 256) for tokens in range(2000, 2600)]
    assert rooms == sorted(rooms, reverse=True)
    assert len(set(rooms)) <= 600 // HYSTERESIS + 2
    assert all(room <= 4096 - 256 - tokens for room, tokens in zip(rooms, range(2000, 2600), strict=True))


@given(st.text())
def test_max_token_count_counts_every_byte(text: str) -> None:
    assert max_token_count(text) >= len(text)
