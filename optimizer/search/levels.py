"""One level of a search: races candidates on the same queries, and ranks them."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from math import sqrt
from statistics import mean, stdev
from typing import Generic

from optimizer.core.concurrency import gather_or_cancel
from optimizer.search.race import Race, RaceSettings
from optimizer.search.space import C, Outcome, Space, Step

LookCallback = Callable[[C], Awaitable[None]]
"""Called after each look of a race with the candidate to keep if the race is interrupted now."""


@dataclass(frozen=True, slots=True)
class RacedSettings:
    """The settings of the recipe `raced`.

    Attributes:
        beam: Number of candidates that a level keeps for the next level.
        actions: Number of new candidates to make from each kept candidate.
        depth: Maximum number of levels.
        patience: The search ends when this number of consecutive levels has not changed the best candidate.
        race: The settings of the race in each level.
    """

    beam: int = 2
    actions: int = 3
    depth: int = 8
    patience: int = 2
    race: RaceSettings = field(default_factory=RaceSettings)

    @property
    def max_candidates(self) -> int:
        """The largest number of candidates in a level: the best one so far, the kept ones and their new candidates."""
        return 1 + self.beam * (1 + self.actions)


@dataclass(frozen=True, slots=True)
class Level(Generic[C]):
    """The result of one level.

    Attributes:
        number: The level's number, from 0.
        ranked: The candidates with their outcomes, best first.
        kept: Number of candidates, from the first one in `ranked`, that the search keeps for the next level.
        best: The best candidate so far: the leader of the level if it is clearly ahead of the best candidate before the
            level, else that candidate.
        queries: Number of queries that the race used.
    """

    number: int
    ranked: tuple[Step[C], ...]
    kept: int
    best: C
    queries: int = 0


def mean_lead(one: Step[C], other: Step[C]) -> float:
    """Return the mean difference between the scores of two candidates of a level, on the queries that both answered.

    A race drops candidates, so that one of them may have answered fewer queries. Without a shared query, the lead is 0.
    """
    leads = paired_leads(one, other)
    return sum(leads) / len(leads) if leads else 0.0


def is_clearly_ahead(one: Step[C], other: Step[C], indifference: float) -> bool:
    """Whether one candidate of a level leads another by more than `indifference` and by more than a standard error.

    The standard error is that of the paired differences on the queries that both answered. Of several candidates that
    are equally good, one nearly always has a higher mean than the others by chance, but seldom by so much.
    """
    leads = paired_leads(one, other)
    return len(leads) > 1 and mean(leads) > max(indifference, stdev(leads) / sqrt(len(leads)))


def paired_leads(one: Step[C], other: Step[C]) -> list[float]:
    """Return the difference between the scores of two candidates of a level, on each query that both answered."""
    pairs = zip(one.outcomes, other.outcomes, strict=False)
    return [first.score - second.score for first, second in pairs]


async def race_level(
    space: Space[C],
    number: int,
    candidates: Sequence[C],
    queries: int,
    settings: RacedSettings,
    on_look: LookCallback[C] | None = None,
    first_query: int = 0,
) -> Level[C]:
    """Race candidates on the query with the number `first_query` and those after it, and rank the candidates.

    Args:
        space: How candidates are scored.
        number: The number of the level, from 0.
        candidates: The candidates to race. The first one is the best candidate so far.
        queries: The number of queries that exist. The race uses at most this number.
        settings: The settings of the recipe.
        on_look: Called after each look with the leader, or with the best candidate so far as long as the leader is not
            clearly ahead of it.
        first_query: The number of the first query. After the last query, the race goes on with the query 0.
    """
    race = Race(len(candidates), _limited_to(settings.race, queries))
    outcomes: list[list[Outcome]] = [[] for _ in candidates]
    next_query = 0
    while not race.over and next_query < queries:
        block = race.next
        numbers = range(next_query, min(next_query + block.end - block.start, queries))
        next_query = numbers.stop
        rows = await _score_all(
            space, [candidates[index] for index in block.candidates], [(first_query + one) % queries for one in numbers]
        )
        for index, row in zip(block.candidates, rows, strict=True):
            outcomes[index] += row
        race.note([[outcome.score for outcome in row] for row in rows])
        if on_look is not None:
            await on_look(_best(candidates, outcomes, race.leader, settings.race.indifference))
    ranked = tuple(Step(candidates[index], tuple(outcomes[index])) for index in race.ranking)
    best = _best(candidates, outcomes, race.leader, settings.race.indifference)
    return Level(number, ranked, min(settings.beam, len(ranked)), best, next_query)


def _best(candidates: Sequence[C], outcomes: Sequence[Sequence[Outcome]], leader: int, indifference: float) -> C:
    """Return the leader if it is clearly ahead of the first candidate, else the first candidate."""
    one, first = (Step(candidates[index], tuple(outcomes[index])) for index in (leader, 0))
    return one.candidate if is_clearly_ahead(one, first, indifference) else first.candidate


async def _score_all(space: Space[C], candidates: Sequence[C], queries: Sequence[int]) -> list[list[Outcome]]:
    """Score every candidate on every query. Return a list of outcomes for each candidate.

    If the outcome of one candidate on a query is not readable, the query is left out for all candidates. The scores of
    the candidates therefore belong to the same queries.
    """
    scores = [space.score(candidate, query) for candidate in candidates for query in queries]
    outcomes = await gather_or_cancel(scores)
    rows = [outcomes[start : start + len(queries)] for start in range(0, len(outcomes), len(queries))]
    readable = [column for column in range(len(queries)) if all(row[column].readable for row in rows)]
    return [[row[column] for column in readable] for row in rows]


def _limited_to(settings: RaceSettings, queries: int) -> RaceSettings:
    """Return the settings, changed so that the race uses at most this number of queries."""
    max_queries = min(settings.max_queries, queries)
    return replace(settings, max_queries=max_queries, first_look=min(settings.first_look, max_queries))
