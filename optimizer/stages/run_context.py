"""What the stages of a run share: settings, journal, budget, models, scorers and data.

This module opens the connections to the models and restores the state that the journal holds.
It does not depend on any stage.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from index.bundle.bundle import default_bundle_directory, load_bundle
from index.embedders.base import Embedder
from index.embedders.registry import open_embedder
from optimizer.core.budget import Budget
from optimizer.core.candidate import Candidate, from_bundle
from optimizer.core.config import ModelTable, RunConfig
from optimizer.core.errors import ConfigError
from optimizer.core.journal import Journal
from optimizer.data.dataset import Row
from optimizer.data.split import Split, read_split
from optimizer.models.cached_calls import Calls, Source
from optimizer.models.http_client import Client, Endpoint, Patience
from optimizer.models.task_model import ROLE as TASK
from optimizer.models.task_model import Task
from optimizer.rewards.judge import Judge
from optimizer.rewards.rewards import Function, Likelihood, Reference, Reward, Rules, Scorer

Notify = Callable[[str], None]
"""Shows one line of text to the user."""
_CLOCK_INTERVAL: Final = 5.0


@dataclass(frozen=True)
class RunContext:
    """Everything that the stages of a run share.

    Attributes:
        config: The settings of run.toml.
        journal: The open journal of the run.
        budget: The limits and what is spent so far.
        calls: Makes the paid calls and caches their replies.
        embedder: The embedder of the bundle.
        task: The model that the bundle is written for.
        judge: The judge model. It raises an error when it is called and run.toml has no [models.judge].
        screen: Scores candidates during the search.
        sealed: Scores variants in the sealed evaluation.
        data: Training, validation and sealed rows.
    """

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


@dataclass(slots=True)
class BestCandidate:
    """The best candidate so far. A stage updates it at once, because the budget may end the stage at any call."""

    candidate: Candidate


@asynccontextmanager
async def open_run_context(config: RunConfig, journal: Journal, notify: Notify) -> AsyncIterator[RunContext]:
    """Read the data, connect to the models and restore the state that the journal holds.

    Args:
        config: The settings of run.toml.
        journal: The open journal of the run.
        notify: Receives a message when closing has to wait for calls in progress.

    Raises:
        OptimizeError: The data, the settings or the journal cannot be used.
        EmbedderError: The embedder cannot be opened.
    """
    data = read_split(config.data, config.search.seed)
    async with AsyncExitStack() as stack:
        sources = {role: await stack.enter_async_context(_open_source(table)) for role, table in config.models.items()}
        budget = Budget(config.budget)
        calls = Calls(sources, journal, budget)
        stack.push_async_callback(calls.close, notify)
        await stack.enter_async_context(_running_clock(budget, journal))
        embedder = await asyncio.to_thread(open_embedder, config.bundle.embedder)
        task = Task(calls, config.models[TASK].kind, embedder)
        judge = Judge(calls, config.reward.safety)
        rewards = create_rewards(config, task, judge, embedder)
        screen, sealed = (
            Scorer(task, rewards, weights, judge.prepare if "judge" in weights else _prepare_nothing)
            for weights in (config.reward.screen or config.reward.weights, config.reward.weights)
        )
        yield RunContext(config, journal, budget, calls, embedder, task, judge, screen, sealed, data)


def create_rewards(config: RunConfig, task: Task, judge: Judge, embedder: Embedder) -> Mapping[str, Reward]:
    """Create the rewards that [reward] names. Raises ConfigError."""
    known: dict[str, Reward] = {
        "rules": Rules(),
        "reference": Reference(embedder),
        "likelihood": Likelihood(task),
        "judge": judge,
    }
    return {name: known.get(name) or Function(name) for name in config.reward.all_names}


def starting_candidate(config: RunConfig, embedder: Embedder) -> Candidate:
    """Load the bundle that the run starts from, which is also the baseline. Raises BundleError."""
    start = config.bundle.start
    directory = default_bundle_directory() if start == "default" else Path(start)
    return from_bundle(load_bundle(directory, embedder))


def api_key(table: ModelTable) -> str | None:
    """Return the key in the environment variable that `api_key_env` names. Raises ConfigError if it is not set."""
    if table.api_key_env is None:
        return None
    if table.api_key_env not in os.environ:
        raise ConfigError(f"the environment variable {table.api_key_env}, named by api_key_env, is not set")
    return os.environ[table.api_key_env]


@asynccontextmanager
async def _open_source(table: ModelTable) -> AsyncIterator[Source]:
    endpoint = Endpoint(table.base_url, table.model, api_key(table))
    async with Client(endpoint, table.concurrency, Patience(reply_timeout=table.timeout)) as client:
        yield Source(client, table.prices)


async def _prepare_nothing(row: Row) -> None:
    """Do nothing before a row is answered: only the judge needs preparation."""


@asynccontextmanager
async def _running_clock(budget: Budget, journal: Journal) -> AsyncIterator[None]:
    """Add the running time to the budget and the journal. A killed process loses at most one interval."""
    budget.minutes = sum(event["seconds"] for event in journal.events if event.get("tick")) / 60

    async def record_time() -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(_CLOCK_INTERVAL)
            now = time.monotonic()
            budget.minutes += (now - last) / 60
            await journal.add({"tick": True, "seconds": round(now - last, 3)})
            last = now

    clock = asyncio.create_task(record_time(), name="clock")
    try:
        yield
    finally:
        clock.cancel()
