"""Estimates the cost of a run before it starts. It simulates the number of calls, and measures the cost of a few calls.

A simulation runs the real search on random scores and counts the calls that the search would make. The distribution of
the scores is not known before a run. Each simulation therefore draws its properties at random: mean and standard
deviation of a score, the share of the variance that the query causes, how much a rewrite changes the score, and the
share of rewrites that are new prompts.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from optimizer.core.config_tables import DRPO, RunConfig
from optimizer.core.journal import Event
from optimizer.core.request_form import LETTER
from optimizer.data.split import TRAIN, Split
from optimizer.models.task_model import ROLE as TASK
from optimizer.rewards.criteria import MAX_CRITERIA, MIN_CRITERIA
from optimizer.rewards.judge_protocol import ROLE as JUDGE
from optimizer.rewards.registry import reward_kind
from optimizer.search.levels import race_level
from optimizer.search.published import search_published
from optimizer.search.raced import search_raced
from optimizer.search.space import Outcome, Path
from optimizer.stages.prompt_stage import ROLE as OPTIMIZER
from optimizer.stages.prompt_stage import published_settings, raced_settings
from optimizer.stages.run_context import RunContext, starting_candidate
from optimizer.stages.tuning_stage import significant_leader, tuning_settings, value_counts

_SIMULATIONS: Final = 120
_MEASURED_ROWS: Final = 3


@dataclass(frozen=True, slots=True)
class Range:
    """A median and the ends of a 90 % interval."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class CallCost:
    """The mean cost of one call.

    Attributes:
        tokens: Prompt and completion tokens.
        seconds: Time from the request to its reply.
    """

    tokens: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """The expected cost of a run.

    Attributes:
        by_role: Number of calls to the model of each role, by role.
        calls: Number of calls of all roles together.
        tokens: Prompt and completion tokens of all calls together.
        seconds: Duration of the run in seconds.
    """

    by_role: Mapping[str, Range]
    calls: Range
    tokens: Range
    seconds: Range


async def estimate(context: RunContext) -> Estimate:
    """Estimate the cost of a run: make a few real calls to measure their cost, then simulate the run many times.

    Raises:
        ModelError: A model gives no usable answer.
        BudgetSpentError: The budget is spent.
        JournalError: The journal cannot be written.
    """
    costs = await _measure_call_costs(context)
    # The judge was asked during the measurement, so that the format of its replies is known.
    asks_for_letters = JUDGE in context.calls.roles and context.calls.form(JUDGE).reply_format == LETTER
    counts = [
        await simulate(context.config, context.data, seed, asks_for_letters=asks_for_letters)
        for seed in range(_SIMULATIONS)
    ]
    roles = [role for role in (TASK, JUDGE, OPTIMIZER) if any(count[role] for count in counts)]
    rng = random.Random(0)  # noqa: S311 - a simulation needs no secure random numbers
    tokens, seconds = [], []
    for count in counts:
        measurement_error = rng.uniform(0.7, 1.4)
        tokens.append(measurement_error * sum(count[role] * costs[role].tokens for role in roles))
        busy = [count[role] * costs[role].seconds / context.config.models[role].concurrency for role in roles]
        seconds.append(rng.uniform(0.9, 1.6) * measurement_error * sum(busy))
    by_role = {role: _range([count[role] for count in counts]) for role in roles}
    return Estimate(by_role, _range([count.total() for count in counts]), _range(tokens), _range(seconds))


async def simulate(config: RunConfig, data: Split, seed: int, *, asks_for_letters: bool = False) -> Counter[str]:
    """Simulate one run, and return the number of its calls by role.

    Args:
        config: The settings of run.toml.
        data: The rows of the run.
        seed: The seed of the simulation.
        asks_for_letters: Whether the judge replies with one digit. It then scores each criterion in a call of its own.
    """
    is_published = config.search.recipe == DRPO
    rng = random.Random(seed)  # noqa: S311 - a simulation
    space = SimulatedSpace(config, rng, 5.0 if is_published else 1.0, asks_for_letters)
    _simulate_examples(space)
    if is_published:
        await search_published(space, 0, len(data.train), published_settings(config))
    else:
        await search_raced(space, 0, len(data.train), raced_settings(config), _ignore_level)
    await _simulate_tuning(space, len(data.validation))
    _count_sealed(config, data, space)
    return space.calls


@dataclass
class SimulatedSpace:
    """A search space whose candidates are numbers and whose scores are random.

    It counts the calls that the search space of a real run would make.

    Attributes:
        config: The settings of run.toml.
        rng: The source of random numbers.
        scale: The highest score: 5 for the recipe `drpo`, 1 for `raced`.
        asks_for_letters: Whether the judge scores each criterion in a call of its own.
        calls: Number of calls by role.
        scored: Pairs of candidate and query whose calls are already counted.
        known_queries: Queries whose calls by `RewardKind.calls_per_query` are already counted.
        criteria: For each query, the number of its criteria.
        quality: For each candidate, the number that is added to every score of the candidate.
        difficulty: For each query, the number that is added to every score on the query; negative for a hard query.
    """

    config: RunConfig
    rng: random.Random
    scale: float
    asks_for_letters: bool = False
    calls: Counter[str] = field(default_factory=Counter)
    scored: set[tuple[int, int]] = field(default_factory=set)
    known_queries: set[object] = field(default_factory=set)
    criteria: dict[object, int] = field(default_factory=dict)
    quality: list[float] = field(default_factory=lambda: [0.0])
    difficulty: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._deviation = self.rng.uniform(0.1, 0.3)
        self._query_share = self.rng.uniform(0.3, 0.8)
        self._step = self.rng.uniform(0.0, 0.15)
        self._mean = self.rng.uniform(0.3, 0.9)
        self._new_share = self.rng.uniform(0.5, 1.0)

    def key(self, candidate: int) -> str:
        """Return the number of the candidate as text."""
        return str(candidate)

    def add_candidate(self, parent: int, deviation: float) -> int:
        """Add a candidate, and return its number.

        The quality of the new candidate is the parent's quality plus a random number from a normal distribution with
        mean 0 and standard deviation `deviation`.
        """
        self.quality.append(self.quality[parent] + self.rng.gauss(0, deviation))
        return len(self.quality) - 1

    def forget_queries(self) -> None:
        """Remove all records about queries, because the next stage uses other rows."""
        self.scored.clear()
        self.difficulty.clear()
        self.known_queries.clear()
        self.criteria.clear()

    def calls_per_rating(self, query: object) -> int:
        """Return the number of calls with which the judge scores one answer to a query."""
        if not self.asks_for_letters:
            return 1
        if query not in self.criteria:
            self.criteria[query] = self.rng.randint(MIN_CRITERIA, MAX_CRITERIA)
        return self.criteria[query]

    def count_score(self, weights: Mapping[str, float], query: object) -> None:
        """Count the calls for one score: one call for the answer, and the calls of each reward.

        A reward makes some calls for each answer, and others only once for each query.
        """
        self.calls[TASK] += 1
        for kind in map(reward_kind, weights):
            for role, count in kind.calls_per_answer.items():
                self.calls[role] += count * (self.calls_per_rating(query) if role == JUDGE else 1)
            if query not in self.known_queries:
                self.calls.update(kind.calls_per_query)
        self.known_queries.add(query)

    async def expand(self, path: Path[int], count: int, _again: int) -> Sequence[int]:
        """Return at most `count` new candidates.

        A random share of the rewrites is left out. They stand for rewrites that repeat an earlier prompt.
        """
        if OPTIMIZER in self.config.models:
            self.calls[OPTIMIZER] += 1
        parent = path[-1].candidate
        return [self.add_candidate(parent, self._step) for _ in range(count) if self.rng.random() < self._new_share]

    async def score(self, candidate: int, query: int) -> Outcome:
        """Return a random score, and count the calls that a real score needs.

        The calls are not counted again if the candidate was scored on this query before.
        """
        if (candidate, query) not in self.scored:
            self.scored.add((candidate, query))
            self.count_score(self.config.reward.screen or self.config.reward.weights, query)
        if query not in self.difficulty:
            self.difficulty[query] = self.rng.gauss(0, self._deviation * self._query_share**0.5)
        noise = self.rng.gauss(0, self._deviation * (1 - self._query_share) ** 0.5)
        score = min(1.0, max(0.0, self._mean + self.quality[candidate] + self.difficulty[query] + noise))
        return Outcome(query, 1 + 4 * score if self.scale > 1 else score)


def _simulate_examples(space: SimulatedSpace) -> None:
    table, calls = space.config.examples, space.calls
    for query in range(table.queries):
        rounds = space.rng.randint(0, table.rounds)
        calls[TASK] += 1
        calls[OPTIMIZER] += rounds * table.beam
        calls[JUDGE] += 1 + (1 + rounds * table.beam * table.actions) * space.calls_per_rating(query)
    space.forget_queries()


async def _simulate_tuning(space: SimulatedSpace, rows: int) -> None:
    space.forget_queries()
    current, settings = 0, tuning_settings(space.config)
    for number, count in enumerate(value_counts(space.config.tune)):
        others = [space.add_candidate(current, 0.05) for _ in range(count - 1)]
        level = await race_level(space, number, [current, *others], rows, settings)
        current = significant_leader(level, current)


def _count_sealed(config: RunConfig, data: Split, space: SimulatedSpace) -> None:
    """Count the calls of the sealed evaluation.

    The bundle and the baseline answer all sealed rows. The setting `raw` of [data] is the number of rows that each raw
    variant answers; the default is all rows. If both raw variants have the same sampling, a run sends their requests
    only once. The sampling is not known before the run, so the requests of both raw variants are counted. For each row
    of [reward] confirm, the judge compares the bundle with the baseline twice, once in each order.
    """
    space.forget_queries()
    raw = len(data.sealed) if config.data.raw is None else min(config.data.raw, len(data.sealed))
    for count in (len(data.sealed), len(data.sealed), raw, raw):
        for query in range(count):
            space.count_score(config.reward.weights, query)
    space.calls[JUDGE] += 2 * min(config.reward.confirm, len(data.sealed))


async def _measure_call_costs(context: RunContext) -> dict[str, CallCost]:
    """Answer and score a few training rows with the starting bundle. Return the mean cost of a call for each role.

    Rows that cannot be used are left out, as in a run.
    """
    candidate = await asyncio.to_thread(starting_candidate, context.config, context.embedder)
    already, measured = len(context.journal.events), 0
    rows = context.scored_rows("estimate", TRAIN)
    for row in rows.rows:
        measured += await rows.score(candidate.key, candidate, row) is not None
        if measured == _MEASURED_ROWS:
            break
    replies = [event for event in context.journal.events[already:] if event.get("call") == "reply"]
    costs = {
        role: _mean_cost([event for event in replies if event["role"] == role])
        for role in dict.fromkeys(event["role"] for event in replies)
    }
    judge = costs.get(JUDGE, costs[TASK])
    # The cost of a rewrite cannot be measured here, because the request for a rewrite contains results of the search.
    # Such a request is longer than a request to the judge, so this function assumes that it costs twice as much.
    return {OPTIMIZER: CallCost(judge.tokens * 2, judge.seconds * 2), JUDGE: judge, **costs}


def _mean_cost(replies: Sequence[Event]) -> CallCost:
    tokens = sum(sum(event["tokens"]) for event in replies)
    return CallCost(tokens / len(replies), sum(event["seconds"] for event in replies) / len(replies))


def _range(values: Sequence[float]) -> Range:
    ordered = sorted(values)
    median, low, high = (ordered[round(share * (len(ordered) - 1))] for share in (0.5, 0.05, 0.95))
    return Range(median, low, high)


async def _ignore_level(_level: object) -> None:
    """Do nothing: a simulation does not use the result of a level."""
