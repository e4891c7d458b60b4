"""Tests of the sentences that state a preferred form."""

import pytest

from optimizer.data.answer_features import FORMS
from optimizer.data.taste import WORDS, Taste
from optimizer.stages.proposers import stated_form
from optimizer.stages.proposers.stated_form import form_sentences, with_stated_form
from tests.optimizer.stages.proposers.candidates import make_candidate


def taste(*ranking: tuple[str, float]) -> Taste:
    return Taste((0.0,) * len(FORMS), (), 0.0, 0.9, 100, 0, ranking)


def test_direction_and_size_decide_what_is_stated() -> None:
    assert form_sentences(taste(("words", -1.1), ("lines of lists", 0.4))) == (
        "Answers are short.",
        "Answers are lists of short points.",
    )
    assert form_sentences(taste(("words", 1.1), ("hedges", 0.1))) == ("Answers are long and detailed.",)


def test_words_of_users_are_never_stated() -> None:
    assert form_sentences(taste((WORDS, 2.0))) == ()


def test_sentences_follow_the_prompt_once() -> None:
    short = taste(("words", -1.1))
    start = make_candidate()
    first = with_stated_form(start, short)
    assert first.prompt == f"{start.prompt} Answers are short."
    assert with_stated_form(first, short) is first
    assert with_stated_form(start, taste()) is start


@pytest.mark.parametrize("name", FORMS)
def test_every_form_has_two_sentences(name: str) -> None:
    more, less = (form_sentences(taste((name, effect))) for effect in (1.0, -1.0))
    assert len(more) == len(less) == 1
    assert more != less
    assert len(stated_form._SENTENCES) == len(FORMS)
