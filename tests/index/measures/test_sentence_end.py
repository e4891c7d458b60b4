"""An answer can be cut after a sentence or a line, and not after a mark or an abbreviation."""

import pytest

from index.measures.sentence_end import can_end


@pytest.mark.parametrize("before", ["It works.", "1. Fill it.", "It began in 1990.", "- One point", "Really?"])
def test_text_can_end_after_a_sentence_or_a_line(before: str) -> None:
    assert can_end(f"{before} Then more.", len(before))


@pytest.mark.parametrize("before", ["", "1.", "Steps:\n2.", "- b)", "**3.", "One\n-", "Ask Dr.", "Take e.g.", "J."])
def test_text_cannot_end_after_a_mark_or_an_abbreviation(before: str) -> None:
    assert not can_end(f"{before} Then more.", len(before))


def test_text_cannot_end_before_a_word_in_lower_case() -> None:
    assert not can_end("See p. seven.", 6)
