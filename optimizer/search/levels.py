"""One level of a search: candidates are raced on the same queries and ranked."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Generic

from optimizer.search.race import Race, RaceSettings
from optimizer.search.space import C, Outcome, Space, Step


@dataclass(frozen=True, slots=True)
class RacedSettings:
    """The settings of the recipe `raced`.

    Attributes:
        beam: Candidates kept per level.
        actions: New candidates from each kept one.
        depth: The most levels.
        patience: The search ends after this many levels without a new leader.
        race: How the candidates of a level are compared.
    """

    beam: int = 2
    actions: int = 3
    depth: int = 8
    patience: int = 2
    race: RaceSettings = field(default_factory=RaceSettings)


@dataclass(frozen=True, slots=True)
class Level(Generic[C]):
    """The result of one level.

    Attributes:
        number: The level's number, from 0.
        ranked: The candidates with their outcomes, best first.
        kept: The number of candidates, from the first one on, that the search goes on with.
    """

    number: int
    ranked: tuple[Step[C], ...]
    kept: int


async def race_level(
    space: Space[C], number: int, candidates: Sequence[C], queries: int, settings: RacedSettings
) -> Level[C]:
    """Race candidates on the queries in their order, and rank them."""
    race = Race(len(candidates), _limited_to(settings.race, queries))
    outcomes: list[list[Outcome]] = [[] for _ in candidates]
    next_query = 0
    while not race.over and next_query < queries:
        block = race.next
        numbers = range(next_query, min(next_query + block.end - block.start, queries))
        next_query = numbers.stop
        rows = await _score_all(space, [candidates[index] for index in block.candidates], numbers)
        for index, row in zip(block.candidates, rows, strict=True):
            outcomes[index] += row
        race.note([[outcome.score for outcome in row] for row in rows])
    ranked = tuple(Step(candidates[index], tuple(outcomes[index])) for index in race.ranking)
    return Level(number, ranked, min(settings.beam, len(ranked)))


async def _score_all(space: Space[C], candidates: Sequence[C], queries: range) -> list[list[Outcome]]:
    """Score every candidate on every query; drop a query if one of its outcomes is not readable."""
    scores = [space.score(candidate, query) for candidate in candidates for query in queries]
    outcomes = await asyncio.gather(*scores)
    rows = [outcomes[start : start + len(queries)] for start in range(0, len(outcomes), len(queries))]
    readable = [column for column in range(len(queries)) if all(row[column].readable for row in rows)]
    return [[row[column] for column in readable] for row in rows]


def _limited_to(settings: RaceSettings, queries: int) -> RaceSettings:
    """The settings for a race with no more than this many queries."""
    max_queries = min(settings.max_queries, queries)
    return replace(settings, max_queries=max_queries, first_look=min(settings.first_look, max_queries))
