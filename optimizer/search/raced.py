"""The recipe `raced`: a beam search in which each level is a race (race.py).

Each candidate of the beam is the parent of several new candidates. A level makes these new candidates, and then races
them and their parents on the same queries. The best candidates of the race are the beam of the next level.

Each level uses the queries after those of the level before it. New candidates are made from the failures of their
parents. On the queries of these failures, they would win because they fit these queries, and not because they are
better.

The best candidate so far takes part in every race, even if it is no longer in the beam. It is replaced only by a leader
that is clearly ahead of it (`Level.best`). A candidate may be in the beam by chance, but the result should not be due
to chance.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from optimizer.search.levels import Level, LookCallback, RacedSettings, race_level
from optimizer.search.space import C, Path, Space, Step

LevelCallback = Callable[[Level[C]], Awaitable[None]]


async def search_raced(
    space: Space[C],
    first: C,
    queries: int,
    settings: RacedSettings,
    on_level: LevelCallback[C],
    on_look: LookCallback[C] | None = None,
    first_query: int = 0,
) -> tuple[Step[C], tuple[Level[C], ...]]:
    """Search for better candidates, beginning with a first candidate.

    Args:
        space: How candidates are expanded and scored.
        first: The candidate to begin with.
        queries: The number of queries.
        settings: The settings of the recipe.
        on_level: Called with the result of each level.
        on_look: Called after each look of a level's race, with the candidate to keep if the search is interrupted now.
        first_query: The number of the query with which the first level begins.

    Returns:
        The best candidate after the last level with its outcomes, and the results of all levels. If the search makes no
        new candidates from the first candidate, there are no levels, and the best candidate is the first candidate with
        no outcomes.
    """
    paths: dict[str, Path[C]] = {space.key(first): (Step(first, ()),)}
    beam, best, levels, without_new_best = [first], first, list[Level[C]](), 0
    expanded: Counter[str] = Counter()
    next_query = first_query
    for number in range(settings.depth):
        again = [expanded[space.key(candidate)] for candidate in beam]
        beam_paths = [paths[space.key(candidate)] for candidate in beam]
        new = await _expand_all(space, beam_paths, again, settings.actions, set(paths))
        expanded.update(space.key(candidate) for candidate in beam)
        for parent, child in new:
            paths[space.key(child)] = (*paths[space.key(parent)], Step(child, ()))
        if not new:
            break
        others = [*beam, *(child for _, child in new)]
        candidates = [best, *(other for other in others if space.key(other) != space.key(best))]
        level = await race_level(space, number, candidates, queries, settings, on_look, next_query)
        levels.append(level)
        next_query = (next_query + level.queries) % queries
        await on_level(level)
        for step in level.ranked:
            paths[space.key(step.candidate)] = (*paths[space.key(step.candidate)][:-1], step)
        without_new_best = without_new_best + 1 if space.key(level.best) == space.key(best) else 0
        best = level.best
        beam = [step.candidate for step in level.ranked[: level.kept]]
        if without_new_best >= settings.patience:
            break
    return paths[space.key(best)][-1], tuple(levels)


async def _expand_all(
    space: Space[C], paths: Sequence[Path[C]], again: Sequence[int], count: int, known: set[str]
) -> list[tuple[C, C]]:
    """Expand the last candidate of each path, the parent. Return pairs of a parent and a new candidate, its child.

    A child is left out if `known` contains its key. The keys of the returned children are added to `known`. The paths
    are expanded one after the other, because what the space makes of one path can depend on the paths before it.
    """
    new = []
    for path, times in zip(paths, again, strict=True):
        for child in await space.expand(path, count, times):
            if space.key(child) not in known:
                known.add(space.key(child))
                new.append((path[-1].candidate, child))
    return new
