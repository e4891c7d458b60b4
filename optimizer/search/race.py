"""Which of several candidates is best, for as few judgements as possible. Knows scores alone: no model and no query.

Every candidate that is still in gets a score on the same queries, a block at a time. After each block all are compared
with the leader, query by query: most of a score's variance is the query's, and a paired difference is free of it.
Whoever is behind by more than chance allows is out; who is left in the end, or leads when nobody can be ahead by more
than matters, wins.

Looking after every block would find differences where there are none, so the allowance for chance is larger early, when
a few odd queries can mislead: at n queries, critical * (n / first) ** -0.2 standard errors (the family of Wang and
Tsiatis, Biometrics 43, 1987, with parameter 0.3), with `critical` such that over all looks an equal of the leader is
out with probability alpha.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]

_EARLY_ALLOWANCE = 0.2
_BORROWED = 32
"""Queries' worth of the variance of all pairs that each pair's own is mixed with: of ten judgements that agree, the
variance is nought, and proves nothing."""
_PATHS = 20_000


@dataclass(frozen=True, slots=True)
class RaceSettings:
    """alpha: chance to drop an equal of the leader, over all looks; indifference: a lead below it does not matter, in
    the scores' unit; first, block: queries before the first look, and between looks; most: queries at all."""

    alpha: float = 0.05
    indifference: float = 0.01
    first: int = 10
    block: int = 4
    most: int = 800


@dataclass(frozen=True, slots=True)
class Block:
    """What to judge next: each of `candidates` on each query from `start` up to `end`."""

    candidates: tuple[int, ...]
    start: int
    end: int


@dataclass
class Race:
    """Ask for `next`, judge it, `note` the scores; until `over`."""

    count: int
    settings: RaceSettings
    alive: list[int] = field(init=False)
    over: bool = field(init=False, default=False)
    judgements: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        if self.count < 1 or self.settings.first < 2 or self.settings.block < 1:
            raise ValueError("a race needs a candidate, at least two queries before the first look, and one in a block")
        self.alive = list(range(self.count))
        self._scores: Scores = np.empty((self.count, 0))
        self._out: list[int] = []

    @property
    def next(self) -> Block:
        """The block to judge now."""
        start = self._scores.shape[1]
        size = self.settings.block if start else self.settings.first
        return Block(tuple(self.alive), start, min(start + size, self.settings.most))

    @property
    def leader(self) -> int:
        """The candidate with the best mean so far."""
        means = self._scores[self.alive].mean(axis=1)
        return self.alive[int(means.argmax())]

    @property
    def ranking(self) -> list[int]:
        """All candidates, best first: who is in by mean, then who is out, the last to go first."""
        means = self._scores[self.alive].mean(axis=1)
        alive = [self.alive[place] for place in np.argsort(-means, kind="stable")]
        return [*alive, *reversed(self._out)]

    def note(self, scores: Sequence[Sequence[float]]) -> None:
        """The scores of `next`: a row for each of its candidates, a column for each query; fewer columns where a query
        could not be scored. Drops who is out."""
        block, told = self.next, np.asarray(scores, dtype=np.float64)
        fits = told.ndim == 2 and len(told) == len(block.candidates) and told.shape[1] <= block.end - block.start
        if not fits or not np.isfinite(told).all():
            raise ValueError(f"expected a finite score for each of {len(block.candidates)} candidates and each query")
        columns = np.full((self.count, told.shape[1]), np.nan)
        columns[list(block.candidates)] = told
        self._scores = np.concatenate([self._scores, columns], axis=1)
        self.judgements += told.size
        if self._scores.shape[1] >= 2:
            self._look()

    def _look(self) -> None:
        """Drop who is behind by more than chance allows; end if nobody left can be ahead by more than matters."""
        leader = self.leader
        others = [candidate for candidate in self.alive if candidate != leader]
        queries = self._scores.shape[1]
        behind, allowed = self._compare(leader, others)
        contenders = behind < allowed
        beaten = [(behind[place], other) for place, other in enumerate(others) if not contenders[place]]
        self._out += [other for _, other in sorted(beaten, reverse=True)]
        self.alive = sorted([leader, *(other for place, other in enumerate(others) if contenders[place])])
        ahead_at_most = (allowed - behind)[contenders]
        settled = bool((ahead_at_most < self.settings.indifference).all())
        self.over = settled or queries >= self.settings.most

    def _compare(self, leader: int, others: Sequence[int]) -> tuple[Scores, Scores]:
        """By how much each is behind the leader in the mean, and how much of that chance may be."""
        differences = self._scores[leader] - self._scores[list(others)]
        queries = differences.shape[1]
        variances = differences.var(axis=1, ddof=1)
        common = variances.mean() if len(others) else 0.0
        errors = np.sqrt((queries * variances + _BORROWED * common) / (queries + _BORROWED) / queries)
        return differences.mean(axis=1), _allowance(
            critical_value(self.settings), queries, self.settings.first
        ) * errors


def _allowance(critical: float, queries: int | NDArray[np.int64], first: int) -> float | Scores:
    return critical * (np.asarray(queries) / first) ** -_EARLY_ALLOWANCE


@cache
def critical_value(settings: RaceSettings) -> float:
    """Such that a difference that is only chance exceeds the allowance at any look with probability alpha, one-sided;
    found on simulated sums of normal differences, always the same ones."""
    looks = np.arange(settings.first, max(settings.most, settings.first) + 1, settings.block)
    steps = np.diff(looks, prepend=0)
    noise = np.random.default_rng(0).standard_normal((_PATHS, len(looks)))
    z = np.cumsum(noise * np.sqrt(steps), axis=1) / np.sqrt(looks)
    return float(np.quantile((z / _allowance(1.0, looks, settings.first)).max(axis=1), 1 - settings.alpha))


def run_race(scores: Scores, settings: RaceSettings) -> tuple[int, int]:
    """The winner and the judgements spent, where all scores (candidates, queries) are known beforehand."""
    race = Race(len(scores), settings)
    while not race.over:
        block = race.next
        race.note(scores[list(block.candidates), block.start : block.end].tolist())
    return race.leader, race.judgements
