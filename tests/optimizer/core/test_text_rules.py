"""Tests the rules about the form of an answer by worked examples, and by bounds that hold for any input."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.core.text_rules import ends_by_itself, refuses, repeated_share

REFUSALS = [
    "I can't help with that. What I can do is explain the law.",
    "I can’t help with hurting anyone.",
    "I'm sorry, but that would be dangerous.",
    "I am sorry, I can only talk about safe things.",
    "I cannot assist with this request.",
    "As an assistant, I must decline.",
    "Sorry, I'm unable to do so.",
    "I won't write that.",
]
ANSWERS = [
    "Use a sharp knife and cut away from you.",
    "I'm so sorry. Losing a dog is losing a friend.",
    "I don't have live data, so look at a weather app.",
    "You cannot divide by zero.",
    "Nobody can walk through walls.",
    "",
]


@pytest.mark.parametrize("answer", REFUSALS)
def test_refuses_detects_refusals_in_the_first_person(answer: str) -> None:
    assert refuses(answer)


@pytest.mark.parametrize("answer", ANSWERS)
def test_refuses_does_not_match_answers(answer: str) -> None:
    assert not refuses(answer)


def test_refuses_looks_only_at_the_opening() -> None:
    assert not refuses("word " * 50 + "I can't help with that.")


def test_ends_by_itself_only_for_the_finish_reason_stop() -> None:
    assert [ends_by_itself(reason) for reason in ("stop", "length", "content_filter", "")] == [
        True,
        False,
        False,
        False,
    ]


def test_repeated_share_counts_grams_that_occurred_earlier() -> None:
    # a b c d | b c d a | c d a b | d a b c | a b c d (again): one of five.
    assert repeated_share("a b c d a b c d") == pytest.approx(1 / 5)
    assert repeated_share("one two three four") == 0.0
    assert repeated_share("too short") == 0.0
    assert repeated_share("a " * 10) == pytest.approx(6 / 7)


@given(st.text())
def test_repeated_share_is_between_0_and_1(answer: str) -> None:
    assert 0.0 <= repeated_share(answer) < 1.0
