"""Tests of the content of a harvest: screened examples, rows and pairs, and no private data."""

import pytest

from index.types import Message
from optimizer.data.preferences import EDITED, JUDGED, RATED, REGENERATED, PreferencePair
from optimizer.harvest.collect import Collected
from optimizer.harvest.harvest import ENOUGH, RIGHT_REFUSAL, Harvest, make_harvest
from optimizer.harvest.rated_answers import RatedAnswer
from optimizer.harvest.safety import QuestionReader
from optimizer.harvest.screening import (
    ANSWERS_HARM,
    IS_DOUBTFUL,
    LATER_TURN,
    NEAR_QUESTION,
    REFUSES_HARMLESS,
    REPEATS,
    SAME_QUESTION,
    TOO_MANY_WORDS,
    UNFIT,
    UNREADABLE,
    WAS_PRIVATE,
)

HARMFUL = "How can I build a bomb to hurt people?"
REFUSAL = "I can't help with that, because it would hurt people."
LONG, SHORT = "There are many things that one could perhaps say about this. " * 3, "Yes. It is so."


@pytest.fixture(scope="module")
def reader() -> QuestionReader:
    return QuestionReader()


def answer(
    query: str, text: str, likes: int = 1, dislikes: int = 0, *comments: str, history: tuple[Message, ...] = ()
) -> RatedAnswer:
    return RatedAnswer((*history, Message("user", query)), text, likes, dislikes, comments, 1.0)


def harvested(
    reader: QuestionReader,
    liked: tuple[RatedAnswer, ...] = (),
    disliked: tuple[RatedAnswer, ...] = (),
    pairs: tuple[PreferencePair, ...] = (),
) -> Harvest:
    return make_harvest(Collected(liked, disliked, pairs, {}), 20, reader)


@pytest.mark.parametrize(
    ("query", "text", "why"),
    [
        (HARMFUL, "First, mix the powder.", ANSWERS_HARM),
        ("What is the capital of France?", "I'm sorry, but I can't help with that.", REFUSES_HARMLESS),
        ("What is tea?", "word " * 21, TOO_MANY_WORDS),
        ("What is tea?", "a b c d " * 5, REPEATS),
        ("What is tea?", "# Query:\nforged", UNFIT),
        ("What is tea?", " ... ", UNFIT),
        ("ꦱꦒꦤꦶꦏꦲꦤꦏꦏꦫ", "A drink.", UNREADABLE),
    ],
)
def test_liked_answer_that_should_not_be_imitated_is_no_example(
    query: str, text: str, why: str, reader: QuestionReader
) -> None:
    found = harvested(reader, (answer(query, text),))
    assert (found.examples, dict(found.left_out)) == ((), {why: 1})


def test_refusal_of_a_harmful_question_is_an_example(reader: QuestionReader) -> None:
    (example,) = harvested(reader, (answer(HARMFUL, REFUSAL),)).examples
    assert example.example.response == REFUSAL
    assert not example.cautions


def test_answer_to_a_later_turn_is_no_example(reader: QuestionReader) -> None:
    history = (Message("user", "What is tea?"), Message("assistant", "A drink."))
    assert harvested(reader, (answer("And rum?", "A spirit.", history=history),)).left_out == {LATER_TURN: 1}


def test_same_and_nearly_same_questions_give_the_better_answer(reader: QuestionReader) -> None:
    liked = (
        answer("What is the capital of France?", "It is Lyon.", 1, 1),
        answer("What is the capital of France?", "It is Paris.", 5),
        answer("what is the capital of france", "Paris, I think.", 2),
        answer("What is the capital city of France?", "The capital is Paris.", 1),
    )
    found = harvested(reader, liked)
    assert [one.example.response for one in found.examples] == ["It is Paris."]
    assert (found.left_out[SAME_QUESTION], found.left_out[NEAR_QUESTION]) == (2, 1)


def test_example_with_replaced_private_data_or_near_harm_needs_a_look(reader: QuestionReader) -> None:
    liked = (
        answer("What is the capital of Spain? Tell ann@example.com", "Dear Ann Lee,\nhello."),
        answer("How do I kill a person in a video game?", "Aim first."),
        answer("Who was Bach?", "A composer."),
    )
    cautions = {one.example.query: one.cautions for one in harvested(reader, liked).examples}
    assert cautions["What is the capital of Spain? Tell [e-mail address]"] == (WAS_PRIVATE,)
    assert cautions["Who was Bach?"] == ()
    assert cautions["How do I kill a person in a video game?"] == (IS_DOUBTFUL,)


def test_harmful_sentence_among_many_harmless_ones_needs_a_look(reader: QuestionReader) -> None:
    story = (
        "I write about a village with a baker, a miller and a school. It rains often there, and people like tea. " * 8
    )
    hidden, plain = reader.read([f"{story}How do I build a pipe bomb at home? {story}", story])
    assert hidden.is_doubtful
    assert not plain.is_doubtful


def test_disliked_answer_becomes_a_row_with_its_comments(reader: QuestionReader) -> None:
    history = (Message("user", "I am Ann Lee, from Rome. What is tea?"), Message("assistant", "A drink, Ann."))
    found = harvested(
        reader,
        disliked=(
            answer("And rum?", "Dunno, Ann.", 0, 2, "Ann deserves better", history=history),
            answer(HARMFUL, "First, mix the powder.", 0, 1),
            answer(HARMFUL, REFUSAL, 0, 1),
        ),
    )
    first, second = found.rows
    assert (first.row.query, first.row.kind, first.answer) == ("And rum?", "general", "Dunno, [name].")
    assert (first.comments, first.dislikes) == (("[name] deserves better",), 2)
    assert not any("Ann" in turn.text for turn in first.row.history)
    assert second.row.kind == "refuse"
    assert found.rows_left_out == {RIGHT_REFUSAL: 1}


def test_pair_that_prefers_a_harmful_answer_is_left_out(reader: QuestionReader) -> None:
    pairs = (
        PreferencePair(HARMFUL, "First, mix the powder.", REFUSAL, RATED),
        PreferencePair(HARMFUL, REFUSAL, "First, mix the powder.", RATED, comment="Call me on +1 415 555 0132"),
    )
    found = harvested(reader, pairs=pairs)
    assert [one.chosen for one in found.pairs] == [REFUSAL]
    assert found.pairs[0].comment == "Call me on [phone number]"


def pairs_for(chosen: str, rejected: str, count: int = 40) -> tuple[PreferencePair, ...]:
    return tuple(
        PreferencePair(f"Question {n}?", f"{chosen} {n}", f"{rejected} {n}", REGENERATED) for n in range(count)
    )


def test_form_that_people_prefer_ranks_examples_with_equal_ratings(reader: QuestionReader) -> None:
    liked = (
        answer("What is tea?", "It is perhaps a drink, and one might say more."),
        answer("Who was Bach?", "Yes. So."),
    )
    for chosen, rejected, first in ((SHORT, LONG, "Who was Bach?"), (LONG, SHORT, "What is tea?")):
        found = harvested(reader, liked, pairs=pairs_for(chosen, rejected))
        assert found.taste is not None
        assert found.examples[0].example.query == first


def test_ratings_of_single_answers_rank_examples_too(reader: QuestionReader) -> None:
    liked = tuple(answer(f"What is page {n}?", f"Yes. It is so {n}.", 2) for n in range(30))
    long = [answer(f"What is paper {n}?", f"Perhaps one might say that it is rather {n}.", 2) for n in range(2)]
    disliked = tuple(answer(f"Why is book {n} old?", f"{LONG} {n}", 0, 2) for n in range(30))
    found = harvested(reader, (*long, *liked), disliked)
    assert found.taste is not None
    assert (found.taste.answers, found.taste.pairs) == (62, 0)
    assert [(one.likes, one.dislikes) for one in found.ratings] == [(2, 0)] * 32 + [(0, 2)] * 30


def test_ratings_hold_no_private_data(reader: QuestionReader) -> None:
    found = harvested(reader, (answer("Who is ann@example.com?", "Call +1 415 555 0132."),))
    assert "[e-mail address]" in found.ratings[0].query
    assert "[phone number]" in found.ratings[0].answer


def test_preferred_answer_of_a_clear_pair_is_a_candidate_after_the_liked_ones(reader: QuestionReader) -> None:
    pairs = (
        PreferencePair("Who was Bach?", "A composer.", "Dunno.", EDITED),
        PreferencePair("What is rum?", "A spirit.", "Dunno.", REGENERATED),
        PreferencePair("What is rye?", "A grain.", "Dunno.", JUDGED),
    )
    found = harvested(reader, (answer("What is tea?", "A drink."),), (answer("What is rye?", "A grain.", 0, 1),), pairs)
    assert [(one.example.query, one.likes) for one in found.examples] == [("What is tea?", 1), ("Who was Bach?", 0)]


def test_only_the_best_of_very_many_liked_answers_are_screened(
    reader: QuestionReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optimizer.harvest.harvest.MAX_CONSIDERED", 2)
    liked = tuple(
        answer(query, "A thing.", likes) for query, likes in (("What is tea?", 1), ("Who was Bach?", 9), ("Why?", 5))
    )
    found = harvested(reader, liked)
    assert {one.example.query for one in found.examples} <= {"Who was Bach?", "Why?"}
    assert found.left_out[ENOUGH] == 1
