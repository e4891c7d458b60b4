"""The algorithm `published`: the beam search of DRPO (arXiv 2411.08733), with one query for each level.

The beam holds W paths; a path is a sequence of prompts. Each level makes M rewrites of the last prompt of each path. A
path and one of these rewrites form a new path. The level scores the rewrites on its query, and keeps the W new paths
with the highest rewards. The reward of a path is the mean of the scores of its prompts, without the first prompt.

The last prompt of a path is kept for the next query, and not rewritten, if its score is above 4.5 of 5 or its judgement
could not be parsed. Each level with such a path adds one level to the maximum depth, until ten levels are added. Where
the paper leaves a detail open, this module does what the authors' code does.

A judgement that cannot be parsed counts as 0 in the mean of its path, as in the authors' code. If `counts_unreadable`
is false, the query of the level is instead left out of the means of all paths, so that the means belong to the same
queries.

A path is dropped if no rewrite of its last prompt can be used, as in the authors' code. If this happens to all paths of
the beam, the search ends with these paths.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Generic

from optimizer.search.space import C, Outcome, Path, Space, Step

_FULL_SCORE: Final = 5.0


@dataclass(frozen=True, slots=True)
class PublishedSettings:
    """The paper's settings.

    Attributes:
        beam: Number of paths that a level keeps (W).
        actions: Number of rewrites of each prompt (M).
        depth: Maximum number of levels, without the extra levels (D).
        max_extra_depth: Maximum number of levels that kept prompts add to `depth`.
        keep_above: A path keeps its last prompt if the score of this prompt is above this value (scale from 1 to 5).
        counts_unreadable: Whether a judgement that cannot be parsed counts as 0 in the mean of its path. If not, its
            query is left out of the means of all paths.
    """

    beam: int = 2
    actions: int = 3
    depth: int = 20
    max_extra_depth: int = 10
    keep_above: float = 4.5
    counts_unreadable: bool = True


@dataclass(frozen=True, slots=True)
class _ScoredPath(Generic[C]):
    path: Path[C]
    rewards: tuple[float, ...] = ()

    @property
    def mean(self) -> float:
        return sum(self.rewards) / len(self.rewards) if self.rewards else 0.0


async def search_published(
    space: Space[C],
    first: C,
    queries: int,
    settings: PublishedSettings,
    on_level: Callable[[Path[C]], Awaitable[None]],
) -> Path[C]:
    """Search for better candidates, beginning with a first candidate.

    Args:
        space: How candidates are expanded and scored.
        first: The candidate to begin with.
        queries: The number of queries. Each level uses the next query.
        settings: The paper's settings.
        on_level: Called after each level with the best path so far.

    Returns:
        The best path; its last candidate is the result.
    """
    beam = [_ScoredPath(path=(Step(first, (await space.score(first, 0),)),))]
    finished: list[_ScoredPath[C]] = []
    depth, max_depth = 0, settings.depth
    while beam and depth <= max_depth:
        extended: list[_ScoredPath[C]] = []
        may_deepen = max_depth < settings.depth + settings.max_extra_depth
        for scored in beam:
            if len(scored.path) >= min(max_depth, queries):
                finished.append(scored)
                continue
            last = scored.path[-1]
            is_kept = keeps_prompt(last.outcomes[0], settings.keep_above)
            if is_kept and may_deepen:
                max_depth, may_deepen = max_depth + 1, False
            expanded = [last.candidate] if is_kept else await space.expand(scored.path, settings.actions, 0)
            for candidate in expanded:
                outcome = await space.score(candidate, len(scored.path))
                extended.append(_ScoredPath((*scored.path, Step(candidate, (outcome,))), scored.rewards))
        if not extended:
            finished += beam
        if settings.counts_unreadable or all(one.path[-1].outcomes[0].readable for one in extended):
            extended = [replace(one, rewards=(*one.rewards, one.path[-1].outcomes[0].score)) for one in extended]
        beam = sorted(extended, key=lambda scored: -scored.mean)[: settings.beam]
        depth += 1
        await on_level(_best([*finished, *beam]).path)
    return _best([*finished, *beam]).path


def _best(paths: Sequence[_ScoredPath[C]]) -> _ScoredPath[C]:
    return max(paths, key=lambda scored: scored.mean)


def keeps_prompt(outcome: Outcome, keep_above: float) -> bool:
    """Whether a path keeps its last prompt for the next query, after the judgement of this prompt on its query.

    It does if the score is above `keep_above`, or if the judgement could not be parsed. If all criteria have the
    highest score, so has their mean, and the prompt is kept whatever `keep_above` is.
    """
    return not outcome.readable or outcome.score > keep_above or outcome.score >= _FULL_SCORE
