"""Tests of the beginnings of answers that people like best."""

from optimizer.stages.proposers.liked_beginning import MAX_WORDS, beginnings, liked_beginning


def likes_questions(text: str) -> float:
    return 0.9 if text.endswith("?") else 0.1


def likes_length(text: str) -> float:
    return min(1.0, len(text.split()) / 100)


def test_an_answer_ends_after_sentences_and_lines_only() -> None:
    text = 'It is 3.5 m, e.g. here. "Why?" Well:\n1. One thing\n2. Two'
    assert list(beginnings(text)) == [
        "It is 3.5 m, e.g. here.",
        'It is 3.5 m, e.g. here. "Why?"',
        'It is 3.5 m, e.g. here. "Why?" Well:\n1. One thing',
        text,
    ]
    assert list(beginnings("Yes. So:\n```\nx = 1. \n```")) == ["Yes. So:\n```\nx = 1. \n```"], "code stays whole"
    assert list(beginnings("Ja。 Nein。")) == ["Ja。", "Ja。 Nein。"]
    assert list(beginnings("No end")) == ["No end"]


def test_the_beginning_with_the_preferred_form_is_chosen() -> None:
    found = liked_beginning("It is 3. Is that so? I think it is.", likes_questions, None)
    assert found is not None
    assert (found.text, found.chance, found.is_seen) == ("It is 3. Is that so?", 0.9, True)


def test_whole_answer_stays_if_people_like_no_part_better() -> None:
    text = "It is 3. It is 4. It is 5."
    found = liked_beginning(text, likes_questions, None)
    assert found is not None
    assert found.text == text


def test_form_counts_only_where_the_model_may_write() -> None:
    late = "It is far away. " * 10 + "Is it?"
    found = liked_beginning(late, likes_questions, 12)
    assert found is not None
    assert found.chance < 0.5
    assert found.is_seen, "an answer that ends in time is preferred to an equal one that does not"
    early = liked_beginning("Is it far? " + "It is far away. " * 10, likes_questions, 12)
    assert early is not None
    assert early.text == "Is it far?"


def test_long_answers_are_no_examples() -> None:
    assert liked_beginning("word " * (MAX_WORDS + 1), likes_length, None) is None
    text = "A few words. " * MAX_WORDS
    found = liked_beginning(text, likes_length, None)
    assert found is not None
    assert len(found.text.split()) <= MAX_WORDS, "the part that is short enough can be one"
