"""Estimates the cost of a run before it starts: simulates the number of calls, and measures the cost of a few calls."""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from optimizer.core.budget import Budget, Cost
from optimizer.core.config_tables import PUBLISHED, RunConfig
from optimizer.data.split import Split
from optimizer.estimation.call_costs import CallCost, Costs, measure_call_costs
from optimizer.estimation.observation import NOTHING_SEEN, Observation
from optimizer.estimation.simulated_space import EXAMPLES, Call
from optimizer.estimation.simulation import SEARCH, by_role, simulate
from optimizer.models.task_model import ROLE as TASK
from optimizer.rewards.judge_protocol import ROLE as JUDGE
from optimizer.rewards.registry import calls_per_score
from optimizer.search.race_length import ScoreCost, allowed_scores, within_allowance
from optimizer.stages.prompt_stage import raced_settings
from optimizer.stages.run_context import RunContext
from optimizer.stages.sealed_evaluation import sealed_calls
from optimizer.stages.writer_protocol import ROLE as WRITER

_SIMULATIONS: Final = 120


@dataclass(frozen=True, slots=True)
class Range:
    """A median and the ends of a 90 % interval."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """The expected cost of a run.

    Attributes:
        by_role: Number of calls to the model of each role, by role.
        calls: Number of calls of all roles together.
        tokens: Prompt and completion tokens of all calls together.
        money: The price of the tokens, in the currency of the prices in run.toml.
        seconds: Duration of the run in seconds.
    """

    by_role: Mapping[str, Range]
    calls: Range
    tokens: Range
    money: Range
    seconds: Range


async def estimate(context: RunContext) -> Estimate:
    """Estimate the cost of a run: make a few real calls to measure their cost, then simulate the run many times.

    Raises:
        ModelError: A model gives no usable answer.
        BudgetSpentError: The budget is spent.
        JournalError: The journal cannot be written.
    """
    costs, observation = await measure_call_costs(context)
    # The judge was asked during the measurement, so that the format of its replies is known.
    return await estimate_from(
        context.config, context.data, costs, asks_for_letters=context.judge.asks_for_letters, observation=observation
    )


async def estimate_from(
    config: RunConfig,
    data: Split,
    costs: Costs,
    *,
    asks_for_letters: bool = False,
    observation: Observation = NOTHING_SEEN,
) -> Estimate:
    """Estimate the cost of a run from the costs of its calls.

    Args:
        config: The settings of run.toml.
        data: The rows of the run.
        costs: The cost of a call of each kind in the stages `examples` and `search`.
        asks_for_letters: Whether the judge replies with one letter or digit. It then needs one call per criterion.
        observation: What the measured calls show about the scores.
    """
    config = _with_race_length(config, data, costs, asks_for_letters=asks_for_letters)
    seen: dict[str, Any] = {"asks_for_letters": asks_for_letters, "observation": observation}
    runs = [await simulate(config, data, seed, **seen) for seed in range(_SIMULATIONS)]
    roles = [role for role in (TASK, JUDGE, WRITER) if any(by_role(run)[role] for run in runs)]
    rng = random.Random(0)  # noqa: S311 - a simulation needs no secure random numbers
    tokens, money, seconds = list[float](), list[float](), list[float]()
    for run in runs:
        measurement_error = rng.uniform(0.7, 1.4)
        pairs = [(call, count, _cost(costs, call)) for call, count in run.items()]
        tokens.append(measurement_error * sum(count * (cost.prompt + cost.completion) for _, count, cost in pairs))
        money.append(measurement_error * sum(count * _price(config, call, cost) for call, count, cost in pairs))
        busy = (count * cost.seconds / _concurrency(config, call) for call, count, cost in pairs)
        seconds.append(rng.uniform(0.9, 1.6) * measurement_error * sum(busy))
    return Estimate(
        {role: _range(by_role(run)[role] for run in runs) for role in roles},
        _range(run.total() for run in runs),
        *map(_range, (tokens, money, seconds)),
    )


def _with_race_length(config: RunConfig, data: Split, costs: Costs, *, asks_for_letters: bool) -> RunConfig:
    """Return the settings with the maximum length of a race that a run would compute from its budget.

    The cost of the stages before the search is not known here, so it is not subtracted from the budget. A run computes
    the length after it has scored the first candidate on the first rows, so the cost of these scores is subtracted.
    """
    if config.search.queries is not None:
        return config
    budget, table = Budget(config.budget), config.reward
    budget.kept_calls = sealed_calls(config, len(data.sealed), asks_for_letters=asks_for_letters)
    cost = _score_cost(config, calls_per_score(table.screen or table.weights), costs)
    count = config.search.first
    budget.spent = Cost(round(count * cost.calls), round(count * cost.tokens), count * cost.money)
    budget.minutes = count * cost.minutes
    settings = within_allowance(raced_settings(config), allowed_scores(budget.left, cost))
    return replace(config, search=replace(config.search, queries=settings.race.max_queries))


def _score_cost(config: RunConfig, counts: Mapping[str, int], costs: Costs) -> ScoreCost:
    calls = [(Call(SEARCH, role), count) for role, count in counts.items()]
    priced = [(call, count, costs[call]) for call, count in calls]
    return ScoreCost(
        sum(counts.values()),
        sum(count * (cost.prompt + cost.completion) for _, count, cost in priced),
        sum(count * _price(config, call, cost) for call, count, cost in priced),
        sum(count * cost.seconds / _concurrency(config, call) for call, count, cost in priced) / 60,
    )


def _cost(costs: Costs, call: Call) -> CallCost:
    """Return the cost of a call. The stages after the search make the same calls as the search."""
    return costs[Call(EXAMPLES if call.stage == EXAMPLES else SEARCH, call.role)]


def _price(config: RunConfig, call: Call, cost: CallCost) -> float:
    prices = config.models[call.role].prices
    return (prices.prompt * cost.prompt + prices.completion * cost.completion) / 1_000_000


def _concurrency(config: RunConfig, call: Call) -> int:
    """Return how many calls of a kind are made at the same time. The published search makes one after the other."""
    is_sequential = call.stage == SEARCH and config.search.algorithm == PUBLISHED
    return 1 if is_sequential else config.models[call.role].concurrency


def _range(values: Iterable[float]) -> Range:
    ordered = sorted(values)
    median, low, high = (ordered[round(share * (len(ordered) - 1))] for share in (0.5, 0.05, 0.95))
    return Range(median, low, high)
