"""Measures which settings of a race let a search gain most for the same number of scores: docs/benchmarks/optimizer.md.

    python -m tests.bench.optimizers.race_settings              prints the table
    python -m tests.bench.optimizers.race_settings --draws 400  more draws

It runs the real search of the recipe `raced`. Only the candidates and their scores are drawn by chance. A new candidate
differs from its parent by a small, a middle or a large edit. An edit changes the true mean of the scores, and the score
of each query. The sizes of these changes come from two real runs on gemma-3-270m (30 November 2026). In these runs, the
difference between the scores of a candidate and its parent on one query had a standard deviation of 0.10 to 0.43. Most
edits make a candidate worse. The gain is the true mean of the search's result minus the true mean of the first
candidate. A search cannot see true means, so a result that fits its queries by luck gains nothing.
"""

import argparse
import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Final

import numpy as np
from numpy.typing import NDArray

from optimizer.search.levels import Level, RacedSettings
from optimizer.search.race import RaceSettings
from optimizer.search.raced import search_raced
from optimizer.search.space import Outcome, Path

QUERIES: Final = 290
NOISE_OF_FIRST: Final = 0.3  # the standard deviation of the first candidate's scores
EDITS: Final = ((0.10, 0.02), (0.15, 0.03), (0.35, 0.06))
"""For a small, a middle and a large edit: standard deviations of the change of a score, and of the true mean."""
LOSS: Final = -0.01
"""The mean of the change of the true mean, if an edit is so small that the change hardly varies."""
ALPHAS: Final = (0.05, 0.2, 0.35, 0.5, 0.8)
LENGTHS: Final = (36, 60, 120)


class SpentError(Exception):
    """The space may give no more scores."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """A candidate.

    Attributes:
        name: Its key.
        truth: The true mean of its scores, over all queries that there could be.
        scores: Its score on each query.
    """

    name: str
    truth: float
    scores: NDArray[np.float64]


@dataclass
class DrawnSpace:
    """A space whose candidates are drawn by chance. It counts the scores that it gives, each score of a candidate once.

    Attributes:
        chance: The source of random numbers.
        left: The number of scores that the space may still give.
        known: The scores that were given, as pairs of a candidate's key and the number of a query.
        made: Number of candidates that were made.
    """

    chance: np.random.Generator
    left: int
    known: set[tuple[str, int]] = field(default_factory=set)
    made: int = 0

    def key(self, candidate: Drawn) -> str:
        """Return the name of a candidate."""
        return candidate.name

    async def expand(self, path: Path[Drawn], count: int, again: int) -> Sequence[Drawn]:
        """Draw new candidates from the last one of a path."""
        return [self._child(path[-1].candidate) for _ in range(count)]

    async def score(self, candidate: Drawn, query: int) -> Outcome:
        """Return the score of a candidate on a query.

        Raises:
            SpentError: No scores are left.
        """
        if (candidate.name, query) not in self.known:
            if self.left == 0:
                raise SpentError
            self.left -= 1
            self.known.add((candidate.name, query))
        return Outcome(query, float(candidate.scores[query]))

    def _child(self, parent: Drawn) -> Drawn:
        self.made += 1
        noise, effect = EDITS[self.chance.integers(len(EDITS))]
        change = self.chance.normal(LOSS - effect / 4, effect)
        scores = parent.scores + change + self.chance.normal(0.0, noise, QUERIES)
        return Drawn(str(self.made), parent.truth + change, scores)


def gain(settings: RacedSettings, scores: int, seed: int) -> tuple[float, int]:
    """Run one search with a number of scores. Return its gain, and the number of levels that it began."""
    space = DrawnSpace(np.random.default_rng(seed), scores)
    first = Drawn("first", 0.0, space.chance.normal(0.0, NOISE_OF_FIRST, QUERIES))
    kept = [first]

    async def keep(candidate: Drawn) -> None:
        kept.append(candidate)

    async def keep_leader(level: Level[Drawn]) -> None:
        kept.append(level.best)
        levels.append(level.number)

    levels: list[int] = []
    with contextlib.suppress(SpentError):
        asyncio.run(search_raced(space, first, QUERIES, settings, keep_leader, keep))
    return kept[-1].truth, len(levels) + 1


def settings_of(alpha: float, length: int) -> RacedSettings:
    """Return the settings of a search that ends when its scores are spent."""
    return RacedSettings(depth=1_000, patience=1_000, race=RaceSettings(alpha, 0.005, 10, 4, length))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=100, help="searches for each setting [100]")
    parser.add_argument("--scores", type=int, nargs="+", default=[200, 600, 1600], help="sizes of the budget")
    options = parser.parse_args()
    print("Gain for each number of scores, with its standard error, and levels\n")
    print("| alpha | queries | " + " | ".join(f"{scores:,} scores" for scores in options.scores) + " |")
    print("| --- " * (2 + len(options.scores)) + "|")
    for alpha in ALPHAS:
        for length in LENGTHS:
            cells = [_cell(settings_of(alpha, length), scores, options.draws) for scores in options.scores]
            print(f"| {alpha} | {length} | {' | '.join(cells)} |", flush=True)


def _cell(settings: RacedSettings, scores: int, draws: int) -> str:
    results = [gain(settings, scores, seed) for seed in range(draws)]
    gains = [one for one, _ in results]
    error = stdev(gains) / len(gains) ** 0.5
    return f"{mean(gains):.3f} ± {error:.3f}, {mean(levels for _, levels in results):.1f}"


if __name__ == "__main__":
    main()
