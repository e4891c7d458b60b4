"""Stage 2: searches for a better system prompt. This module defines how a prompt is rewritten and how it is scored.

It does not depend on how a search chooses the candidates to rewrite: optimizer.search makes this choice.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import orjson

from optimizer.core.candidate import Candidate
from optimizer.core.config_checks import MIN_ROWS
from optimizer.core.config_tables import PUBLISHED, RACED, RunConfig, SearchTable
from optimizer.core.errors import ModelError
from optimizer.core.journal import SET_PROMPTS, Journal
from optimizer.core.reward_table import ZERO
from optimizer.data.dataset import Row
from optimizer.data.split import TRAIN
from optimizer.models.cached_calls import CachedCalls
from optimizer.models.request import Request
from optimizer.search.levels import Level, RacedSettings
from optimizer.search.published import PublishedSettings, search_published
from optimizer.search.race import RaceSettings
from optimizer.search.raced import search_raced
from optimizer.search.space import Outcome, Path
from optimizer.stages.candidate_gate import CandidateGate, PromptGate
from optimizer.stages.prompt_edits import edits
from optimizer.stages.run_context import BestCandidate, RunContext
from optimizer.stages.scored_rows import ScoredRows
from optimizer.stages.writer_protocol import ROLE, read_prompts, rewrite_request


@dataclass(frozen=True, slots=True)
class ScoreScale:
    """The range of the scores that a search works with."""

    low: float = 0.0
    high: float = 1.0

    def convert(self, score: float) -> float:
        """Map a score from 0 to 1 to this range."""
        return self.low + score * (self.high - self.low)


async def run_prompt_stage(context: RunContext, best: BestCandidate) -> None:
    """Search for a better prompt with the algorithm of [search], and store the best candidate in `best`.

    A new prompt replaces the prompt of the bundle and all prompts of example sets. The first candidate keeps them.

    The stage journals one `stage` event, one `candidate` event per prompt, and one `score` event per answer. With the
    algorithm `raced`, it also journals one `level` event per level. If example sets have prompts of their own, it
    journals one `set_prompts` event.

    Raises:
        ModelError: A model gives no usable answer.
        BudgetSpentError: The budget is spent.
        JournalError: The journal cannot be written.
    """
    search, served = context.config.search, best.candidate.retrieval
    first = best.candidate.with_nearest(served.k if search.k is None else search.k)
    rows = search_rows(context.data.train, first, search)
    await context.journal.note("stage", stage="prompt", rows=len(rows))
    if names := [one.name for one in first.bank.sets if one.prompt is not None]:
        await context.journal.note(SET_PROMPTS, sets=names)
    await context.journal.note("candidate", id=first.key, parent=None, prompt=first.prompt)

    async def keep_last(path: Path[Candidate]) -> None:
        best.candidate = path[-1].candidate.with_nearest(served.k)

    async def keep_leader(level: Level[Candidate]) -> None:
        await _journal_level(context.journal, level)
        await keep_last(level.ranked[:1])

    space = _prompt_space(context, rows)
    if search.algorithm == PUBLISHED:
        await search_published(space, first, len(rows), published_settings(context.config), keep_last)
    else:
        await search_raced(space, first, len(rows), raced_settings(context.config), keep_leader)


def search_rows(rows: Sequence[Row], first: Candidate, search: SearchTable) -> Sequence[Row]:
    """Return the training rows that a search uses.

    The published algorithm leaves out the rows whose queries are examples, if enough other rows are left. If the
    nearest example has the same query, every prompt leads to a good answer.
    """
    known = {example.query for example in first.bank.examples}
    others = [row for row in rows if row.query not in known]
    return others if len(others) >= MIN_ROWS and search.algorithm == PUBLISHED else rows


def published_settings(config: RunConfig) -> PublishedSettings:
    """Return the settings of [search] for the published algorithm."""
    search = config.search
    counts_unreadable = config.reward.unreadable == ZERO
    return PublishedSettings(
        search.beam, search.actions, search.depth, search.deeper, search.keep_above, counts_unreadable
    )


def raced_settings(config: RunConfig) -> RacedSettings:
    """Return the settings of [search] for the algorithm `raced`."""
    search = config.search
    race = RaceSettings(search.alpha, search.indifference, search.first, search.block, search.queries)
    return RacedSettings(search.beam, search.actions, search.depth, search.patience, race)


def score_scale(search: SearchTable) -> ScoreScale:
    """Return the range of the scores of the algorithm of [search]. The published algorithm uses 1 to 5."""
    return ScoreScale(1.0, 5.0) if search.algorithm == PUBLISHED else ScoreScale()


class PromptSpace:
    """A search space whose candidates differ only in their prompts. A query is the index of a row."""

    def __init__(self, rows: ScoredRows, gate: PromptGate, rewriter: "PromptRewriter", scale: ScoreScale) -> None:
        self._rows = rows
        self._gate = gate
        self._rewriter = rewriter
        self._scale = scale

    def key(self, candidate: Candidate) -> str:
        """Return the key of the candidate."""
        return candidate.key

    async def expand(self, path: Path[Candidate], count: int, again: int) -> Sequence[Candidate]:
        """Rewrite the last prompt of the path. Return a candidate for each usable rewrite, and journal the candidates.

        A rewrite that the gate does not admit is dropped.
        """
        parent = path[-1].candidate
        children = [parent.with_prompt(prompt) for prompt in await self._rewriter.rewrite(path, count, again)]
        admitted = await asyncio.gather(*(self._gate.admits(child, parent) for child in children))
        usable = [child for child, is_admitted in zip(children, admitted, strict=True) if is_admitted]
        for child in usable:
            await self._rows.journal.note("candidate", id=child.key, parent=parent.key, prompt=child.prompt)
        return usable

    async def score(self, candidate: Candidate, query: int) -> Outcome:
        """Answer one row under the candidate, score the answer and journal the score.

        If the row cannot be used, the outcome is not readable, and no score is journaled. If only the judge's verdict
        cannot be read, and counts as 0, the outcome is not readable either, but the score 0 is journaled.
        """
        row = self._rows.rows[query % len(self._rows.rows)]
        scored = await self._rows.score(candidate.key, candidate, row)
        if scored is None:
            return Outcome(query, 0.0, readable=False)
        if not scored.is_readable:
            return Outcome(query, 0.0, evidence=(row, scored), readable=False)
        return Outcome(query, self._scale.convert(scored.score), evidence=(row, scored))


class PromptRewriter:
    """Rewrites prompts with the writer model, or with random edits if run.toml has no [models.optimizer]."""

    def __init__(self, calls: CachedCalls, gate: CandidateGate, table: SearchTable) -> None:
        self._calls = calls
        self._gate = gate
        self._table = table
        self._asked: Counter[bytes] = Counter()

    async def rewrite(self, path: Path[Candidate], count: int, again: int) -> list[str]:
        """Return rewrites of the path's last prompt. The list is empty if the writer model gives no usable reply.

        Args:
            path: The steps from the first candidate of the search to the candidate to rewrite.
            count: Maximum number of rewrites.
            again: How often this candidate was rewritten before. Each number gives different rewrites.

        Raises:
            ModelError: The writer model gives no usable answer, but may do so later.
            BudgetSpentError: The budget is spent.
        """
        parent = path[-1].candidate
        if ROLE not in self._calls.roles:
            return edits(parent.prompt, count, f"{self._table.seed}:{again}", self._table.words)
        request = rewrite_request(path, self._table)
        again += self._times_asked(request)
        source = f"{parent.key}/{again}"
        try:
            kept = await self._calls.ask(replace(request, replicate=again), read_prompts)
        except ModelError as error:
            await self._gate.drop_failed("prompt", source, error, count)
            return []
        await self._gate.drop_each("prompt", source, kept["dropped"])
        prompts: list[str] = kept["prompts"]
        return prompts if self._table.resample else list(dict.fromkeys(prompts))

    def _times_asked(self, request: Request) -> int:
        """Return how often the search has asked for these rewrites before, if they are to be sampled anew; else 0.

        A resumed run repeats the search in the same order, so that it counts the same.
        """
        if not self._table.resample:
            return 0
        key = orjson.dumps(request.body)
        self._asked[key] += 1
        return self._asked[key] - 1


def _prompt_space(context: RunContext, rows: Sequence[Row]) -> PromptSpace:
    search = context.config.search
    rewriter = PromptRewriter(context.calls, context.gate, search)
    # A race scores every candidate on its first rows. The published algorithm has a fixed order of calls without a
    # trial.
    trial_rows = rows[: search.first] if search.algorithm == RACED else ()
    gate = PromptGate(context.gate, context.task, search.words, trial_rows)
    scored_rows = replace(context.scored_rows("prompt", TRAIN), rows=rows)
    return PromptSpace(scored_rows, gate, rewriter, score_scale(search))


async def _journal_level(journal: Journal, level: Level[Candidate]) -> None:
    ranked = [
        {"id": step.candidate.key, "scores": [round(outcome.score, 6) for outcome in step.outcomes]}
        for step in level.ranked
    ]
    await journal.note("level", stage="prompt", number=level.number, ranked=ranked, kept=level.kept)
