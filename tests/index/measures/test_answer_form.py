"""Tests the measures of the form of an answer by worked examples, and by bounds that hold for any input."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.measures.answer_form import ends_by_itself, is_empty, repeated_share, word_count


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


@pytest.mark.parametrize("loop", ["我不知道这件事。", "これはペンです。", "นี่คือปากกา", "la"])
def test_repeated_share_sees_loops_without_spaces(loop: str) -> None:
    assert repeated_share(loop * 12) > 0.5


@pytest.mark.parametrize(
    "answer",
    ["彩虹是阳光在水滴中折射和反射形成的。", "虹は太陽の光が水滴で曲がって見える現象です。", "Donaudampfschiff"],
)
def test_repeated_share_of_a_sentence_that_does_not_repeat_is_zero(answer: str) -> None:
    assert repeated_share(answer) == 0.0


@given(st.text())
def test_repeated_share_is_between_0_and_1(answer: str) -> None:
    assert 0.0 <= repeated_share(answer) < 1.0


@pytest.mark.parametrize(("answer", "words"), [("", 0), ("two words", 2), ("彩虹很美", 2), ("4", 1)])
def test_word_count_counts_two_characters_as_a_word_where_there_are_no_spaces(answer: str, words: int) -> None:
    assert word_count(answer) == words


@pytest.mark.parametrize(
    ("answer", "empty"), [("", True), (" \n", True), ("!!!???", True), ("4", False), ("是", False)]
)
def test_is_empty_without_letters_and_digits(answer: str, *, empty: bool) -> None:
    assert is_empty(answer) is empty
