"""Guards who counts as one unit, and what counts as the same question again."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.experiments.units import conversation_digest, named_unit, opening_digest, unit_of

MESSAGE = st.builds(
    lambda role, content: {"role": role, "content": content},
    st.sampled_from(["user", "assistant", "system"]),
    st.text(max_size=20) | st.none(),
)


def asked(messages: list[Any]) -> bytes:
    return conversation_digest(messages, opening_digest(messages))


def unit(messages: list[Any], key: str = "alice") -> bytes:
    return unit_of(None, {}, key, opening_digest(messages))


@given(st.lists(MESSAGE, max_size=4), st.lists(MESSAGE, max_size=4))
def test_only_the_same_messages_are_the_same_question(one: list[Any], other: list[Any]) -> None:
    assert (asked(one) == asked(other)) is (one == other)


@given(st.text(min_size=1), st.lists(MESSAGE, max_size=3))
def test_later_turns_are_of_the_same_unit_and_ask_something_else(text: str, later: list[Any]) -> None:
    opening: list[Any] = [{"role": "user", "content": text}]
    assert unit([*opening, *later]) == unit(opening)
    assert unit(opening, "bob") != unit(opening)
    assert (asked([*opening, *later]) == asked(opening)) is (not later)


def test_a_name_comes_before_the_conversation_and_is_the_same_by_header_and_field() -> None:
    opening = opening_digest([{"role": "user", "content": "hi"}])
    assert unit_of("u1", {"user": "u2"}, "k", opening) == named_unit("u1")
    assert unit_of(None, {"user": "u2"}, "k", opening) == named_unit("u2") != named_unit("u1")
