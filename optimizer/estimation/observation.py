"""What the few calls of an estimate show about the scores of a run. Simulations draw their random scores from it."""

from dataclasses import dataclass
from math import sqrt
from random import Random
from statistics import mean
from typing import Final

_PRIOR_DEVIATION: Final = 0.2  # the usual standard deviation of scores from 0 to 1
_PRIOR_SCORES: Final = 1
"""The number of scores that the usual deviation counts as, when it is combined with the observed scores."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen before the run.

    Attributes:
        scores: The scores of the starting prompt on a few rows, from 0 to 1. Empty if there are none.
        is_full: Whether the judge gave full scores to the answer that was judged for an example, so that a run does not
            rewrite it. None if no answer was judged.
    """

    scores: tuple[float, ...] = ()
    is_full: bool | None = None

    def deviation(self, rng: Random) -> float:
        """Draw the standard deviation of the scores of a simulation."""
        center = mean(self.scores)
        squares = sum((score - center) ** 2 for score in self.scores) + _PRIOR_SCORES * _PRIOR_DEVIATION**2
        return rng.uniform(0.5, 1.5) * sqrt(squares / (len(self.scores) + _PRIOR_SCORES))

    def mean(self, rng: Random, deviation: float) -> float:
        """Draw the mean of the scores of a simulation. It is uncertain because only a few scores were seen."""
        return min(1.0, max(0.0, rng.gauss(mean(self.scores), deviation / sqrt(len(self.scores)))))

    def rounds(self, rng: Random, share: float, most: int) -> int:
        """Draw the number of rounds in which an answer is rewritten, until the judge gives full scores.

        Args:
            rng: The source of random numbers.
            share: The share of judged answers without full scores.
            most: The maximum number of rounds.
        """
        return next((number for number in range(most) if rng.random() >= share), most)

    def share_to_rewrite(self, rng: Random) -> float:
        """Draw the share of judged answers without full scores. One answer was seen, so the share is uncertain."""
        return rng.betavariate(1 + (not self.is_full), 1 + bool(self.is_full))


NOTHING_SEEN: Final = Observation()
