"""Tests of the digests of units and of conversations."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.experiments.units import conversation_digest, named_unit, opening_digest, unit_name, unit_of, user_name
from proxy.openai.conversation import read_chat

MESSAGE = st.builds(
    lambda role, content: {"role": role, "content": content},
    st.sampled_from(["user", "assistant", "system"]),
    st.text(max_size=20) | st.none(),
)


def asked(messages: list[Any], *, knows_user: bool = True) -> bytes | None:
    conversation = read_chat({"messages": messages})
    return conversation_digest(conversation, opening_digest(conversation), knows_user=knows_user)


def unit(messages: list[Any], key: str = "alice") -> bytes:
    return unit_of("", key, opening_digest(read_chat({"messages": messages})))


@given(st.lists(MESSAGE, max_size=4), st.lists(MESSAGE, max_size=4))
def test_conversation_digest_is_equal_only_for_equal_messages(one: list[Any], other: list[Any]) -> None:
    assert (asked(one) == asked(other)) is (one == other)


@given(st.text(min_size=1), st.lists(MESSAGE, max_size=3))
def test_later_turns_have_the_same_unit_and_another_conversation_digest(text: str, later: list[Any]) -> None:
    opening: list[Any] = [{"role": "user", "content": text}]
    assert unit([*opening, *later]) == unit(opening)
    assert unit(opening, "bob") != unit(opening)
    assert (asked([*opening, *later]) == asked(opening)) is (not later)


def test_name_in_header_or_field_takes_precedence_over_the_conversation() -> None:
    opening = opening_digest(read_chat({"messages": [{"role": "user", "content": "hi"}]}))
    assert unit_of(user_name("u1", {"user": "u2"}), "k", opening) == named_unit("u1")
    assert unit_of(user_name(None, {"user": "u2"}), "k", opening) == named_unit("u2") != named_unit("u1")


def test_conversation_of_an_unknown_user_is_known_only_by_an_answer_in_it() -> None:
    opening: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    later: list[Any] = [*opening, {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Thanks"}]
    assert asked(opening, knows_user=False) is None
    assert asked(later, knows_user=False) == asked(later) is not None


@pytest.mark.parametrize(
    ("headers", "trusted", "untrusted"),
    [
        ({"X-OpenWebUI-User-Id": "u1"}, "u1", None),
        ({"X-OpenWebUI-User-Id": "u1", "x-drpo-unit": "u2"}, "u2", "u2"),
        ({"X-OpenWebUI-User-Id": "u1", "x-drpo-unit": ""}, "u1", None),
        ({"X-OpenWebUI-User-Id": "u1", "x-drpo-unit": "{{LIBRECHAT_USER_ID}}"}, "u1", None),
        ({"X-OpenWebUI-User-Id": "{{USER_ID}}"}, None, None),
        ({"X-OpenWebUI-User-Id": "${USER_ID}"}, None, None),
        ({"X-OpenWebUI-User-Id": "x" * 200}, "x" * 200, None),
        ({"X-OpenWebUI-User-Id": "x" * 201}, None, None),
        ({"X-OpenWebUI-User-Id": "a\udcffb"}, None, None),
        ({"X-OpenWebUI-User-Id": ""}, None, None),
        ({"X-OpenWebUI-User-Email": "a@example.org", "X-OpenWebUI-Chat-Id": "c"}, None, None),
        ({"x-drpo-unit": "user {1}"}, "user {1}", "user {1}"),
        ({}, None, None),
    ],
)
def test_header_of_a_chat_application_names_the_unit_only_if_it_is_trusted(
    headers: dict[str, str], trusted: str | None, untrusted: str | None
) -> None:
    assert unit_name(headers, trusts_user_headers=True) == trusted
    assert unit_name(headers, trusts_user_headers=False) == untrusted
