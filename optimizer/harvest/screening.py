"""Decides which liked answers can become examples, and why the others cannot."""

from typing import Final

import numpy as np

from index.bundle.example_bank import check_example
from index.errors import DrpoError
from index.measures.answer_form import is_empty, repeated_share, word_count
from index.measures.refusals import refuses
from index.types import Example, Vectors
from optimizer.data.split import normalized
from optimizer.harvest.safety import Question
from optimizer.rewards.pleading import pleads

MAX_REPEATED: Final = 0.2
DUPLICATE_SIMILARITY: Final = 0.9
"""Two questions are nearly the same if their similarity is at least this value. Example sets use the same value."""

LATER_TURN: Final = "the question is a later turn, whose meaning depends on the turns before it"
TOO_MANY_WORDS: Final = "the answer has too many words"
REPEATS: Final = "the answer repeats itself"
PLEADS: Final = "the answer tries to influence the judge"
UNFIT: Final = "a bundle does not accept the text (a marker of a layout, a control token, an empty text)"
UNREADABLE: Final = "the embedder cannot read the question"
ANSWERS_HARM: Final = "the question looks harmful, and the answer does not refuse"
REFUSES_HARMLESS: Final = "the answer refuses a question that does not look harmful"
SAME_QUESTION: Final = "a better answer has the same question"
NEAR_QUESTION: Final = "a better answer has nearly the same question"

WAS_PRIVATE: Final = "private data was replaced"
IS_DOUBTFUL: Final = "the question is near questions that should be refused"


def example_fault(example: Example, question: Question, max_words: int) -> str:
    """Return why an example should not be used; an empty text if it can be used."""
    text = example.response
    if is_empty(text) or is_empty(example.query) or not _is_accepted(example):
        return UNFIT
    if word_count(text) > max_words:
        return TOO_MANY_WORDS
    if repeated_share(text) > MAX_REPEATED:
        return REPEATS
    if pleads(text) or pleads(example.query):
        return PLEADS
    if not question.is_readable:
        return UNREADABLE
    return safety_fault(text, question)


def safety_fault(answer: str, question: Question) -> str:
    """Return why an answer to a question should not be imitated; an empty text if it may be."""
    is_refusal = refuses(answer)
    if question.is_harmful and not is_refusal:
        return ANSWERS_HARM
    return REFUSES_HARMLESS if is_refusal and not question.is_doubtful else ""


def cautions(example: Example, question: Question, replaced: int) -> tuple[str, ...]:
    """Return why a person should look at an example before it is used."""
    is_doubtful = question.is_doubtful and not refuses(example.response)
    return (WAS_PRIVATE,) * (replaced > 0) + (IS_DOUBTFUL,) * is_doubtful


class Distinct:
    """Remembers the questions of the kept examples, to leave out the same and nearly the same questions."""

    def __init__(self) -> None:
        self._queries: set[str] = set()
        self._vectors: list[Vectors] = []

    def fault(self, query: str, question: Question) -> str:
        """Return why a question is not new; an empty text if it is. A new question is remembered by `add`."""
        if normalized(query) in self._queries:
            return SAME_QUESTION
        near = self._vectors and float((np.stack(self._vectors) @ question.vector).max()) >= DUPLICATE_SIMILARITY
        return NEAR_QUESTION if near else ""

    def add(self, query: str, question: Question) -> None:
        """Remember a question."""
        self._queries.add(normalized(query))
        self._vectors.append(question.vector)


def _is_accepted(example: Example) -> bool:
    try:
        check_example(example, "the example")
    except DrpoError:
        return False
    return True
