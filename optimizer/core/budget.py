"""The budget of a run: limits, costs and reservations. This module sends no calls and reads no clock.

Before a call is sent, the highest possible cost of the call is reserved. When the call is over, its actual cost
replaces the reservation. The calls, tokens and money of a run can therefore not exceed their limits, no matter how many
calls are in flight. The limit on the running time prevents new calls, but calls in flight can end after this limit.
"""

from dataclasses import dataclass

from optimizer.core.errors import BudgetSpentError

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a run. None means that there is no limit.

    Attributes:
        calls: The maximum number of calls to models.
        tokens: The maximum number of tokens of all calls together, prompts and completions.
        money: The maximum price of all calls together, in the currency of the prices.
        minutes: The maximum running time in minutes. If a run was interrupted and resumed, the times of all its parts
            are added.
    """

    calls: int | None = None
    tokens: int | None = None
    money: float | None = None
    minutes: float | None = None


@dataclass(frozen=True, slots=True)
class Prices:
    """The prices of a model's tokens.

    Attributes:
        prompt: The price of a million prompt tokens.
        completion: The price of a million completion tokens.
    """

    prompt: float = 0.0
    completion: float = 0.0

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return the price of these prompt tokens and completion tokens together."""
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
    """The limits of a run, and the cost of the run so far.

    Attributes:
        limits: The limits of the run.
        spent: The cost of all finished calls together.
        reserved: The highest possible cost of all calls in flight together.
        minutes: The running time so far, in minutes.
        share: The share of each limit that the current stage of the run can use, from 0 to 1. It is below 1 during the
            search, so that a part of each limit is left for the final evaluation.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.spent = Cost()
        self.reserved = Cost()
        self.minutes = 0.0
        self.share = 1.0

    @property
    def left(self) -> Limits:
        """What is left of the usable share of each limit, without the calls in flight."""
        spent, share, limits = self.spent + self.reserved, self.share, self.limits
        return Limits(
            None if limits.calls is None else max(0, int(limits.calls * share) - spent.calls),
            None if limits.tokens is None else max(0, int(limits.tokens * share) - spent.tokens),
            None if limits.money is None else max(0.0, limits.money * share - spent.money),
            None if limits.minutes is None else max(0.0, limits.minutes * share - self.minutes),
        )

    def reserve(self, max_cost: Cost) -> None:
        """Reserve `max_cost`, the highest possible cost of a call.

        Raises:
            BudgetSpentError: The call might exceed the usable share of a limit, or the usable share of the running time
                has passed.
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
        """Remove the reservation `max_cost` of a finished call, and add the call's actual cost to `spent`."""
        self.reserved -= max_cost
        self.spent += actual
