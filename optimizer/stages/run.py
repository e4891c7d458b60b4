"""A run from its configuration to a bundle. Read this first: examples, prompt, tune, sealed evaluation, bundle.

A run lives in a directory: run.toml, events.jsonl (journal.py), and in the end bundle/ and report.html. Begun again
over the same directory it goes through the same steps, finds every reply in the journal, and goes on where it was.
"""

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from index.bundle.bundle import BundleDraft, default_bundle_directory, load_bundle, write_bundle
from index.embedders.base import Embedder
from index.embedders.registry import open_embedder
from optimizer.core.budget import Budget
from optimizer.core.candidate import Candidate, from_bundle, make_bank
from optimizer.core.config import ModelTable, RunConfig
from optimizer.core.errors import BudgetSpentError, ConfigError
from optimizer.core.journal import Journal
from optimizer.data.dataset import Row
from optimizer.data.split import Split, read_split
from optimizer.models.cached_calls import Calls, Source
from optimizer.models.http_client import Client, Endpoint, Patience
from optimizer.models.task_model import ROLE as TASK
from optimizer.models.task_model import Task
from optimizer.rewards.judge import Judge
from optimizer.rewards.rewards import Function, Likelihood, Reference, Reward, Rules, Scorer
from optimizer.search.race import RaceSettings
from optimizer.search.search import Level, Published, Raced, search_published, search_raced
from optimizer.stages.example_stage import AnswerSearch, choose_bank
from optimizer.stages.prompt_stage import PromptSpace, Rewriter, Scale
from optimizer.stages.sealed_evaluation import SealedPlan, SealedResult, evaluate_sealed, provenance
from optimizer.stages.tuning_stage import tune

BUNDLE: Final = "bundle"
RUN_FILE: Final = "run.toml"
_SEALED_SHARE: Final = 0.2
"""Of the budget, kept for the sealed evaluation: a search that used up everything would not know what it is worth."""
_TICK = 5.0
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Result:
    """What a run came to. bundle: where it was written; spent_out: the search ended because the budget did."""

    bundle: Path
    verdict: SealedResult
    spent_out: bool


@dataclass(frozen=True)
class RunContext:
    """All that the stages of a run share. screen: scores in the search; sealed: in the sealed evaluation."""

    config: RunConfig
    journal: Journal
    budget: Budget
    calls: Calls
    embedder: Embedder
    task: Task
    judge: Judge
    screen: Scorer
    sealed: Scorer
    data: Split


async def run(config: RunConfig, directory: Path, journal: Journal, say: Say) -> Result:
    """Begin a run, or go on with it. say: told what a person has to wait for.

    Raises OptimizeError, BundleError, EmbedderError.
    """
    async with open_run_context(config, journal, say) as context:
        baseline = await asyncio.to_thread(starting_candidate, config, context.embedder)
        await journal.note("run", bundle=config.bundle.name, recipe=config.search.recipe, seed=config.search.seed)
        best, spent_out = await _learn(context, baseline)
        plan = SealedPlan(context.data.sealed, config.data.raw, config.reward.confirm, context.judge.better)
        await journal.note("stage", stage="sealed", rows=len(plan.rows), judgements=plan.judgements)
        verdict = await evaluate_sealed(best, baseline, context.sealed, journal, plan)
        chosen = best if verdict.improved else baseline
        place = await asyncio.to_thread(_write, context, chosen, verdict, directory)
        await journal.note("bundle", directory=place.name, improved=verdict.improved, candidate=chosen.key)
        return Result(place, verdict, spent_out)


async def _learn(context: RunContext, baseline: Candidate) -> tuple[Candidate, bool]:
    """The best candidate that the budget allows, and whether the budget ended the search."""
    best = _Best(baseline)
    context.budget.share = 1.0 - _SEALED_SHARE
    try:
        for stage in (_improve_bank, _improve_prompt, _tune):
            best.candidate = await stage(context, best)
    except BudgetSpentError as error:
        await context.journal.note("spent", what=error.what)
        return best.candidate, True
    finally:
        context.budget.share = 1.0
    return best.candidate, False


@dataclass(slots=True)
class _Best:
    """The best candidate so far; a stage that may be cut short keeps it up to date."""

    candidate: Candidate


async def _improve_bank(context: RunContext, found: _Best) -> Candidate:
    table, best = context.config.examples, found.candidate
    if not table.queries:
        return best
    rows = context.data.train[: table.queries]
    await context.journal.note("stage", stage="examples", rows=len(rows))
    improver = AnswerSearch(context.task, context.judge, context.calls, context.journal, table)
    answered = await improver.improve_all(best, rows)
    examples = choose_bank(answered, context.embedder, table)
    await context.journal.note("bank", size=len(examples), pinned=sum(example.pinned for example in examples))
    if not examples:
        return best
    bank = await asyncio.to_thread(make_bank, examples, context.embedder)
    return best.with_bank(bank)


async def _improve_prompt(context: RunContext, found: _Best) -> Candidate:
    search, rows, best = context.config.search, context.data.train, found.candidate
    await context.journal.note("stage", stage="prompt", rows=len(rows))
    await context.journal.note("candidate", id=best.key, parent=None, prompt=best.prompt)
    rewriter = Rewriter(context.calls, search.seed, search.words)
    if search.recipe == "drpo":
        space = PromptSpace(context.screen, context.journal, rows, rewriter, Scale(1.0, 5.0))
        settings = Published(search.beam, search.actions, search.depth)
        return (await search_published(space, best, len(rows), settings))[-1].candidate
    space = PromptSpace(context.screen, context.journal, rows, rewriter, Scale())

    async def watch(level: Level[Candidate]) -> None:
        await journal_level(context.journal, "prompt", level)
        found.candidate = level.ranked[0].candidate

    last, _ = await search_raced(space, best, len(rows), raced_settings(context.config), watch)
    return last.candidate


async def _tune(context: RunContext, found: _Best) -> Candidate:
    await context.journal.note("stage", stage="tune", rows=len(context.data.validation))

    def keep(candidate: Candidate) -> None:
        found.candidate = candidate

    table, settings = context.config.tune, tune_settings(context.config)
    await tune(found.candidate, table, context.screen, context.journal, context.data.validation, settings, keep)
    return found.candidate


def raced_settings(config: RunConfig) -> Raced:
    """What [search] says, for our own recipe."""
    search = config.search
    race = RaceSettings(search.alpha, search.indifference, search.first, search.block, search.queries)
    return Raced(search.beam, search.actions, search.depth, search.patience, race)


def tune_settings(config: RunConfig) -> Raced:
    """The same rules, for knobs on validation rows."""
    settings = raced_settings(config)
    return replace(settings, race=replace(settings.race, most=config.tune.queries))


async def journal_level(journal: Journal, stage: str, level: Level[Candidate]) -> None:
    """A level's ranking, for the report."""
    ranked = [
        {"id": step.candidate.key, "scores": [round(outcome.score, 6) for outcome in step.outcomes]}
        for step in level.ranked
    ]
    await journal.note("level", stage=stage, number=level.number, ranked=ranked, kept=level.kept)


@asynccontextmanager
async def open_run_context(config: RunConfig, journal: Journal, say: Say) -> AsyncIterator[RunContext]:
    """Read the data, connect the models, take up what the journal holds."""
    data = read_split(config.data, config.search.seed)
    async with AsyncExitStack() as stack:
        sources = {role: await stack.enter_async_context(_source(table)) for role, table in config.models.items()}
        budget = Budget(config.budget)
        calls = Calls(sources, journal, budget)
        stack.push_async_callback(calls.close, say)
        await stack.enter_async_context(_clock(budget, journal))
        embedder = await asyncio.to_thread(open_embedder, config.bundle.embedder)
        task = Task(calls, config.models[TASK].kind, embedder)
        judge = Judge(calls, config.reward.safety)
        named = rewards(config, task, judge, embedder)
        screen, sealed = (
            Scorer(task, named, weights, judge.prepare if "judge" in weights else _nothing)
            for weights in (config.reward.screen or config.reward.weights, config.reward.weights)
        )
        yield RunContext(config, journal, budget, calls, embedder, task, judge, screen, sealed, data)


def rewards(config: RunConfig, task: Task, judge: Judge, embedder: Embedder) -> Mapping[str, Reward]:
    """The rewards that [reward] names. Raises ConfigError."""
    known: dict[str, Reward] = {
        "rules": Rules(),
        "reference": Reference(embedder),
        "likelihood": Likelihood(task),
        "judge": judge,
    }
    return {name: known.get(name) or Function(name) for name in config.reward.all_names}


def starting_candidate(config: RunConfig, embedder: Embedder) -> Candidate:
    """The bundle to begin with, which is the baseline too. Raises BundleError."""
    start = config.bundle.start
    place = default_bundle_directory() if start == "default" else Path(start)
    return from_bundle(load_bundle(place, embedder))


async def _nothing(row: Row) -> None:
    """Before an answer."""


@asynccontextmanager
async def _source(table: ModelTable) -> AsyncIterator[Source]:
    endpoint = Endpoint(table.base_url, table.model, api_key(table))
    async with Client(endpoint, table.concurrency, Patience(reply_timeout=table.timeout)) as client:
        yield Source(client, table.prices)


def api_key(table: ModelTable) -> str | None:
    """The key that `api_key_env` names, if any. Raises ConfigError."""
    if table.api_key_env is None:
        return None
    if table.api_key_env not in os.environ:
        raise ConfigError(f"the environment variable {table.api_key_env}, named by api_key_env, is not set")
    return os.environ[table.api_key_env]


@asynccontextmanager
async def _clock(budget: Budget, journal: Journal) -> AsyncIterator[None]:
    """Count the minutes of running, over all resumes; what a kill cuts off is at most one tick."""
    before = sum(event["seconds"] for event in journal.events if event.get("tick")) / 60
    budget.minutes = before

    async def tick() -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(_TICK)
            now = time.monotonic()
            budget.minutes += (now - last) / 60
            await journal.add({"tick": True, "seconds": round(now - last, 3)})
            last = now

    ticking = asyncio.create_task(tick(), name="clock")
    try:
        yield
    finally:
        ticking.cancel()


def _write(context: RunContext, chosen: Candidate, verdict: SealedResult, directory: Path) -> Path:
    """The bundle, written anew if it is there: what it is made of is in the journal."""
    place = directory / BUNDLE
    if place.exists():
        shutil.rmtree(place)
    config = context.config
    draft = BundleDraft(
        name=config.bundle.name,
        model=config.bundle.model or config.models[TASK].model,
        layout=chosen.layout,
        prompt=chosen.prompt,
        examples=chosen.bank.examples,
        retrieval=chosen.retrieval,
        sampling=chosen.sampling,
        provenance=_provenance(config, verdict),
        sets=chosen.bank.sets,
    )
    write_bundle(place, draft, context.embedder)
    return place


def _provenance(config: RunConfig, verdict: SealedResult) -> dict[str, Any]:
    return {
        "optimizer": {"recipe": config.search.recipe, "seed": config.search.seed},
        "models": {role: table.model for role, table in config.models.items()},
        "reward": dict(config.reward.weights),
        "screen": dict(config.reward.screen),
        "sealed": provenance(verdict),
    }
