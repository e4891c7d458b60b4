"""Limits the queries that a race may use, so that the budget is enough for several levels. All functions are pure."""

from dataclasses import dataclass, fields, replace
from math import inf, isinf
from typing import Final

from optimizer.core.budget import Limits
from optimizer.search.levels import RacedSettings

_LEVEL_SHARE: Final = 0.6
"""The largest share of the scores that a level can use if its race drops no candidate.

With the usual beam and actions, a level has at most nine candidates, and the first level has four. A race then uses at
most a fifteenth of the scores for each candidate, and the first two levels at most seven eighths of all scores.
"""


@dataclass(frozen=True, slots=True)
class ScoreCost:
    """The mean cost of one score: of an answer and its rewards. `Limits` has the same attributes.

    Attributes:
        calls: The number of calls.
        tokens: The number of prompt and completion tokens.
        money: The price of the tokens.
        minutes: The time in minutes, divided by the number of calls that are made at the same time.
    """

    calls: float
    tokens: float = 0.0
    money: float = 0.0
    minutes: float = 0.0


@dataclass(frozen=True, slots=True)
class Allowance:
    """How many scores the rest of a budget allows.

    Attributes:
        scores: The number of scores; infinite if there is no limit.
        limit: The name of the limit that allows the fewest scores; empty if there is no limit.
    """

    scores: float = inf
    limit: str = ""

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit."""
        return not isinf(self.scores)


def allowed_scores(left: Limits, cost: ScoreCost) -> Allowance:
    """Return how many scores the rest of a budget allows.

    Args:
        left: What is left of each limit.
        cost: The cost of one score.
    """
    found = Allowance()
    for name in (one.name for one in fields(left)):
        amount, price = getattr(left, name), getattr(cost, name)
        if amount is not None and price > 0 and amount / price < found.scores:
            found = Allowance(amount / price, name)
    return found


def within_allowance(settings: RacedSettings, allowance: Allowance) -> RacedSettings:
    """Return the settings with a race that is so short that the scores are enough for several levels.

    A race is never shorter than its first look, and never longer than before.
    """
    if not allowance.is_limited:
        return settings
    affordable = int(allowance.scores * _LEVEL_SHARE / settings.max_candidates)
    race = settings.race
    length = min(race.max_queries, max(race.first_look, affordable))
    return replace(settings, race=replace(race, max_queries=length))
