"""A race finds the best of several candidates with as few judgements as possible.

This module does not depend on what a candidate is: it uses only the scores of the candidates.

Every candidate that is still in the race gets scores on the same queries, a block of queries at a time. After each
block, the race compares all candidates with the leader. This comparison is called a look. It is a paired test, because
the query causes most of the variance of a score, and a paired difference removes this part of the variance. A candidate
that is further behind the leader than chance explains is dropped. The race ends when one candidate is left, when no
other candidate can be better than the leader by more than the setting `indifference`, or when the maximum number of
queries is reached.

An ordinary test at every look would drop equally good candidates too often, because each look can be wrong. The race is
therefore a group sequential test. Its critical value is larger at early looks, when a few unusual queries can mislead.
After n queries, it is `critical` times (n / first_look) ** -0.2 standard errors. This form is from the family of Wang
and Tsiatis (Biometrics 43, 1987), in which the exponent is the parameter Delta minus 0.5: here, Delta is 0.3. The
factor `critical` is chosen so that a candidate as good as the leader is dropped with probability alpha in all looks
together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]

_BOUNDARY_EXPONENT = 0.2
_PRIOR_QUERIES = 32
"""Weight of the common variance, as a number of queries.

The race needs the variance of each candidate's differences to the leader. It estimates this variance as a weighted mean
of the candidate's own variance, whose weight is the number of queries, and the common variance, which is the mean over
all candidates. If only the candidate's own variance counted, ten equal differences would have a variance of 0, and the
race would treat this lead as certain.
"""
_SIMULATED_PATHS = 20_000


@dataclass(frozen=True, slots=True)
class RaceSettings:
    """The settings of a race.

    Attributes:
        alpha: Probability that a candidate as good as the leader is dropped, in all looks together.
        indifference: The race ends when no other candidate can be better than the leader by more than this value. The
            unit is that of the scores.
        first_look: Number of queries before the first look.
        block_size: Number of queries between two looks.
        max_queries: Number of queries after which the race ends.
    """

    alpha: float = 0.05
    indifference: float = 0.01
    first_look: int = 10
    block_size: int = 4
    max_queries: int = 800


@dataclass(frozen=True, slots=True)
class Block:
    """The scores that the race needs next: one score for each of the candidates on each query of a range.

    Attributes:
        candidates: The numbers of the candidates.
        start: The number of the first query.
        end: One more than the number of the last query, as in a Python range.
    """

    candidates: tuple[int, ...]
    start: int
    end: int


@dataclass
class Race:
    """A race of candidates. Until `over` is true, the caller scores the block `next` and passes the scores to `note`.

    Attributes:
        count: How many candidates there are. They are represented by the numbers 0, 1, 2 and so on.
        settings: The settings of the race.
        alive: Candidates that have not been dropped.
        over: Whether the race has ended.
        judgements: The number of scores that `note` has received.
    """

    count: int
    settings: RaceSettings
    alive: list[int] = field(init=False)
    over: bool = field(init=False, default=False)
    judgements: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        if self.count < 1 or self.settings.first_look < 2 or self.settings.block_size < 1:
            raise ValueError(
                "a race needs at least one candidate, two queries before the first look, and one query in each block"
            )
        self.alive = list(range(self.count))
        self._scores: Scores = np.empty((self.count, 0))
        self._dropped: list[int] = []

    @property
    def next(self) -> Block:
        """The block to score next."""
        start = self._scores.shape[1]
        size = self.settings.block_size if start else self.settings.first_look
        return Block(tuple(self.alive), start, min(start + size, self.settings.max_queries))

    @property
    def leader(self) -> int:
        """The candidate with the highest mean score so far, among those that have not been dropped."""
        means = self._scores[self.alive].mean(axis=1)
        return self.alive[int(means.argmax())]

    @property
    def ranking(self) -> list[int]:
        """All candidates, best first.

        Candidates that are still in the race come first, ordered by their mean score. Dropped candidates follow: those
        that were dropped later come before those that were dropped earlier.
        """
        means = self._scores[self.alive].mean(axis=1)
        alive = [self.alive[index] for index in np.argsort(-means, kind="stable")]
        return [*alive, *reversed(self._dropped)]

    def note(self, scores: Sequence[Sequence[float]]) -> None:
        """Add the scores of the block `next`, and drop the candidates that are significantly behind the leader.

        Args:
            scores: A row for each candidate of the block and a column for each query. If one candidate has no score on
                a query, the caller leaves out the column of this query.
        """
        block, added = self.next, np.asarray(scores, dtype=np.float64)
        fits = added.ndim == 2 and len(added) == len(block.candidates) and added.shape[1] <= block.end - block.start
        if not fits or not np.isfinite(added).all():
            raise ValueError(f"expected a finite score for each of {len(block.candidates)} candidates and each query")
        columns = np.full((self.count, added.shape[1]), np.nan)
        columns[list(block.candidates)] = added
        self._scores = np.concatenate([self._scores, columns], axis=1)
        self.judgements += added.size
        if self._scores.shape[1] >= 2:
            self._look()

    def _look(self) -> None:
        """Drop the candidates that are significantly behind the leader, and decide whether the race is over.

        The race is over if no other candidate can be better than the leader by more than the setting `indifference`, or
        if the maximum number of queries is reached.
        """
        leader = self.leader
        others = [candidate for candidate in self.alive if candidate != leader]
        queries = self._scores.shape[1]
        behind, allowed = self._compare(leader, others)
        contenders = behind < allowed
        beaten = [(behind[index], other) for index, other in enumerate(others) if not contenders[index]]
        self._dropped += [other for _, other in sorted(beaten, reverse=True)]
        self.alive = sorted([leader, *(other for index, other in enumerate(others) if contenders[index])])
        max_lead = (allowed - behind)[contenders]
        is_settled = bool((max_lead < self.settings.indifference).all())
        self.over = is_settled or queries >= self.settings.max_queries

    def _compare(self, leader: int, others: Sequence[int]) -> tuple[Scores, Scores]:
        """Return two arrays with a value for each of the candidates `others`.

        The first array holds the distance of the candidate's mean score from the leader's. The second array holds the
        largest distance that chance explains.
        """
        differences = self._scores[leader] - self._scores[list(others)]
        queries = differences.shape[1]
        variances = differences.var(axis=1, ddof=1)
        common = variances.mean() if len(others) else 0.0
        errors = np.sqrt((queries * variances + _PRIOR_QUERIES * common) / (queries + _PRIOR_QUERIES) / queries)
        boundary = _boundary(critical_value(self.settings), queries, self.settings.first_look)
        return differences.mean(axis=1), boundary * errors


def _boundary(critical: float, queries: int | NDArray[np.int64], first_look: int) -> float | Scores:
    """Return the critical value after a number of queries, in standard errors."""
    return critical * (np.asarray(queries) / first_look) ** -_BOUNDARY_EXPONENT


@cache
def critical_value(settings: RaceSettings) -> float:
    """Return the factor `critical`, which the docstring of this module explains. The test is one-sided.

    With this factor, a candidate as good as the leader exceeds the critical value at one or more looks with probability
    alpha. To find the factor, the function simulates races with normally distributed differences. The factor is the
    quantile 1 - alpha of the largest test statistic of a race. The seed of the simulation is fixed, so that equal
    settings give equal factors.
    """
    last = max(settings.max_queries, settings.first_look)
    looks = np.arange(settings.first_look, last + 1, settings.block_size)
    steps = np.diff(looks, prepend=0)
    noise = np.random.default_rng(0).standard_normal((_SIMULATED_PATHS, len(looks)))
    z = np.cumsum(noise * np.sqrt(steps), axis=1) / np.sqrt(looks)
    return float(np.quantile((z / _boundary(1.0, looks, settings.first_look)).max(axis=1), 1 - settings.alpha))


def run_race(scores: Scores, settings: RaceSettings) -> tuple[int, int]:
    """Run a race on scores that are all known before. Return the winner and the number of scores that the race used.

    Args:
        scores: The scores, shape (candidates, queries).
        settings: The settings of the race. `max_queries` must not exceed the number of queries.
    """
    race = Race(len(scores), settings)
    while not race.over:
        block = race.next
        race.note(scores[list(block.candidates), block.start : block.end].tolist())
    return race.leader, race.judgements
