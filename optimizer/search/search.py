"""Search over candidates that it knows nothing of: anything that can be told apart, expanded, and scored on queries.

Two recipes. `drpo` is the published algorithm (arXiv 2411.08733; the paper's own code settles what the text leaves
open): one query per level, W paths in the beam, M rewrites of each path's last prompt, the reward of a path the mean
along it; where the last answer scores above 4.5 of 5, or its judgement could not be read, the prompt is kept for the
next query and the search may go one level deeper, up to 10 times. One departure: what could not be read is left out of
the mean, where the paper's code counts it as 0. `raced` is ours: parents stay in the beam, all candidates of a level
are scored on the same queries, a block at a time, and drop out when a paired test says so (race.py).
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from optimizer.search.race import Race, RaceSettings

C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one candidate came to on one query: a score, and what a rewriter is shown of it. readable: False if the
    judge's reply was not."""

    query: int
    score: float
    told: object = None
    readable: bool = True


@dataclass(frozen=True, slots=True)
class Step(Generic[C]):
    """A candidate and its outcomes, on the path from the first candidate to the last."""

    candidate: C
    outcomes: tuple[Outcome, ...]


Path = tuple[Step[C], ...]


class Space(Protocol[C]):
    """What a search moves in."""

    def key(self, candidate: C) -> str:
        """Equal for candidates that are the same."""

    async def expand(self, path: Path[C], count: int, again: int) -> Sequence[C]:
        """New candidates in place of the path's last; at most `count`, perhaps none. again: how often it was expanded
        before; those should be others."""

    async def score(self, candidate: C, query: int) -> Outcome:
        """The candidate on the query of this number."""


@dataclass(frozen=True, slots=True)
class Published:
    """The paper's settings: W, M, D and by how much D may grow; `enough`: the score (1 to 5) from which a prompt is not
    rewritten."""

    beam: int = 2
    actions: int = 3
    depth: int = 20
    deeper: int = 10
    enough: float = 4.5


@dataclass(frozen=True, slots=True)
class _Walk(Generic[C]):
    path: Path[C]
    rewards: tuple[float, ...] = ()

    @property
    def mean(self) -> float:
        return sum(self.rewards) / len(self.rewards) if self.rewards else 0.0


async def search_published(space: Space[C], first: C, queries: int, settings: Published) -> Path[C]:
    """The best path, whose last candidate is the result. queries: how many there are, one for each level."""
    beam = [_Walk(path=(Step(first, (await space.score(first, 0),)),))]
    done: list[_Walk[C]] = []
    depth, deepest = 0, settings.depth
    while beam and depth <= deepest:
        grown: list[_Walk[C]] = []
        may_deepen = deepest < settings.depth + settings.deeper
        for walk in beam:
            if len(walk.path) >= min(deepest, queries):
                done.append(walk)
                continue
            keeps = _is_enough(walk.path[-1].outcomes[0], settings.enough)
            if keeps and may_deepen:
                deepest, may_deepen = deepest + 1, False
            last = walk.path[-1].candidate
            actions = [last] if keeps else await space.expand(walk.path, settings.actions, 0)
            for candidate in actions:
                outcome = await space.score(candidate, len(walk.path))
                reward = (outcome.score,) if outcome.readable else ()
                grown.append(_Walk((*walk.path, Step(candidate, (outcome,))), (*walk.rewards, *reward)))
        if not grown:
            done += beam
        beam = sorted(grown, key=lambda walk: -walk.mean)[: settings.beam]
        depth += 1
    return max([*done, *beam], key=lambda walk: walk.mean).path


def _is_enough(outcome: Outcome, enough: float) -> bool:
    return not outcome.readable or outcome.score > enough


@dataclass(frozen=True, slots=True)
class Raced:
    """Our settings. beam: candidates kept per level; actions: new ones from each; depth: levels at most; patience:
    levels without a better leader after which the search ends; race: how candidates are compared."""

    beam: int = 2
    actions: int = 3
    depth: int = 8
    patience: int = 2
    race: RaceSettings = field(default_factory=RaceSettings)


@dataclass(frozen=True, slots=True)
class Level(Generic[C]):
    """What one level came to: candidates, best first, each with its outcomes; those beyond `kept` are out."""

    number: int
    ranked: tuple[Step[C], ...]
    kept: int


Watch = Callable[[Level[C]], Awaitable[None]]


async def search_raced(
    space: Space[C], first: C, queries: int, settings: Raced, watch: Watch[C]
) -> tuple[Step[C], tuple[Level[C], ...]]:
    """The best-estimated candidate with its outcomes, and all levels. `watch` is called after each."""
    paths: dict[str, Path[C]] = {space.key(first): (Step(first, ()),)}
    beam, levels, without_better = [first], list[Level[C]](), 0
    expanded: Counter[str] = Counter()
    for number in range(settings.depth):
        again = [expanded[space.key(one)] for one in beam]
        fresh = await _expand_all(space, [paths[space.key(one)] for one in beam], again, settings.actions, set(paths))
        expanded.update(space.key(one) for one in beam)
        for parent, child in fresh:
            paths[space.key(child)] = (*paths[space.key(parent)], Step(child, ()))
        if not fresh:
            break
        level = await race_level(space, number, [*beam, *(child for _, child in fresh)], queries, settings)
        levels.append(level)
        await watch(level)
        for step in level.ranked:
            paths[space.key(step.candidate)] = (*paths[space.key(step.candidate)][:-1], step)
        leader = level.ranked[0].candidate
        without_better = without_better + 1 if space.key(leader) == space.key(beam[0]) else 0
        beam = [step.candidate for step in level.ranked[: level.kept]]
        if without_better >= settings.patience:
            break
    return paths[space.key(beam[0])][-1], tuple(levels)


async def _expand_all(
    space: Space[C], paths: Sequence[Path[C]], again: Sequence[int], count: int, known: set[str]
) -> list[tuple[C, C]]:
    """Parents and their new children, none twice and none known."""
    pairs = zip(paths, again, strict=True)
    found = await asyncio.gather(*(space.expand(path, count, times) for path, times in pairs))
    fresh = []
    for path, children in zip(paths, found, strict=True):
        for child in children:
            if space.key(child) not in known:
                known.add(space.key(child))
                fresh.append((path[-1].candidate, child))
    return fresh


async def race_level(space: Space[C], number: int, candidates: Sequence[C], queries: int, settings: Raced) -> Level[C]:
    """Race the candidates on the queries in their order, and rank them."""
    race = Race(len(candidates), _fitted(settings.race, queries))
    outcomes: list[list[Outcome]] = [[] for _ in candidates]
    next_query = 0
    while not race.over and next_query < queries:
        block = race.next
        asked = range(next_query, min(next_query + block.end - block.start, queries))
        next_query = asked.stop
        said = await _score_all(space, [candidates[one] for one in block.candidates], asked)
        for one, row in zip(block.candidates, said, strict=True):
            outcomes[one] += row
        race.note([[outcome.score for outcome in row] for row in said])
    ranked = tuple(Step(candidates[one], tuple(outcomes[one])) for one in race.ranking)
    return Level(number, ranked, min(settings.beam, len(ranked)))


async def _score_all(space: Space[C], candidates: Sequence[C], queries: range) -> list[list[Outcome]]:
    """Every candidate on every query; a query that could not be scored for one of them counts for none."""
    asked = [space.score(candidate, query) for candidate in candidates for query in queries]
    said = await asyncio.gather(*asked)
    rows = [said[start : start + len(queries)] for start in range(0, len(said), len(queries))]
    readable = [place for place in range(len(queries)) if all(row[place].readable for row in rows)]
    return [[row[place] for place in readable] for row in rows]


def _fitted(settings: RaceSettings, queries: int) -> RaceSettings:
    """No more queries than there are."""
    most = min(settings.most, queries)
    first = min(settings.first, most)
    return RaceSettings(settings.alpha, settings.indifference, first, settings.block, most)
