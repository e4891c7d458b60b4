"""Stage 2: searches for a better system prompt. This module defines how a prompt is rewritten and how it is scored.

It does not depend on how a search chooses the candidates to rewrite: optimizer.search makes this choice.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from optimizer.core.candidate import Candidate
from optimizer.core.config_tables import DRPO, RACED, RunConfig
from optimizer.core.errors import ModelError, UnparsableReplyError
from optimizer.core.journal import SET_PROMPTS, Journal
from optimizer.data.dataset import Row
from optimizer.data.split import TRAIN
from optimizer.models.cached_calls import CachedCalls
from optimizer.models.reply_text import answer_text, find_object, text_field
from optimizer.models.request import Json, Request, reply_reader
from optimizer.rewards.scorer import ScoredReply
from optimizer.search.levels import Level, RacedSettings
from optimizer.search.published import PublishedSettings, search_published
from optimizer.search.race import RaceSettings
from optimizer.search.raced import search_raced
from optimizer.search.space import Outcome, Path
from optimizer.stages.candidate_gate import CandidateGate, PromptGate
from optimizer.stages.prompt_edits import edits
from optimizer.stages.run_context import BestCandidate, RunContext
from optimizer.stages.scored_rows import ScoredRows
from optimizer.templates import template

ROLE: Final = "optimizer"
_MAX_EARLIER_VERSIONS: Final = 4
_MAX_CASES: Final = 3
_MAX_REPLY_TOKENS: Final = 2048
_MAX_CASE_CHARACTERS: Final = 1500
_MISSING: Final = frozenset(("null", "none", "nil", "n/a", "undefined"))


@dataclass(frozen=True, slots=True)
class ScoreScale:
    """The range of the scores that a search works with. The recipe `drpo` uses 1 to 5, as the DRPO paper does."""

    low: float = 0.0
    high: float = 1.0

    def convert(self, score: float) -> float:
        """Map a score from 0 to 1 to this range."""
        return self.low + score * (self.high - self.low)


async def run_prompt_stage(context: RunContext, best: BestCandidate) -> None:
    """Search for a better prompt with the recipe that [search] names, and store the best candidate in `best`.

    A new prompt replaces the prompt of the bundle and all prompts of example sets. The first candidate keeps them.

    The stage journals one `stage` event, one `candidate` event per prompt, and one `score` event per answer. With the
    recipe `raced`, it also journals one `level` event per level. If example sets have prompts of their own, it journals
    one `set_prompts` event.

    Raises:
        ModelError: A model gives no usable answer.
        BudgetSpentError: The budget is spent.
        JournalError: The journal cannot be written.
    """
    first, rows = best.candidate, context.data.train
    await context.journal.note("stage", stage="prompt", rows=len(rows))
    if names := [one.name for one in first.bank.sets if one.prompt is not None]:
        await context.journal.note(SET_PROMPTS, sets=names)
    await context.journal.note("candidate", id=first.key, parent=None, prompt=first.prompt)
    if context.config.search.recipe == DRPO:
        space = _prompt_space(context, ScoreScale(1.0, 5.0))
        path = await search_published(space, first, len(rows), published_settings(context.config))
        best.candidate = path[-1].candidate
        return

    async def keep_leader(level: Level[Candidate]) -> None:
        await _journal_level(context.journal, level)
        best.candidate = level.ranked[0].candidate

    space = _prompt_space(context, ScoreScale())
    last, _ = await search_raced(space, first, len(rows), raced_settings(context.config), keep_leader)
    best.candidate = last.candidate


def published_settings(config: RunConfig) -> PublishedSettings:
    """Return the settings of [search] for the recipe `drpo`."""
    search = config.search
    return PublishedSettings(search.beam, search.actions, search.depth)


def raced_settings(config: RunConfig) -> RacedSettings:
    """Return the settings of [search] for the recipe `raced`."""
    search = config.search
    race = RaceSettings(search.alpha, search.indifference, search.first, search.block, search.queries)
    return RacedSettings(search.beam, search.actions, search.depth, search.patience, race)


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

        If the row cannot be used, the outcome is not readable, and no score is journaled.
        """
        row = self._rows.rows[query % len(self._rows.rows)]
        scored = await self._rows.score(candidate.key, candidate, row)
        if scored is None:
            return Outcome(query, 0.0, readable=False)
        return Outcome(query, self._scale.convert(scored.score), evidence=(row, scored))


class PromptRewriter:
    """Rewrites prompts with the writer model, or with random edits if run.toml has no [models.optimizer]."""

    def __init__(self, calls: CachedCalls, gate: CandidateGate, seed: int, max_words: int) -> None:
        self._calls = calls
        self._gate = gate
        self._seed = seed
        self._max_words = max_words

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
            return edits(parent.prompt, count, f"{self._seed}:{again}", self._max_words)
        request = replace(rewrite_request(path, count, self._max_words), replicate=again)
        source = f"{parent.key}/{again}"
        try:
            kept = await self._calls.ask(request, read_prompts)
        except ModelError as error:
            await self._gate.drop_failed("prompt", source, error, count)
            return []
        await self._gate.drop_each("prompt", source, kept["dropped"])
        return list(dict.fromkeys(kept["prompts"]))


def rewrite_request(path: Path[Candidate], count: int, max_words: int) -> Request:
    """Return the request that asks the writer model for rewrites of the path's last prompt.

    The request contains at most three answers: those with the lowest scores under this prompt, each with its score and
    the details of the rewards. It also contains at most four earlier prompts of the path.
    """
    last = path[-1]
    readable = [outcome for outcome in last.outcomes if outcome.readable]
    worst = sorted(readable, key=lambda outcome: outcome.score)[:_MAX_CASES]
    cases = "\n\n".join(map(_case_text, worst)) or "(none yet)"
    earlier = "\n\n".join(
        f"--- version {number}{_mean_text(step.outcomes)} ---\n{step.candidate.prompt}"
        for number, step in enumerate(path[-_MAX_EARLIER_VERSIONS - 1 : -1], start=1)
    )
    prompt = template("rewrite_prompt").format(
        prompt=last.candidate.prompt, cases=cases, earlier=earlier or "(none)", words=max_words
    )
    body = {"messages": [{"role": "user", "content": prompt}], "n": count, "temperature": 0.7, "top_p": 0.95}
    return Request(ROLE, "chat/completions", {**body, "max_tokens": _MAX_REPLY_TOKENS})


@reply_reader("optimizer.prompt.read_prompts")
def read_prompts(reply: Any) -> Json:
    """Read the rewritten prompt of each choice, and the reason for each choice that holds no prompt.

    Raises:
        UnparsableReplyError: No choice holds a prompt.
    """
    prompts, dropped = read_choices(reply, "prompt")
    return {"prompts": prompts, "dropped": dropped}


def read_choices(reply: Any, name: str) -> tuple[list[str], list[str]]:
    """Read a text from the JSON object in each choice of the writer model.

    Args:
        reply: The reply.
        name: The key of the text in the object.

    Returns:
        The texts, and the reason for each choice without a text.

    Raises:
        UnparsableReplyError: No choice holds a text.
    """
    texts, dropped = [], []
    for choice in reply["choices"]:
        try:
            found = find_object(answer_text(choice), lambda value: name in value)
            text = text_field(found and found.value, name).strip()
        except UnparsableReplyError as error:
            dropped.append(str(error))
            continue
        if _says_nothing(text):
            dropped.append(f"the {name} is empty")
        else:
            texts.append(text)
    if not texts:
        raise UnparsableReplyError(f"no choice holds a text under the key {name}: {', '.join(dict.fromkeys(dropped))}")
    return texts, dropped


def _says_nothing(text: str) -> bool:
    """Whether a text has no letter or digit, such as the dots of a template, or is a word for a missing value."""
    return text.lower().strip(".") in _MISSING or not any(map(str.isalnum, text))


def _prompt_space(context: RunContext, scale: ScoreScale) -> PromptSpace:
    search = context.config.search
    rewriter = PromptRewriter(context.calls, context.gate, search.seed, search.words)
    # A race scores every candidate on its first rows. The recipe drpo has a fixed order of calls without a trial.
    trial_rows = context.data.train[: search.first] if search.recipe == RACED else ()
    gate = PromptGate(context.gate, context.task, search.words, trial_rows)
    return PromptSpace(context.scored_rows("prompt", TRAIN), gate, rewriter, scale)


async def _journal_level(journal: Journal, level: Level[Candidate]) -> None:
    ranked = [
        {"id": step.candidate.key, "scores": [round(outcome.score, 6) for outcome in step.outcomes]}
        for step in level.ranked
    ]
    await journal.note("level", stage="prompt", number=level.number, ranked=ranked, kept=level.kept)


def _case_text(outcome: Outcome) -> str:
    row, scored = cast("tuple[Row, ScoredReply]", outcome.evidence)  # PromptSpace.score stores this pair
    reasons = "\n".join(f"  {name}: {_details_text(part.details)}" for name, part in scored.parts.items())
    answer = scored.reply.text[:_MAX_CASE_CHARACTERS]
    return f"Query: {row.query[:_MAX_CASE_CHARACTERS]}\nAnswer: {answer}\nScore: {scored.score:.2f}\n{reasons}"


def _details_text(details: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{name} {value['score']:.1f} ({value['why']})" if isinstance(value, dict) else f"{name} {value:.2f}"
        for name, value in details.items()
    )


def _mean_text(outcomes: Sequence[Outcome]) -> str:
    scores = [outcome.score for outcome in outcomes if outcome.readable]
    return f" (mean score {sum(scores) / len(scores):.2f})" if scores else ""
