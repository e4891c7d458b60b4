"""Chooses the examples of a new bank among judged answers. It does not depend on how the answers were found."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from index.embedders.base import Embedder
from index.measures.refusals import refuses
from index.types import Example, Vectors
from optimizer.core.config_tables import ALL, ExamplesTable
from optimizer.data.dataset import REFUSE, Row
from optimizer.rewards.judge_model import JudgeRating
from optimizer.rewards.judge_replies import MAX_SCORE
from optimizer.stages.candidate_gate import example_fault

_SIMILARITY_PENALTY: Final = 0.5
"""Weight of the penalty for similarity when an example is chosen.

The penalty is this weight times the largest similarity of the example's query to the queries of the examples that were
already chosen. It is subtracted from the judge's mean score, divided by the highest possible score.
"""
_REFUSAL_SHARE: Final = 0.15
"""Minimum share of refusals in the bank, if there are enough usable refusals."""


@dataclass(frozen=True, slots=True)
class JudgedAnswer:
    """An answer to the query of one row, with the judge's scores of this answer."""

    row: Row
    text: str
    judgement: JudgeRating

    @property
    def refused(self) -> bool:
        """Whether the answer is a refusal by the rule of index.measures.refusals."""
        return refuses(self.text)


def choose_bank(answers: Sequence[JudgedAnswer], embedder: Embedder, table: ExamplesTable) -> tuple[Example, ...]:
    """Choose the answers that become the examples of a bank.

    The choice `all` takes every usable answer. The choice `diverse` takes good answers to dissimilar queries, and some
    refusals. It is greedy maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998): the next example has the
    highest score after a penalty for its similarity to the examples chosen before. While the share of refusals in the
    bank is below the minimum, the next example must be a refusal, if one is left. The shortest refusals are pinned. The
    setting `pinned` of [examples] is the maximum number of pinned refusals.
    """
    # Two rows can have the same query, and a bank has one example for each query.
    usable = list({answer.row.query: answer for answer in answers if _is_usable(answer, table)}.values())
    if not usable:
        return ()
    vectors = embedder.embed([answer.row.query for answer in usable])
    readable = vectors.any(axis=1)  # the vector of a query in an unknown script is zero, and no bank can hold it
    usable, vectors = [usable[index] for index in np.flatnonzero(readable)], vectors[readable]
    chosen = range(len(usable)) if table.choice == ALL else _diverse(usable, vectors, table.size)
    refusals = sorted((usable[index] for index in chosen if usable[index].refused), key=lambda one: len(one.text))
    pinned = {refusal.row.query for refusal in refusals[: table.pinned]}
    return tuple(_as_example(usable[index], pinned) for index in chosen)


def _diverse(usable: Sequence[JudgedAnswer], vectors: Vectors, size: int) -> Sequence[int]:
    """Return the positions in `usable` of good answers to dissimilar queries, at most `size` of them."""
    chosen: list[int] = []
    while len(chosen) < min(size, len(usable)):
        left = [index for index in range(len(usable)) if index not in chosen]
        eligible = _eligible(usable, chosen, left)
        chosen.append(max(eligible, key=lambda index: _marginal_relevance(usable, vectors, chosen, index)))
    return chosen


def _eligible(usable: Sequence[JudgedAnswer], chosen: Sequence[int], left: Sequence[int]) -> Sequence[int]:
    """Return the positions of the answers that may be chosen next. `left` has the positions that are not chosen yet.

    While the bank has too few refusals, and a refusal is left, only refusals may be chosen. Otherwise every answer of
    `left` may be chosen.
    """
    refusals = [index for index in left if usable[index].refused]
    chosen_refusals = sum(usable[index].refused for index in chosen)
    return refusals if refusals and chosen_refusals < _REFUSAL_SHARE * (len(chosen) + 1) else left


def _marginal_relevance(usable: Sequence[JudgedAnswer], vectors: Vectors, chosen: Sequence[int], index: int) -> float:
    similarity = float(np.max(vectors[list(chosen)] @ vectors[index])) if chosen else 0.0
    return usable[index].judgement.mean / MAX_SCORE - _SIMILARITY_PENALTY * similarity


def _is_usable(answer: JudgedAnswer, table: ExamplesTable) -> bool:
    """Whether the answer can be an example.

    The answer must not be empty or too long. There must be no turns before the query, and a bundle must accept the
    example. For the choice `diverse`, the answer must refuse if its row asks for a refusal.
    """
    if not answer.text or is_too_long(answer.text, table.words) or answer.row.history:
        return False
    if table.choice != ALL and answer.row.kind == REFUSE and not answer.refused:
        return False
    return not example_fault(_as_example(answer, set()))


def is_too_long(text: str, max_words: int) -> bool:
    """Whether a text has more words than the maximum. A maximum of 0 means that there is none."""
    return bool(max_words) and len(text.split()) > max_words


def _as_example(answer: JudgedAnswer, pinned: set[str]) -> Example:
    tags = ("refusal",) if answer.refused else ()
    return replace(make_example(answer.row, answer.text), pinned=answer.row.query in pinned, tags=tags)


def make_example(row: Row, response: str) -> Example:
    """Return the example with the query of a row and a response."""
    return Example(example_id(row), row.query, response)


def example_id(row: Row) -> str:
    """Return the id of the example with the query of a row: the beginning of a hash."""
    return hashlib.sha256(row.query.encode()).hexdigest()[:12]
