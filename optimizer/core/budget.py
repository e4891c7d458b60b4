"""The budget of a run: limits, costs and reservations. This module sends no calls and reads no clock.

Before a call is sent, the most that it can cost is reserved. When the call is over, its actual cost replaces the
reservation. A run can therefore not exceed its budget, no matter how many calls are in flight.
"""

from dataclasses import dataclass

from optimizer.core.errors import BudgetSpentError

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a run; None means no limit.

    Attributes:
        calls: The number of calls.
        tokens: The number of prompt and completion tokens.
        money: The cost, in the unit of the prices.
        minutes: The running time, including earlier runs that were resumed.
    """

    calls: int | None = None
    tokens: int | None = None
    money: float | None = None
    minutes: float | None = None


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices in money per million tokens."""

    prompt: float = 0.0
    completion: float = 0.0

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """The cost of a number of tokens."""
        return (self.prompt * prompt_tokens + self.completion * completion_tokens) / _MILLION


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one or more calls."""

    calls: int = 0
    tokens: int = 0
    money: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.calls + other.calls, self.tokens + other.tokens, self.money + other.money)

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.calls - other.calls, self.tokens - other.tokens, self.money - other.money)


class Budget:
    """Limits and costs of a run.

    Attributes:
        limits: The limits.
        spent: The cost of finished calls.
        reserved: The most that the calls in flight can cost.
        minutes: The running time so far.
        share: The share of the limits that may be used now.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.spent = Cost()
        self.reserved = Cost()
        self.minutes = 0.0
        self.share = 1.0

    def reserve(self, max_cost: Cost) -> None:
        """Reserve the most that a call can cost. Raises BudgetSpentError if less is left."""
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
        """Replace the reservation of a finished call by its actual cost."""
        self.reserved -= max_cost
        self.spent += actual
