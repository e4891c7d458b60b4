"""Divides the slots of a level among several proposers, by what the proposers have won so far.

A slot is room for one new candidate. The rule is Thompson sampling with a beta distribution (Thompson, Biometrika 25,
1933; Chapelle and Li, An Empirical Evaluation of Thompson Sampling, NIPS 2011). A proposer wins if its candidate beats
its parent in the race. A slot that it was asked to fill, and left empty, is a loss, because asking can cost a paid
call. The chance of a proposer to win has a uniform prior. For each slot, a chance is drawn from the distribution of
each proposer, and the proposer with the highest chance gets the slot. So a proposer that has lost often still gets some
slots. A proposer that has never been tried comes before all others: a small budget has few slots, and chance alone
could give none of them to the proposer that would win most.

All draws depend on a seed, on the slot, and on the results so far. A resumed run therefore repeats them.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass
class Allocation:
    """Counts what proposers tried and won, and divides slots by these counts.

    Attributes:
        names: The names of the proposers.
        seed: The seed of the draws.
        tried: The number of candidates of each proposer that have raced.
        won: The number of these candidates that beat their parents.
        unfilled: The number of slots that each proposer was asked to fill, and left empty.
    """

    names: Sequence[str]
    seed: str
    tried: Counter[str] = field(default_factory=Counter)
    won: Counter[str] = field(default_factory=Counter)
    unfilled: Counter[str] = field(default_factory=Counter)

    def preferences(self, slots: int, occasion: str) -> list[list[str]]:
        """For each slot, return all proposers in the order of preference: the first one gets the slot.

        The others follow, in case the first one has no candidate for the slot. No proposer is first twice as long as
        there is one that has never been tried.

        Args:
            slots: The number of slots.
            occasion: A text that identifies what the slots are for. Different occasions have different draws.
        """
        rng = random.Random(f"{self.seed}:{occasion}")  # noqa: S311 - the draws need no secure random numbers
        untried = {name for name in self.names if not self.tried[name] + self.unfilled[name]}
        preferences = list[list[str]]()
        for _ in range(slots):
            ranked = sorted(self._ranked(rng), key=lambda name: name not in untried)
            untried.discard(ranked[0])
            preferences.append(ranked)
        return preferences

    def note(self, name: str, *, is_won: bool) -> None:
        """Add the result of one candidate of a proposer."""
        self.tried[name] += 1
        self.won[name] += is_won

    def note_unfilled(self, name: str, count: int = 1) -> None:
        """Add a loss of a proposer for each slot that it was asked to fill without a usable candidate."""
        self.unfilled[name] += count

    @property
    def results(self) -> Mapping[str, tuple[int, int]]:
        """For each proposer: how many of its candidates raced, and how many of these beat their parents."""
        return {name: (self.tried[name], self.won[name]) for name in self.names}

    def _ranked(self, rng: random.Random) -> list[str]:
        chances = {name: self._draw(name, rng) for name in self.names}
        return sorted(self.names, key=lambda name: -chances[name])

    def _draw(self, name: str, rng: random.Random) -> float:
        won = self.won[name]
        return rng.betavariate(1 + won, 1 + self.tried[name] - won + self.unfilled[name])
