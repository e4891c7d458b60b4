"""What a run will cost, before it is begun: the same search, simulated on scores that are drawn, and a few real calls
to see what one costs. Knows how often a stage asks whom; asks for nothing that a run would not ask.

How candidates and queries differ is not known beforehand, so each simulation draws it anew: the share of a score's
variance that is the query's, how much rewrites gain or lose, how often an answer is good enough to be skipped.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from optimizer.core.config import RunConfig
from optimizer.data.split import Split
from optimizer.search.search import Outcome, Path, Published, Raced, race_level, search_published, search_raced
from optimizer.stages.run import RunContext, raced_settings, starting_candidate, tune_settings
from optimizer.stages.tuning_stage import options, significant_leader

TASK, JUDGE, OPTIMIZER = "task", "judge", "optimizer"
_SIMULATIONS: Final = 120
_PROBED: Final = 3


@dataclass(frozen=True, slots=True)
class Range:
    """A median and the ends of a 90 % interval."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Unit:
    """What one call of a role costs: tokens, and seconds at the role's concurrency of one."""

    tokens: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """By role: calls; and of all together: calls, tokens, seconds."""

    by_role: Mapping[str, Range]
    calls: Range
    tokens: Range
    seconds: Range


@dataclass
class Simulated:
    """A space of numbered candidates whose scores are drawn; counts what a real one would ask for."""

    config: RunConfig
    chance: random.Random
    scale: float
    calls: Counter[str] = field(default_factory=Counter)
    asked: set[tuple[int, int]] = field(default_factory=set)
    chosen: set[object] = field(default_factory=set)
    worth: list[float] = field(default_factory=lambda: [0.0])
    noise: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.spread = self.chance.uniform(0.1, 0.3)
        self.query_share = self.chance.uniform(0.3, 0.8)
        self.step = self.chance.uniform(0.0, 0.15)
        self.middle = self.chance.uniform(0.3, 0.9)
        self.finds = self.chance.uniform(0.5, 1.0)

    def key(self, candidate: int) -> str:
        return str(candidate)

    async def expand(self, path: Path[int], count: int, _again: int) -> Sequence[int]:
        if OPTIMIZER in self.config.models:
            self.calls[OPTIMIZER] += 1
        parent, found = path[-1].candidate, []
        for _ in range(count):
            if self.chance.random() < self.finds:
                self.worth.append(self.worth[parent] + self.chance.gauss(0, self.step))
                found.append(len(self.worth) - 1)
        return found

    async def score(self, candidate: int, query: int) -> Outcome:
        self.count(candidate, query)
        if query not in self.noise:
            self.noise[query] = self.chance.gauss(0, self.spread * self.query_share**0.5)
        own = self.chance.gauss(0, self.spread * (1 - self.query_share) ** 0.5)
        score = min(1.0, max(0.0, self.middle + self.worth[candidate] + self.noise[query] + own))
        return Outcome(query, 1 + 4 * score if self.scale > 1 else score)

    def count(self, candidate: int, query: int) -> None:
        """One judgement: an answer, and what each reward asks for."""
        if (candidate, query) in self.asked:
            return
        self.asked.add((candidate, query))
        _count_judgement(self.calls, self.config.reward.screen or self.config.reward.weights, query, self.chosen)


def _count_judgement(calls: Counter[str], weights: Mapping[str, float], query: object, chosen: set[object]) -> None:
    calls[TASK] += 1 + ("likelihood" in weights)
    if "judge" in weights:
        calls[JUDGE] += 1 + (query not in chosen)
        chosen.add(query)


async def estimate(context: RunContext) -> Estimate:
    """Simulate the run, and measure what its calls cost. Raises ModelError, BudgetSpentError, JournalError."""
    units = await _measure(context)
    counts = [await simulate(context.config, context.data, seed) for seed in range(_SIMULATIONS)]
    roles = [role for role in (TASK, JUDGE, OPTIMIZER) if any(count[role] for count in counts)]
    chance = random.Random(0)  # noqa: S311 - how far three probes may be off
    tokens, seconds = [], []
    for count in counts:
        off = chance.uniform(0.7, 1.4)
        tokens.append(off * sum(count[role] * units[role].tokens for role in roles))
        busy = [count[role] * units[role].seconds / context.config.models[role].concurrency for role in roles]
        seconds.append(chance.uniform(0.9, 1.6) * off * sum(busy))
    by_role = {role: _range([count[role] for count in counts]) for role in roles}
    return Estimate(by_role, _range([count.total() for count in counts]), _range(tokens), _range(seconds))


async def simulate(config: RunConfig, data: Split, seed: int) -> Counter[str]:
    """Calls by role of one simulated run."""
    chance = random.Random(seed)  # noqa: S311 - a simulation
    published = config.search.recipe == "drpo"
    space = Simulated(config, chance, 5.0 if published else 1.0)
    _count_examples(config, chance, space.calls)
    if published:
        settings = Published(config.search.beam, config.search.actions, config.search.depth)
        await search_published(space, 0, len(data.train), settings)
    else:
        await search_raced(space, 0, len(data.train), raced_settings(config), _nobody)
    await _simulate_tuning(config, space, len(data.validation), tune_settings(config))
    _count_sealed(config, data, space.calls)
    return space.calls


async def _simulate_tuning(config: RunConfig, space: Simulated, rows: int, settings: Raced) -> None:
    """Each knob raced against the one at hand, on rows of its own."""
    space.asked.clear()
    space.noise.clear()
    space.chosen.clear()
    first = 0
    for number, count in enumerate(options(config.tune)):
        others = []
        for _ in range(count - 1):
            space.worth.append(space.worth[first] + space.chance.gauss(0, 0.05))
            others.append(len(space.worth) - 1)
        level = await race_level(space, number, [first, *others], rows, settings)
        first = significant_leader(level, first)


def _count_examples(config: RunConfig, chance: random.Random, calls: Counter[str]) -> None:
    table = config.examples
    for _ in range(table.queries):
        rounds = chance.randint(0, table.rounds)
        calls[TASK] += 1
        calls[OPTIMIZER] += rounds * table.beam
        calls[JUDGE] += 2 + rounds * table.beam * table.actions


def _count_sealed(config: RunConfig, data: Split, calls: Counter[str]) -> None:
    """Bundle and baseline on all rows; raw and raw-matched, which may be the same request, on some."""
    chosen: set[object] = set()
    raw = len(data.sealed) if config.data.raw is None else min(config.data.raw, len(data.sealed))
    for count in (len(data.sealed), len(data.sealed), raw, raw):
        for query in range(count):
            _count_judgement(calls, config.reward.weights, query, chosen)


async def _measure(context: RunContext) -> dict[str, Unit]:
    """What a call of each role costs, from a few training rows under the starting bundle."""
    candidate = await asyncio.to_thread(starting_candidate, context.config, context.embedder)
    spent: dict[str, list[tuple[int, float]]] = {}
    for row in context.data.train[:_PROBED]:
        before = len(context.journal.events)
        await context.screen.judge(candidate, row)
        for event in context.journal.events[before:]:
            if event.get("call") == "reply":
                spent.setdefault(event["role"], []).append((sum(event["tokens"]), event["seconds"]))
    units = {
        role: Unit(sum(tokens for tokens, _ in told) / len(told), sum(seconds for _, seconds in told) / len(told))
        for role, told in spent.items()
    }
    judged = units.get(JUDGE, units[TASK])
    # A rewrite is about as long as a verdict, several times over.
    return {OPTIMIZER: Unit(judged.tokens * 2, judged.seconds * 2), JUDGE: judged, **units}


def _range(values: Sequence[float]) -> Range:
    ordered = sorted(values)
    at = [ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))] for share in (0.5, 0.05, 0.95)]
    return Range(*at)


async def _nobody(_level: object) -> None:
    """Watches nothing."""
