"""Provides what the stages of a run share: settings, journal, budget, models, scorers and data.

This module opens the connections to the models. If a run is resumed, the module restores the spent budget and the paid
replies from the journal. It does not depend on any stage.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from index.bundle.bundle import load_bundle
from index.bundle.shipped import DEFAULT_BUNDLE, SHIPPED, choose_shipped, find_bundle, read_shipped
from index.embedders.base import Embedder
from index.embedders.registry import open_embedder
from index.model_names import plain_name, split_model_name
from index.types import RetrievalPolicy
from optimizer.core.budget import Budget
from optimizer.core.candidate import Bank, Candidate, from_bundle
from optimizer.core.config_tables import EMPTY, BundleTable, RunConfig
from optimizer.core.errors import ModelError
from optimizer.core.journal import Journal
from optimizer.core.model_tables import ModelTable
from optimizer.data.preferences import Preferences, read_preferences
from optimizer.data.split import SEALED, TRAIN, Split, read_split
from optimizer.data.taste import learn_taste
from optimizer.data.unusable_rows import UnusableRows
from optimizer.models.cached_calls import CachedCalls, close_calls
from optimizer.models.model_list import listed_models
from optimizer.models.open_client import api_key, open_client
from optimizer.models.row_embedder import RowEmbedder
from optimizer.models.task_model import ROLE as TASK
from optimizer.models.task_model import TaskModel
from optimizer.rewards.judge_model import Judge
from optimizer.rewards.registry import RewardResources, build_rewards, check_rewards
from optimizer.rewards.scorer import Scorer
from optimizer.stages.candidate_gate import CandidateGate
from optimizer.stages.scored_rows import ScoredRows

Notify = Callable[[str], None]
"""A function that shows one line of text to the user."""
_USUAL_LAYOUT: Final = "query-answer"
_PLAIN_PROMPT: Final = "You are a helpful assistant."
_PLAIN_SAMPLING: Final[Mapping[str, Any]] = MappingProxyType({"temperature": 0.0, "max_tokens": 512})
_CLOCK_INTERVAL: Final = 5.0  # seconds
_LIST_TIMEOUT: Final = 15.0  # seconds


@dataclass(frozen=True)
class RunContext:
    """Everything that the stages of a run share.

    Attributes:
        config: The settings of run.toml.
        journal: The open journal of the run.
        budget: The limits of the budget, and the amounts that are spent so far.
        calls: Makes the paid calls and caches their replies.
        embedder: The embedder of the bundle.
        task: The model that the bundle is written for.
        judge: The judge of the rewards. It can be used only if run.toml has [models.judge].
        example_judge: The same model with the settings of [examples.judge]. The search for examples uses it.
        screen: Scores answers during the search. Its weights are [reward] screen, or else [reward] weights.
        sealed: Scores answers in the sealed evaluation. Its weights are [reward] weights.
        data: Training, validation and sealed rows.
        unusable: For each part of the data, by its name: the rows that cannot be used.
        gate: Checks new candidates.
        preferences: The pairs, ratings and comments of [data] preferences.
    """

    config: RunConfig
    journal: Journal
    budget: Budget
    calls: CachedCalls
    embedder: Embedder
    task: TaskModel
    judge: Judge
    example_judge: Judge
    screen: Scorer
    sealed: Scorer
    data: Split
    unusable: Mapping[str, UnusableRows]
    gate: CandidateGate
    preferences: Preferences = field(default_factory=Preferences)

    def scored_rows(self, stage: str, part: str, reference: Candidate | None = None) -> ScoredRows:
        """Return the rows of a part of the data, and how a stage scores them.

        Args:
            stage: The name of the stage in the journal.
            part: The name of the part.
            reference: The candidate that the others are compared with, as `ScoredRows` describes it.
        """
        scorer = self.sealed if part == SEALED else self.screen
        return ScoredRows(stage, self.data.parts[part], scorer, self.journal, self.unusable[part], reference)


@dataclass(slots=True)
class BestCandidate:
    """Holds the best candidate so far.

    A stage replaces the candidate as soon as it finds a better one, because the budget can end the stage at any call.
    """

    candidate: Candidate


@asynccontextmanager
async def open_run_context(config: RunConfig, journal: Journal, notify: Notify) -> AsyncIterator[RunContext]:
    """Read the data, connect to the models, and restore the spent budget and the paid replies from the journal.

    Args:
        config: The settings of run.toml.
        journal: The open journal of the run.
        notify: Shows a message to the user when closing has to wait for calls in progress.

    Raises:
        OptimizeError: The data, the settings or the journal cannot be used.
        EmbedderError: The embedder of the bundle or of the rewards cannot be opened.
    """
    check_rewards(config)
    data = read_split(config.data, config.search.seed)
    preferences = read_preferences(config.data.preferences) if config.data.preferences else Preferences()
    async with AsyncExitStack() as stack:
        clients = {role: await stack.enter_async_context(open_client(table)) for role, table in config.models.items()}
        budget = Budget(config.budget)
        calls = CachedCalls(clients, journal, budget)
        stack.push_async_exit(partial(close_calls, calls, notify))
        await stack.enter_async_context(_running_clock(budget, journal))
        embedder = RowEmbedder(await asyncio.to_thread(open_embedder, config.bundle.embedder))
        task = TaskModel(calls, config.models[TASK].kind, embedder)
        judge, example_judge = Judge(calls, config.reward.judge), Judge(calls, config.examples.judge)
        taste = await asyncio.to_thread(learn_taste, preferences)
        rewards = await asyncio.to_thread(build_rewards, RewardResources(config.reward, task, judge, taste))
        screen = Scorer(task, rewards, config.reward.screen or config.reward.weights)
        sealed = Scorer(task, rewards, config.reward.weights)
        share = config.data.unusable
        unusable = {part: UnusableRows(journal, part, len(rows), share) for part, rows in data.parts.items()}
        others = [row for part, rows in data.parts.items() if part != TRAIN for row in rows]
        gate = CandidateGate(config, embedder.spec, journal, data.train, others)
        yield RunContext(
            config,
            journal,
            budget,
            calls,
            embedder,
            task,
            judge,
            example_judge,
            screen,
            sealed,
            data,
            unusable,
            gate,
            preferences,
        )


def starting_candidate(config: RunConfig, embedder: Embedder) -> Candidate:
    """Load the bundle that the run starts from, which is also the baseline. Raises BundleError."""
    start = starting_bundle(config)
    return from_bundle(load_bundle(start.directory, embedder)) if start.directory else _empty_candidate(embedder)


@dataclass(frozen=True, slots=True)
class StartingBundle:
    """The bundle at which the search starts.

    Attributes:
        name: The name of the bundle or of its directory, or `empty`.
        directory: The directory of the bundle; None for `empty`.
        reason: Why `default` means this bundle; empty if run.toml names it.
    """

    name: str
    directory: Path | None
    reason: str = ""


def starting_bundle(config: RunConfig, root: Path = SHIPPED) -> StartingBundle:
    """Find the bundle that `[bundle] start` names.

    Args:
        config: The settings of the run. `default` means the bundle of drpo for the model of the new bundle.
        root: The folder with the bundles of drpo.

    Raises:
        BundleError: There is no such bundle, or the files of the bundles of drpo are damaged.
    """
    start = config.bundle.start
    if start == EMPTY:
        return StartingBundle(EMPTY, None)
    if start != DEFAULT_BUNDLE:
        directory = find_bundle(start, root)
        return StartingBundle(directory.name, directory)
    model, _ = split_model_name(config.bundle.model or config.models[TASK].model, ())
    choice = choose_shipped([model], read_shipped(root))
    return StartingBundle(choice.bundle.name, choice.bundle.directory, choice.reason)


def _empty_candidate(embedder: Embedder) -> Candidate:
    """Return a candidate with a plain prompt and no examples, in the usual layout.

    Once it has examples, every request shows the nearest examples, however unlike the query they are. Even unlike
    examples show a base model the form of an answer.
    """
    retrieval = RetrievalPolicy(minimum_similarity=-1.0)
    bank = Bank((), np.zeros((0, embedder.spec.dimension), np.float32), embedder.spec)
    return Candidate(_PLAIN_PROMPT, bank, _USUAL_LAYOUT, retrieval, dict(_PLAIN_SAMPLING))


def first_candidate(table: BundleTable, baseline: Candidate) -> Candidate:
    """Return the candidate at which the search starts: the baseline with the prompt and the settings of [bundle]."""
    candidate = replace(
        baseline,
        layout=table.layout or baseline.layout,
        retrieval=table.retrieval or baseline.retrieval,
        sampling=baseline.sampling if table.sampling is None else table.sampling,
    )
    return candidate.with_prompt(table.prompt) if table.prompt else candidate


async def with_bundle_model(config: RunConfig) -> RunConfig:
    """Return the settings with the name of the model that the bundle is for.

    The name of the task model in run.toml may be MODEL@VARIANT, if drpo-proxy serves the model. The bundle is then for
    MODEL. If the server lists the whole name, such as `lm@q4`, the name stays as it is. It also stays if the server has
    no list of models.
    """
    table = config.models[TASK]
    if config.bundle.model is not None or "@" not in table.model:
        return config
    with suppress(ModelError):
        listed = await served_models(table)
        return replace(config, bundle=replace(config.bundle, model=plain_name(table.model, listed)))
    return config


async def served_models(table: ModelTable) -> list[str]:
    """Return the model names that the endpoint of a table lists.

    Raises:
        ConfigError: The environment variable with the API key is not set.
        ModelError: The endpoint has no list of models, or does not answer in time.
    """
    return await listed_models(table.base_url, api_key(table), _LIST_TIMEOUT)


@asynccontextmanager
async def _running_clock(budget: Budget, journal: Journal) -> AsyncIterator[None]:
    """Add the running time to the budget and the journal every few seconds.

    If the run is resumed, the budget begins with the running time that the journal contains. When the run ends, the
    time since the last addition is not counted. This time is at most one interval.
    """
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
