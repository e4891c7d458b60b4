"""Stage 2: searches for a better candidate. This module opens the search space and runs the algorithm of [search].

optimizer.search chooses the candidates to expand and to compare. The proposers (optimizer.stages.proposers) make new
candidates.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from index.types import Example
from optimizer.core.budget import Limits
from optimizer.core.candidate import COMPLETION, Candidate
from optimizer.core.config_checks import MIN_ROWS
from optimizer.core.config_tables import PROPORTIONAL, PROPOSERS, PUBLISHED, RACED, RunConfig, SearchTable
from optimizer.core.journal import RACE_LENGTH, SET_PROMPTS, Journal
from optimizer.core.reward_table import ZERO
from optimizer.data.dataset import Row
from optimizer.data.split import TRAIN
from optimizer.data.taste import learn_taste
from optimizer.models.task_model import ROLE as TASK
from optimizer.rewards.registry import calls_per_score
from optimizer.search.allocation import Allocation
from optimizer.search.levels import Level, RacedSettings
from optimizer.search.published import PublishedSettings, search_published
from optimizer.search.race import RaceSettings
from optimizer.search.race_length import ScoreCost, allowed_scores, within_allowance
from optimizer.search.raced import search_raced
from optimizer.search.space import Path
from optimizer.stages.candidate_gate import PromptGate
from optimizer.stages.candidate_space import CandidateSpace, ScoreScale
from optimizer.stages.preferences.pool_choice import preferred_examples
from optimizer.stages.preferences.stated import stated_preferences
from optimizer.stages.proposers.base import EDITS, EXAMPLES, RETRIEVAL, SAMPLING, WRITER, Proposer
from optimizer.stages.proposers.example_pool import embed_pool, read_pool
from optimizer.stages.proposers.examples import ExampleProposer
from optimizer.stages.proposers.novelty import KnownCandidates
from optimizer.stages.proposers.own_answers import OwnAnswers
from optimizer.stages.proposers.prompts import EditProposer, WriterProposer
from optimizer.stages.proposers.settings import SettingsProposer, retrieval_settings, sampling_settings
from optimizer.stages.run_context import BestCandidate, RunContext
from optimizer.stages.writer_protocol import ROLE

MAX_TOKENS: Final = "max_tokens"
MAX_QUERIES: Final = 120
PROMPT_STAGE: Final = "prompt"


async def run_prompt_stage(context: RunContext, best: BestCandidate) -> None:
    """Search for a better candidate with the algorithm of [search], and store the best candidate in `best`.

    With the algorithm `raced`, several proposers change prompt, bank, retrieval and sampling. A new prompt replaces the
    prompt of the bundle and all prompts of example sets. The first candidate keeps all its prompts.

    The stage journals one `stage` event, one `candidate` event per candidate, and one `score` event per answer. With
    the algorithm `raced`, it also journals one `level` event per level. If example sets have prompts of their own, it
    journals one `set_prompts` event.

    Raises:
        ModelError: A model gives no usable answer.
        BudgetSpentError: The budget is spent.
        JournalError: The journal cannot be written.
    """
    search, served = context.config.search, best.candidate
    first = as_searched(served, search)
    rows = search_rows(context.data.train, first, search)
    await context.journal.note("stage", stage=PROMPT_STAGE, rows=len(rows))
    if names := [one.name for one in first.bank.sets if one.prompt is not None]:
        await context.journal.note(SET_PROMPTS, sets=names)
    await context.journal.note("candidate", id=first.key, parent=None, prompt=first.prompt)
    space = await _open_space(context, rows, first)

    async def keep(candidate: Candidate) -> None:
        best.candidate = as_served(candidate, served, search)

    async def keep_last(path: Path[Candidate]) -> None:
        await keep(path[-1].candidate)

    async def keep_leader(level: Level[Candidate]) -> None:
        won = space.note_level(level)
        await _journal_level(context.journal, level, space.allocation, won)
        await keep(level.best)

    if search.algorithm == PUBLISHED:
        await search_published(space, first, len(rows), published_settings(context.config), keep_last)
    else:
        settings = await _within_budget(context, space, first)
        # The first new candidates are made from failures on the first rows, so the first race begins after these rows.
        await search_raced(space, first, len(rows), settings, keep_leader, keep, space.first_rows % len(rows))


def as_searched(candidate: Candidate, search: SearchTable) -> Candidate:
    """Return the candidate with the settings that hold in the search alone: `k` and `max_tokens` of [search]."""
    if search.k is not None:
        candidate = candidate.with_nearest(search.k)
    if search.max_tokens is not None:
        candidate = replace(candidate, sampling={**candidate.sampling, MAX_TOKENS: search.max_tokens})
    return candidate


def as_served(found: Candidate, first: Candidate, search: SearchTable) -> Candidate:
    """Return a candidate of the search as it is served: with the `k` and the `max_tokens` of the first candidate.

    A value of `k` that the search itself has found is kept.
    """
    has_search_k = found.retrieval.k == search.k and found.retrieval.policy == first.retrieval.policy
    if has_search_k:
        found = found.with_nearest(first.retrieval.k)
    if search.max_tokens is None:
        return found
    others = {name: value for name, value in found.sampling.items() if name != MAX_TOKENS}
    kept = {MAX_TOKENS: first.sampling[MAX_TOKENS]} if MAX_TOKENS in first.sampling else {}
    return replace(found, sampling={**others, **kept})


def proposer_names(config: RunConfig) -> Sequence[str]:
    """Return the names of the proposers of a run. The algorithm `published` has only the writer model."""
    search = config.search
    if search.algorithm == PUBLISHED:
        return [WRITER]
    applies = {WRITER: ROLE in config.models, SAMPLING: config.models[TASK].kind == COMPLETION}
    return search.propose or [name for name in PROPOSERS if applies.get(name, True)]


def search_rows(rows: Sequence[Row], first: Candidate, search: SearchTable) -> Sequence[Row]:
    """Return the training rows that a search uses, in the order in which it uses them.

    For the algorithm `raced`, the kinds of rows are mixed (`mixed_by_kind`). The published algorithm leaves out rows
    with the query of an example, if enough other rows are left. On such a row, every prompt leads to a good answer,
    because the request contains the example.
    """
    known = {example.query for example in first.bank.examples}
    others = [row for row in rows if row.query not in known]
    if search.algorithm == PUBLISHED:
        return others if len(others) >= MIN_ROWS else rows
    return mixed_by_kind(rows, search.kinds)


def mixed_by_kind(rows: Sequence[Row], mix: str) -> Sequence[Row]:
    """Return the rows in an order that mixes their kinds as the setting `kinds` of [search] says.

    A race compares candidates on the first rows. Without this order, chance decides how many of them ask for a refusal.
    """
    counts = Counter(row.kind for row in rows)
    seen: Counter[str] = Counter()
    positions = []
    for number, row in enumerate(rows):
        seen[row.kind] += 1
        share = counts[row.kind] if mix == PROPORTIONAL else len(rows)
        positions.append(((seen[row.kind] - 0.5) / share, number))
    return [rows[number] for _, number in sorted(positions)]


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
    queries = MAX_QUERIES if search.queries is None else search.queries
    race = RaceSettings(search.alpha, search.indifference, search.first, search.block, queries)
    return RacedSettings(search.beam, search.actions, search.depth, search.patience, race)


async def _within_budget(context: RunContext, space: CandidateSpace, first: Candidate) -> RacedSettings:
    """Return the settings of the search. If run.toml does not set `queries`, the races are as long as [budget] allows.

    The cost of a score is measured on the first rows, which the first candidate answers anyway before it is expanded. A
    resumed run takes the length of the races from the journal, so that it repeats the same races.
    """
    settings, journal = raced_settings(context.config), context.journal
    if context.config.search.queries is not None or context.budget.limits == Limits():
        return settings
    noted = next((event for event in journal.events if event.get("note") == RACE_LENGTH), None)
    if noted is not None:
        return replace(settings, race=replace(settings.race, max_queries=noted["queries"]))
    count = len(await space.score_first(first))
    allowance = allowed_scores(context.budget.left, _score_cost(context, count))
    settings = within_allowance(settings, allowance)
    if allowance.is_limited:
        scores, queries = int(allowance.scores), settings.race.max_queries
        await journal.note(RACE_LENGTH, limit=allowance.limit, scores=scores, queries=queries)
    return settings


def _score_cost(context: RunContext, count: int) -> ScoreCost:
    """Return the mean cost of a score, from the calls for the first `count` scores of this stage.

    Some of these replies may come from the journal. A score counts as at least the calls that its rewards always make.
    """
    events, table = context.journal.events, context.config.reward
    begin = next(number for number, event in enumerate(events) if event.get("stage") == PROMPT_STAGE)
    replies = [event for event in events[begin:] if event.get("call") == "reply"]
    least = calls_per_score(table.screen or table.weights).total()
    seconds = sum(event["seconds"] / context.config.models[event["role"]].concurrency for event in replies)
    return ScoreCost(
        max(least, len(replies) / count),
        sum(sum(event["tokens"]) for event in replies) / count,
        sum(event["money"] for event in replies) / count,
        seconds / 60 / count,
    )


def score_scale(search: SearchTable) -> ScoreScale:
    """Return the range of the scores of the algorithm of [search]. The published algorithm uses 1 to 5."""
    return ScoreScale(1.0, 5.0) if search.algorithm == PUBLISHED else ScoreScale()


async def _open_space(context: RunContext, rows: Sequence[Row], first: Candidate) -> CandidateSpace:
    search = context.config.search
    # The gate tries new candidates on rows that a race scores anyway. The published algorithm has a fixed order of
    # calls, so it has no such trial.
    first_rows = search.first if search.algorithm == RACED else 0
    raced = rows if first_rows else ()
    gate = PromptGate(context.gate, context.task, search.words, raced, first_rows)
    proposers = await open_proposers(context, await stated_preferences(context))
    return CandidateSpace(
        replace(context.scored_rows(PROMPT_STAGE, TRAIN, first), rows=rows),
        gate,
        proposers,
        Allocation([one.name for one in proposers], str(search.seed)),
        score_scale(search),
        KnownCandidates() if search.algorithm == RACED else None,
        search.indifference,
        first_rows,
    )


async def open_proposers(context: RunContext, preferences: str = "") -> Sequence[Proposer]:
    """Return the proposers of the search, in the order of `proposer_names`.

    Args:
        context: What the stages of the run share.
        preferences: What people prefer, as a list for the writer model. Empty if it is unknown.

    Raises:
        ConfigError: The pool of examples cannot be read.
        BundleError: The pool of examples has invalid lines.
        EmbedderError: The embedder does not answer.
    """
    search = context.config.search
    found: dict[str, Proposer] = {
        WRITER: WriterProposer(context.calls, context.gate, search, preferences),
        EDITS: EditProposer(search),
        RETRIEVAL: SettingsProposer(RETRIEVAL, retrieval_settings, search.seed),
        SAMPLING: SettingsProposer(SAMPLING, sampling_settings, search.seed),
    }
    names = proposer_names(context.config)
    if EXAMPLES in names:
        found[EXAMPLES] = await _example_proposer(context)
    return [found[name] for name in names]


def describe_proposer(proposer: Proposer, first: Candidate) -> str:
    """Return the name of a proposer. If it has a pool of examples, add the size of the pool, and how many are new."""
    if not isinstance(proposer, ExampleProposer):
        return proposer.name
    return f"{proposer.name} ({proposer.pool_size} in the pool, {proposer.new_count(first.bank)} of them new)"


async def _example_proposer(context: RunContext) -> ExampleProposer:
    rows = [row for part in context.data.parts.values() for row in part]
    table = context.config.examples
    found = read_pool(table.pool, {row.query for row in rows})
    usable: Sequence[Example] = [example for example in found if await context.gate.admits_example(example)]
    taste = await asyncio.to_thread(learn_taste, context.preferences)
    if ROLE not in context.config.models:
        usable = preferred_examples(usable, taste)
    pool = await asyncio.to_thread(embed_pool, usable, context.embedder)
    own = None
    if ROLE in context.config.models:
        own = OwnAnswers(context.calls, context.task, context.gate, table.words)
    return ExampleProposer(pool, context.embedder, context.config.search.seed, own, taste)


async def _journal_level(journal: Journal, level: Level[Candidate], allocation: Allocation, won: Sequence[str]) -> None:
    ranked = [
        {"id": step.candidate.key, "scores": [round(outcome.score, 6) for outcome in step.outcomes]}
        for step in level.ranked
    ]
    proposers = {name: list(counts) for name, counts in allocation.results.items()}
    await journal.note(
        "level",
        stage=PROMPT_STAGE,
        number=level.number,
        ranked=ranked,
        best=level.best.key,
        kept=level.kept,
        proposers=proposers,
        won=won,
    )
