"""Stage 1: writes a new bank. It improves answers of the task model, and chooses the best and most diverse answers.

A beam search improves the answer to each query. In every round the writer model rewrites each answer of the beam, and
the judge scores the rewrites by the criteria that it chose for the query. The search ends after a number of rounds (the
setting `rounds` of [examples]), or when the best answer has almost the highest score on every criterion.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from index.embedders.base import Embedder
from index.measures.refusals import refuses
from index.types import Example, Vectors
from optimizer.core.candidate import Candidate, make_bank
from optimizer.core.config_tables import ExamplesTable
from optimizer.core.errors import ModelError
from optimizer.data.dataset import REFUSE, Row
from optimizer.data.split import TRAIN
from optimizer.models.request import Json, Request, reply_reader
from optimizer.rewards.criteria import Criterion
from optimizer.rewards.judge_model import JudgeRating
from optimizer.rewards.judge_replies import MAX_SCORE
from optimizer.stages.candidate_gate import CandidateGate, example_fault
from optimizer.stages.prompt_stage import ROLE, read_choices
from optimizer.stages.run_context import BestCandidate, RunContext
from optimizer.templates import template

_PERFECT_SCORE: Final = MAX_SCORE - 0.05
_SIMILARITY_PENALTY: Final = 0.5
"""Weight of the penalty for similarity when an example is chosen.

The penalty is this weight times the largest similarity of the example's query to the queries of the examples that were
already chosen. It is subtracted from the judge's mean score, divided by the highest possible score.
"""
_REFUSAL_SHARE: Final = 0.15
"""Minimum share of refusals in the bank, if there are enough usable refusals."""
_MAX_REPLY_TOKENS: Final = 1024


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


async def run_example_stage(context: RunContext, best: BestCandidate) -> None:
    """Replace the bank of the best candidate by a bank of new examples.

    The old bank stays if `queries` of [examples] is 0, or if no answer can be used as an example. The stage journals
    one `stage` event, one `answer` event per query and round, and one `bank` event.

    Raises:
        ModelError: A model gives no usable answer.
        BudgetSpentError: The budget is spent.
        JournalError: The journal cannot be written.
        EmbedderError: The queries cannot be embedded.
    """
    table = context.config.examples
    if not table.queries:
        return
    rows = [row for row in context.data.train if await _can_be_example(row, context.gate)][: table.queries]
    await context.journal.note("stage", stage="examples", rows=len(rows))
    search = AnswerSearch(context, table)
    answers = await search.best_answers(best.candidate, rows)
    examples = choose_bank(answers, context.embedder, table)
    await context.journal.note("bank", size=len(examples), pinned=sum(example.pinned for example in examples))
    if examples:
        bank = await asyncio.to_thread(make_bank, examples, context.embedder)
        candidate = best.candidate.with_bank(bank)
        best.candidate = candidate if await context.gate.admits(candidate, "bank") else best.candidate


class AnswerSearch:
    """Improves answers by a beam search, for each query separately."""

    def __init__(self, context: RunContext, table: ExamplesTable) -> None:
        self._task = context.task
        self._judge = context.judge
        self._calls = context.calls
        self._journal = context.journal
        self._unusable = context.unusable[TRAIN]
        self._gate = context.gate
        self._table = table

    async def best_answers(self, start: Candidate, rows: Sequence[Row]) -> list[JudgedAnswer]:
        """Return the best answer found for each row. Rows that cannot be answered or judged are left out.

        The search for a row begins with the answer that the task model gives under the candidate `start`.

        Raises:
            UnusableRowsError: Too many rows cannot be used.
            ModelError: A model gives no usable answer, but may do so later.
            BudgetSpentError: The budget is spent.
            JournalError: The journal cannot be written.
        """
        answers = await asyncio.gather(*(self._search(start, row) for row in rows))
        return [answer for answer in answers if answer is not None]

    async def _search(self, start: Candidate, row: Row) -> JudgedAnswer | None:
        first = await self._unusable.attempt(row, self._first_answer(start, row))
        if first is None:
            return None
        answer, criteria = first
        beam = [answer]
        rewrite_counts: Counter[str] = Counter()
        for number in range(self._table.rounds):
            if min(beam[0].judgement.scores.values()) >= _PERFECT_SCORE:
                break
            texts = await self._rewrite_beam(beam, rewrite_counts)
            judged = await asyncio.gather(*(self._judge_rewrite(row, text, criteria) for text in texts))
            new = [one for one in judged if one is not None]
            # If answers have equal scores, the newer answer comes first, because the older one was already rewritten.
            ranked = sorted([*new, *beam], key=lambda answer: -answer.judgement.mean)
            await self._journal_round(row, number, ranked[0])
            beam = ranked[: self._table.beam]
        return beam[0]

    async def _first_answer(self, start: Candidate, row: Row) -> tuple[JudgedAnswer, Sequence[Criterion]]:
        criteria = await self._judge.criteria(row.query)
        reply = await self._task.answer(start, row)
        return await self._judge_answer(row, reply.text.strip(), criteria), criteria

    async def _judge_answer(self, row: Row, text: str, criteria: Sequence[Criterion]) -> JudgedAnswer:
        return JudgedAnswer(row, text, await self._judge.rate_by(row.query, text, criteria))

    async def _judge_rewrite(self, row: Row, text: str, criteria: Sequence[Criterion]) -> JudgedAnswer | None:
        """Judge a rewritten answer. Return None if the judge cannot judge it."""
        try:
            return await self._judge_answer(row, text, criteria)
        except ModelError as error:
            await self._gate.drop_failed("example", _example_id(row), error)
            return None

    async def _rewrite_beam(self, beam: Sequence[JudgedAnswer], rewrite_counts: Counter[str]) -> list[str]:
        """Rewrite every answer of the beam. Return the new texts, without duplicates and without texts of the beam."""
        replicates = [rewrite_counts[answer.text] for answer in beam]
        groups = await asyncio.gather(*map(self._rewrite, beam, replicates))
        rewrite_counts.update(answer.text for answer in beam)
        known = {answer.text for answer in beam}
        return [text for text in dict.fromkeys(text for group in groups for text in group) if text not in known]

    async def _rewrite(self, answer: JudgedAnswer, replicate: int) -> list[str]:
        words = self._table.words
        source = f"{_example_id(answer.row)}/{replicate}"
        try:
            request = replace(rewrite_answer_request(answer, self._table), replicate=replicate)
            kept = await self._calls.ask(request, read_answers)
        except ModelError as error:
            await self._gate.drop_failed("example", source, error, self._table.actions)
            return []
        await self._gate.drop_each("example", source, kept["dropped"])
        short = [text for text in kept["answers"] if len(text.split()) <= words]
        await self._gate.drop("example", source, f"more than {words} words", len(kept["answers"]) - len(short))
        return [text for text in short if await self._gate.admits_example(_make_example(answer.row, text))]

    async def _journal_round(self, row: Row, number: int, best: JudgedAnswer) -> None:
        scores = dict(best.judgement.scores)
        await self._journal.note("answer", query=row.query, round=number, answer=best.text, scores=scores)


def rewrite_answer_request(answer: JudgedAnswer, table: ExamplesTable) -> Request:
    """Return the request that asks the writer model for better answers, with the judge's reasons."""
    judgement = answer.judgement
    reasons = "\n".join(
        f"- {name}: {score:.1f}: {judgement.rationales[name]}" for name, score in judgement.scores.items()
    )
    prompt = template("rewrite_answer").format(
        query=answer.row.query, answer=answer.text, judgement=reasons, words=table.words
    )
    messages = [{"role": "user", "content": prompt}]
    body = {"messages": messages, "n": table.actions, "temperature": 0.7, "max_tokens": _MAX_REPLY_TOKENS}
    return Request(ROLE, "chat/completions", body)


@reply_reader("optimizer.examples.read_answers")
def read_answers(reply: Any) -> Json:
    """Read the rewritten answer of each choice, and the reason for each choice that holds no answer.

    Raises:
        UnparsableReplyError: No choice holds an answer.
    """
    answers, dropped = read_choices(reply, "answer")
    return {"answers": answers, "dropped": dropped}


def choose_bank(answers: Sequence[JudgedAnswer], embedder: Embedder, table: ExamplesTable) -> tuple[Example, ...]:
    """Choose good answers to dissimilar queries as the examples of a bank. Some of the answers are refusals.

    The choice is greedy maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998): the next example has the
    highest score after a penalty for its similarity to the examples chosen before. While the share of refusals in the
    bank is below the minimum, the next example must be a refusal, if one is left. The shortest refusals are pinned; the
    setting `pinned` of [examples] is their number.
    """
    # Two rows can have the same query, and a bank has one example for each query.
    usable = list({answer.row.query: answer for answer in answers if _is_usable(answer, table.words)}.values())
    if not usable:
        return ()
    vectors = embedder.embed([answer.row.query for answer in usable])
    readable = vectors.any(axis=1)  # the vector of a query in an unknown script is zero, and no bank can hold it
    usable, vectors = [usable[index] for index in np.flatnonzero(readable)], vectors[readable]
    chosen: list[int] = []
    while len(chosen) < min(table.size, len(usable)):
        left = [index for index in range(len(usable)) if index not in chosen]
        eligible = _eligible(usable, chosen, left)
        chosen.append(max(eligible, key=lambda index: _marginal_relevance(usable, vectors, chosen, index)))
    refusals = sorted((usable[index] for index in chosen if usable[index].refused), key=lambda one: len(one.text))
    pinned = {refusal.row.query for refusal in refusals[: table.pinned]}
    return tuple(_as_example(usable[index], pinned) for index in chosen)


def _eligible(usable: Sequence[JudgedAnswer], chosen: Sequence[int], left: Sequence[int]) -> Sequence[int]:
    """Return the answers that may be chosen next. The argument `left` holds the answers that are not chosen yet.

    While the bank has too few refusals, and a refusal is left, only refusals may be chosen. Otherwise every answer of
    `left` may be chosen.
    """
    refusals = [index for index in left if usable[index].refused]
    chosen_refusals = sum(usable[index].refused for index in chosen)
    return refusals if refusals and chosen_refusals < _REFUSAL_SHARE * (len(chosen) + 1) else left


def _marginal_relevance(usable: Sequence[JudgedAnswer], vectors: Vectors, chosen: Sequence[int], index: int) -> float:
    similarity = float(np.max(vectors[list(chosen)] @ vectors[index])) if chosen else 0.0
    return usable[index].judgement.mean / MAX_SCORE - _SIMILARITY_PENALTY * similarity


def _is_usable(answer: JudgedAnswer, max_words: int) -> bool:
    """Whether the answer can be an example.

    The answer must not be empty or too long. If its row asks for a refusal, the answer must refuse. There must be no
    turns before the query, and a bundle must accept the example.
    """
    if not answer.text or len(answer.text.split()) > max_words or answer.row.history:
        return False
    if answer.row.kind == REFUSE and not answer.refused:
        return False
    return not example_fault(_as_example(answer, set()))


async def _can_be_example(row: Row, gate: CandidateGate) -> bool:
    """Whether the query of a row can be the query of an example. If not, journal the reason."""
    if row.history:
        await gate.drop("example", row.name, "an example has no turns before its query")
        return False
    return await gate.admits_example(_make_example(row, "An answer."))


def _as_example(answer: JudgedAnswer, pinned: set[str]) -> Example:
    tags = ("refusal",) if answer.refused else ()
    return replace(_make_example(answer.row, answer.text), pinned=answer.row.query in pinned, tags=tags)


def _make_example(row: Row, response: str) -> Example:
    return Example(_example_id(row), row.query, response)


def _example_id(row: Row) -> str:
    return hashlib.sha256(row.query.encode()).hexdigest()[:12]
