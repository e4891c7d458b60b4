"""Stage 1: the bank. Answers of the task model are searched for better ones, judged and rewritten; then the examples
that serve best together are chosen. Knows answers and their verdicts; nothing of how they are shown.

The search is a beam over answers to one query: each of W answers is rewritten M times, for up to D rounds, under the
criteria chosen for the query; it ends when no criterion can improve.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from index.bundle.example_bank import check_example
from index.embedders.base import Embedder
from index.errors import DrpoError
from index.types import Example, Vectors
from optimizer.core.candidate import Candidate
from optimizer.core.config import ExamplesTable
from optimizer.core.errors import UnparsableReplyError
from optimizer.core.journal import Journal
from optimizer.core.text_rules import refuses
from optimizer.data.dataset import REFUSE, Row
from optimizer.models.cached_calls import Calls, Json, Request
from optimizer.models.task_model import Task
from optimizer.rewards.judge import HIGHEST, Criterion, Judge, Verdict, json_reply
from optimizer.stages.prompt_stage import ROLE
from optimizer.templates import template

_PERFECT: Final = HIGHEST - 0.05
_DIVERSITY: Final = 0.5
"""How much likeness to what is chosen already costs, where the best verdict is worth 1."""
_REFUSALS: Final = 0.15
"""Share of the bank that should be refusals, as far as there are good ones."""
_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class JudgedAnswer:
    """One query with the best answer found for it."""

    row: Row
    text: str
    verdict: Verdict

    @property
    def refused(self) -> bool:
        """By the rule of optimizer.core.text_rules.refuses."""
        return refuses(self.text)


class AnswerSearch:
    """Searches for better answers."""

    def __init__(self, task: Task, judge: Judge, calls: Calls, journal: Journal, table: ExamplesTable) -> None:
        self._task = task
        self._judge = judge
        self._calls = calls
        self._journal = journal
        self._table = table

    async def improve_all(self, start: Candidate, rows: Sequence[Row]) -> list[JudgedAnswer]:
        """The best answer found for each row. Raises ModelError, BudgetSpentError, JournalError."""
        return list(await asyncio.gather(*(self._improve(start, row) for row in rows)))

    async def _improve(self, start: Candidate, row: Row) -> JudgedAnswer:
        criteria = await self._judge.criteria(row.query)
        reply = await self._task.answer(start, row)
        beam = [await self._judged(row, reply.text.strip(), criteria)]
        rewritten_before: Counter[str] = Counter()
        for number in range(self._table.rounds):
            if min(beam[0].verdict.scores.values()) >= _PERFECT:
                break
            again = [rewritten_before[answered.text] for answered in beam]
            rewritten = await asyncio.gather(*map(self._rewrite, beam, again))
            rewritten_before.update(answered.text for answered in beam)
            texts = dict.fromkeys(text for group in rewritten for text in group)
            known = {answered.text for answered in beam}
            fresh = await asyncio.gather(*(self._judged(row, text, criteria) for text in texts if text not in known))
            # Of equals the newer one: it leads on, where another rewrite of the same answer may not.
            ranked = sorted([*fresh, *beam], key=lambda answered: -answered.verdict.mean)
            await self._note(row, number, ranked[0])
            beam = ranked[: self._table.beam]
        return beam[0]

    async def _judged(self, row: Row, text: str, criteria: Sequence[Criterion]) -> JudgedAnswer:
        return JudgedAnswer(row, text, await self._judge.evaluate(row.query, text, criteria))

    async def _rewrite(self, answered: JudgedAnswer, again: int) -> list[str]:
        verdict = answered.verdict
        told = "\n".join(f"- {name}: {score:.1f}: {verdict.rationales[name]}" for name, score in verdict.scores.items())
        words, query = self._table.words, answered.row.query
        filled = template("rewrite_answer").format(query=query, answer=answered.text, judgement=told, words=words)
        messages = [{"role": "user", "content": filled}]
        body = {"messages": messages, "n": self._table.actions, "temperature": 0.7, "max_tokens": _TOKENS}
        kept = await self._calls.ask(Request(ROLE, "chat/completions", body, replicate=again), read_answers)
        return [text for text in kept["answers"] if len(text.split()) <= words]

    async def _note(self, row: Row, number: int, best: JudgedAnswer) -> None:
        scores = dict(best.verdict.scores)
        await self._journal.note("answer", query=row.query, round=number, answer=best.text, scores=scores)


def read_answers(reply: Any) -> Json:
    """The answer of each choice that can be read; at least one."""
    answers = [_answer_of(choice) for choice in reply["choices"]]
    found = [answer for answer in answers if answer]
    if not found:
        raise UnparsableReplyError("no choice holds an answer")
    return {"answers": found}


def choose_bank(answered: Sequence[JudgedAnswer], embedder: Embedder, table: ExamplesTable) -> tuple[Example, ...]:
    """The examples that serve best together: good ones, unlike each other, refusals among them, none too long.

    Greedy maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998): each next one has the best verdict less its
    likeness to those chosen. Where refusals are short of their share, the next one is a refusal.
    """
    fit = [one for one in answered if _is_fit(one, table.words)]
    if not fit:
        return ()
    vectors = embedder.embed([one.row.query for one in fit])
    chosen: list[int] = []
    while len(chosen) < min(table.size, len(fit)):
        left = [place for place in range(len(fit)) if place not in chosen]
        chosen.append(max(_wanted(fit, chosen, left), key=lambda place: _value(fit, vectors, chosen, place)))
    short = sorted((fit[place] for place in chosen if fit[place].refused), key=lambda one: len(one.text))
    pinned = {one.row.query for one in short[: table.pinned]}
    return tuple(_example(fit[place], pinned) for place in chosen)


def _wanted(fit: Sequence[JudgedAnswer], chosen: Sequence[int], left: Sequence[int]) -> Sequence[int]:
    refusals = [place for place in left if fit[place].refused]
    have = sum(fit[place].refused for place in chosen)
    return refusals if refusals and have < _REFUSALS * (len(chosen) + 1) else left


def _value(fit: Sequence[JudgedAnswer], vectors: Vectors, chosen: Sequence[int], place: int) -> float:
    likeness = float(np.max(vectors[list(chosen)] @ vectors[place])) if chosen else 0.0
    return fit[place].verdict.mean / HIGHEST - _DIVERSITY * likeness


def _is_fit(one: JudgedAnswer, words: int) -> bool:
    """Short enough, right about refusing, and accepted by a bundle."""
    if not one.text or len(one.text.split()) > words or one.row.history:
        return False
    if one.row.kind == REFUSE and not one.refused:
        return False
    try:
        check_example(_example(one, set()), "answer")
    except DrpoError:
        return False
    return True


def _example(one: JudgedAnswer, pinned: set[str]) -> Example:
    name = hashlib.sha256(one.row.query.encode()).hexdigest()[:12]
    tags = ("refusal",) if one.refused else ()
    return Example(name, one.row.query, one.text, one.row.query in pinned, tags)


def _answer_of(choice: Mapping[str, Any]) -> str:
    try:
        return str(json_reply(choice["message"]["content"])["answer"]).strip()
    except (DrpoError, KeyError):
        return ""
