"""Stage 1: writes a new bank. It improves given answers, or answers of the task model.

A beam search improves the answer to each query. In every round the writer model rewrites the best answers so far, or
the latest ones (the setting `follow` of [examples]), and the judge scores the rewrites by the criteria that it chose
for the query. The search ends after a number of rounds (the setting `rounds`), or when the best answer has almost the
highest score on every criterion.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from index.rendering import without_frame
from optimizer.core.candidate import Candidate, make_bank
from optimizer.core.concurrency import gather_or_cancel
from optimizer.core.config_tables import LATEST, REFERENCE, ExamplesTable
from optimizer.core.errors import ModelError
from optimizer.data.dataset import Row
from optimizer.data.split import SEEDS, TRAIN, Split
from optimizer.rewards.criteria import Criterion
from optimizer.rewards.judge_replies import MAX_SCORE
from optimizer.stages.bank_choice import JudgedAnswer, choose_bank, example_id, is_too_long, make_example
from optimizer.stages.candidate_gate import CandidateGate
from optimizer.stages.run_context import BestCandidate, RunContext
from optimizer.stages.writer_protocol import read_answers, rewrite_answer_request

_PERFECT_SCORE: Final = MAX_SCORE - 0.05


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
    part, rows = example_rows(context.data, table)
    rows = [row for row in rows if await _can_be_example(row, context.gate)][: table.queries]
    await context.journal.note("stage", stage="examples", rows=len(rows))
    search = AnswerSearch(context, table, part)
    answers = [one for one in await search.best_answers(best.candidate, rows) if await _is_admitted(one, context.gate)]
    examples = choose_bank(answers, context.embedder, table)
    await context.journal.note("bank", size=len(examples), pinned=sum(example.pinned for example in examples))
    if examples:
        bank = await asyncio.to_thread(make_bank, examples, context.embedder)
        candidate = best.candidate.with_bank(bank)
        best.candidate = candidate if await context.gate.admits(candidate, "bank") else best.candidate


def example_rows(data: Split, table: ExamplesTable) -> tuple[str, Sequence[Row]]:
    """Return the rows that may become examples, and the name of their part of the data.

    These are the seeds, if there are any, or else the training rows. If `table.first` is `reference`, the training rows
    that have a reference come first.
    """
    if data.seeds:
        return SEEDS, data.seeds
    if table.first == REFERENCE:
        return TRAIN, sorted(data.train, key=lambda row: row.reference is None)
    return TRAIN, data.train


class AnswerSearch:
    """Improves answers by a beam search, for each query separately."""

    def __init__(self, context: RunContext, table: ExamplesTable, part: str) -> None:
        """Create the search.

        Args:
            context: What the stages of the run share.
            table: The table [examples].
            part: The name of the part of the data that the rows belong to.
        """
        self._task = context.task
        self._judge = context.example_judge
        self._calls = context.calls
        self._journal = context.journal
        self._unusable = context.unusable[part]
        self._gate = context.gate
        self._table = table

    async def best_answers(self, start: Candidate, rows: Sequence[Row]) -> list[JudgedAnswer]:
        """Return the best answer found for each row. Rows that cannot be answered or judged are left out.

        The search for a row begins with the answer that the task model gives under the candidate `start`, or with the
        row's reference.

        Raises:
            UnusableRowsError: Too many rows cannot be used.
            ModelError: A model gave no usable answer, but a later call may succeed.
            BudgetSpentError: The budget is spent.
            JournalError: The journal cannot be written.
        """
        answers = await gather_or_cancel(self._search(start, row) for row in rows)
        return [answer for answer in answers if answer is not None]

    async def _search(self, start: Candidate, row: Row) -> JudgedAnswer | None:
        first = await self._unusable.attempt(row, self._first_answer(start, row))
        if first is None:
            return None
        answer, criteria = first
        beam = latest = [answer]
        rewrite_counts: Counter[str] = Counter()
        for number in range(self._table.rounds):
            if min(beam[0].judgement.scores.values()) >= _PERFECT_SCORE:
                break
            texts = await self._rewrite_beam(latest if self._table.follow == LATEST else beam, rewrite_counts)
            if not texts and not self._table.writer.temperature:
                break  # the writer model would write the same again
            judged = await gather_or_cancel(self._judge_rewrite(row, text, criteria) for text in texts)
            new = [one for one in judged if one is not None]
            # If answers have equal scores, the newer answer comes first, because the older one was already rewritten.
            ranked = sorted([*new, *beam], key=lambda answer: -answer.judgement.mean)
            await self._journal_round(row, number, ranked[0])
            beam = ranked[: self._table.beam]
            latest = sorted(new, key=lambda answer: -answer.judgement.mean)[: self._table.beam] or latest
        return beam[0]

    async def _first_answer(self, start: Candidate, row: Row) -> tuple[JudgedAnswer, Sequence[Criterion]]:
        criteria = await self._judge.criteria(row.query)
        if self._table.first == REFERENCE and row.reference is not None:
            text = without_frame(row.reference)
        else:
            text = (await self._task.answer(start, row)).text
        return await self._judge_answer(row, text.strip(), criteria), criteria

    async def _judge_answer(self, row: Row, text: str, criteria: Sequence[Criterion]) -> JudgedAnswer:
        return JudgedAnswer(row, text, await self._judge.rate_by(row.query, text, criteria))

    async def _judge_rewrite(self, row: Row, text: str, criteria: Sequence[Criterion]) -> JudgedAnswer | None:
        """Judge a rewritten answer. Return None if the judge cannot judge it."""
        try:
            return await self._judge_answer(row, text, criteria)
        except ModelError as error:
            await self._gate.drop_failed("example", example_id(row), error)
            return None

    async def _rewrite_beam(self, beam: Sequence[JudgedAnswer], rewrite_counts: Counter[str]) -> list[str]:
        """Rewrite every answer of the beam. Return the new texts, without duplicates and without texts of the beam."""
        replicates = [rewrite_counts[answer.text] for answer in beam]
        groups = await gather_or_cancel(map(self._rewrite, beam, replicates))
        rewrite_counts.update(answer.text for answer in beam)
        known = {answer.text for answer in beam}
        return [text for text in dict.fromkeys(text for group in groups for text in group) if text not in known]

    async def _rewrite(self, answer: JudgedAnswer, replicate: int) -> list[str]:
        words = self._table.words
        source = f"{example_id(answer.row)}/{replicate}"
        try:
            request = replace(rewrite_answer_request(answer, self._table), replicate=replicate)
            kept = await self._calls.ask(request, read_answers)
        except ModelError as error:
            await self._gate.drop_failed("example", source, error, self._table.actions)
            return []
        await self._gate.drop_each("example", source, kept["dropped"])
        short = [text for text in kept["answers"] if not is_too_long(text, words)]
        await self._gate.drop("example", source, f"more than {words} words", len(kept["answers"]) - len(short))
        return [text for text in short if await self._gate.admits_example(make_example(answer.row, text))]

    async def _journal_round(self, row: Row, number: int, best: JudgedAnswer) -> None:
        scores = dict(best.judgement.scores)
        await self._journal.note("answer", query=row.query, round=number, answer=best.text, scores=scores)


async def _is_admitted(answer: JudgedAnswer, gate: CandidateGate) -> bool:
    """Whether an answer may become an example. If not, journal the reason. Rewritten answers have passed before."""
    return await gate.admits_example(make_example(answer.row, answer.text))


async def _can_be_example(row: Row, gate: CandidateGate) -> bool:
    """Whether the query of a row can be the query of an example. If not, journal the reason."""
    if row.history:
        await gate.drop("example", row.name, "the row has turns before its query, which an example cannot have")
        return False
    return await gate.admits_example(make_example(row, "An answer."))
