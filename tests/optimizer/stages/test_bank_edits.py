"""Edits of a bank: vectors stay with their examples; pinned examples and refusals are never removed."""

import numpy as np
import pytest

from index.types import EmbedderSpec, Example
from optimizer.core.candidate import Bank
from optimizer.core.config_tables import FIRST_SENTENCE, PLAIN, WHOLE
from optimizer.stages.bank_edits import with_added, with_longer_answers, with_refusals, with_shorter_answers

NO = "I can't help with harm. I can explain e.g. how to stay safe!"
EXAMPLES = (
    Example("pinned", "Q1", "Short.", pinned=True),
    Example("short", "Q2", "Yes."),
    Example("no", "Q3", NO),
    Example("long", "Q4", "One two three four five."),
)
BANK = Bank(EXAMPLES, np.eye(4, dtype=np.float32), EmbedderSpec("e", "1", 4))


def test_short_answers_are_removed_and_the_others_keep_their_vectors() -> None:
    found = with_longer_answers(BANK, 4)
    assert [example.id for example in found.examples] == ["pinned", "no", "long"]
    assert np.array_equal(found.vectors, np.eye(4, dtype=np.float32)[[0, 2, 3]])


@pytest.mark.parametrize(
    ("wording", "response"),
    [(WHOLE, NO), (FIRST_SENTENCE, "I can't help with harm."), (PLAIN, "I'm sorry, but I can't help with that.")],
)
def test_only_refusals_are_reworded(wording: str, response: str) -> None:
    found = with_refusals(BANK, wording)
    assert {example.id: example.response for example in found.examples} == {
        **{example.id: example.response for example in EXAMPLES},
        "no": response,
    }
    assert (found.key == BANK.key) == (wording == WHOLE)


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ("1. Fill the kettle.\n2. Boil it for ten minutes.\n3. Empty it.", "1. Fill the kettle."),
        ("- a. Fill it.\n- b. Boil the water for ten minutes.", "- a. Fill it."),
        ("**1.** Fill it.\n**2.** Boil the water for ten minutes.", "**1.** Fill it."),
        ("Ask a doctor. Dr. Miller knows a lot about this.", "Ask a doctor."),
        ("Eat fruit. Take e.g. apples, pears and many others.", "Eat fruit."),
        ("It began in 1990. Nobody knows why it did.", "It began in 1990."),
        ("This first sentence has more than five words. Yes.", "This first sentence has more than five words. Yes."),
        ("One two three four five.", "One two three four five."),
    ],
)
def test_answers_are_cut_after_a_whole_sentence(answer: str, kept: str) -> None:
    bank = Bank((Example("one", "Q", answer),), np.eye(1, 4, dtype=np.float32), EmbedderSpec("e", "1", 4))
    assert with_shorter_answers(bank, 5).examples[0].response == kept


@pytest.mark.parametrize("ids", [("new", "new"), ("short", "short"), ("short", "short-2"), ("n" * 64, "n" * 64)])
def test_added_examples_with_equal_ids_get_different_ones(ids: tuple[str, str]) -> None:
    new = [Example(name, f"New {number}", "Yes.", pinned=True) for number, name in enumerate(ids)]
    found = with_added(BANK, new, np.eye(4, dtype=np.float32)[:2])
    names = [one.id for one in found.examples]
    assert names[:4] == [one.id for one in EXAMPLES]
    assert len(set(names)) == 6
    assert all(0 < len(name) <= 64 for name in names)
    assert [(one.query, one.pinned) for one in found.examples[4:]] == [("New 0", False), ("New 1", False)]
