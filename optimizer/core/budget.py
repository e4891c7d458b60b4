"""The budget of a run: limits, costs and reservations. This module sends no calls and reads no clock.

Before a call is sent, the most that the call can cost is reserved. When the call is over, its actual cost replaces the
reservation. The calls, tokens and money of a run can therefore not exceed their limits, no matter how many calls are in
flight. The limit on the running time only prevents new calls.
"""

from dataclasses import dataclass

from optimizer.core.errors import BudgetSpentError

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a run. None means that there is no limit.

    Attributes:
        calls: The most calls to models.
        tokens: The most tokens of all calls, prompts and completions together.
        money: The most money, in the currency of the prices.
        minutes: The most minutes of running time. If a run was interrupted and resumed, all its parts count.
    """

    calls: int | None = None
    tokens: int | None = None
    money: float | None = None
    minutes: float | None = None


@dataclass(frozen=True, slots=True)
class Prices:
    """The prices of a model's tokens.

    Attributes:
        prompt: Price of a million prompt tokens.
        completion: Price of a million completion tokens.
    """

    prompt: float = 0.0
    completion: float = 0.0

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return the price of these numbers of tokens."""
        return (self.prompt * prompt_tokens + self.completion * completion_tokens) / _MILLION


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one or more calls.

    Attributes:
        calls: The number of calls.
        tokens: The number of prompt and completion tokens together.
        money: The price of the tokens.
    """

    calls: int = 0
    tokens: int = 0
    money: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.calls + other.calls, self.tokens + other.tokens, self.money + other.money)

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.calls - other.calls, self.tokens - other.tokens, self.money - other.money)


class Budget:
    """The limits of a run, and what the run has cost so far.

    Attributes:
        limits: The limits of the run.
        spent: The cost of all finished calls.
        reserved: The most that all calls in flight can cost together.
        minutes: The running time so far, in minutes.
        share: The share of each limit that may be used now, from 0 to 1. The search leaves a part of the limits to the
            final evaluation.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.spent = Cost()
        self.reserved = Cost()
        self.minutes = 0.0
        self.share = 1.0

    def reserve(self, max_cost: Cost) -> None:
        """Reserve the most that a call can cost.

        Raises:
            BudgetSpentError: The call might exceed the usable share of a limit, or the running time is over.
        """
        after = self.spent + self.reserved + max_cost
        for what, limit, value in (
            ("calls", self.limits.calls, after.calls),
            ("tokens", self.limits.tokens, after.tokens),
            ("money", self.limits.money, after.money),
        ):
            if limit is not None and value > limit * self.share:
                raise BudgetSpentError(what)
        if self.limits.minutes is not None and self.minutes >= self.limits.minutes * self.share:
            raise BudgetSpentError("minutes")
        self.reserved += max_cost

    def settle(self, max_cost: Cost, actual: Cost) -> None:
        """Replace the reservation `max_cost` of a finished call by the call's actual cost."""
        self.reserved -= max_cost
        self.spent += actual
