"""The budget of a run: limits, costs and reservations. This module sends no calls and reads no clock.

Before a call is sent, the highest possible cost of the call is reserved. When the call is over, its actual cost
replaces the reservation. The calls, tokens and money of a run can therefore not exceed their limits, no matter how many
calls are in flight. The limit on the running time prevents new calls, but calls in flight can end after this limit.
"""

from dataclasses import dataclass

from optimizer.core.errors import BudgetSpentError

_MILLION = 1_000_000
_KEPT_MARGIN = 1.5
"""A kept call is assumed to cost this many times as much as the mean call so far, because answers may be shorter in the
search."""
_LARGEST_KEPT_SHARE = 0.5
"""The largest share of a limit on tokens, money or minutes that is kept. If the first calls are long by chance, the
estimate of what to keep is too large."""


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
        kept_calls: The number of calls that are kept for a later stage of the run. During the search, these are the
            calls of the sealed evaluation.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.spent = Cost()
        self.reserved = Cost()
        self.minutes = 0.0
        self.kept_calls = 0

    @property
    def left(self) -> Limits:
        """The rest of each limit: what is not spent, not reserved for calls in flight, and not kept for later calls."""
        limits, spent, used = self.limits, self.spent, self.spent + self.reserved

        def rest(limit: float, used: float, spent: float) -> float:
            return max(0.0, limit - used - self._kept(limit, spent))

        return Limits(
            None if limits.calls is None else max(0, limits.calls - used.calls - self.kept_calls),
            None if limits.tokens is None else int(rest(limits.tokens, used.tokens, spent.tokens)),
            None if limits.money is None else rest(limits.money, used.money, spent.money),
            None if limits.minutes is None else rest(limits.minutes, self.minutes, self.minutes),
        )

    def reserve(self, max_cost: Cost) -> None:
        """Reserve `max_cost`, the highest possible cost of a call.

        Raises:
            BudgetSpentError: The call might cost more than is left of a limit, or no running time is left.
        """
        left = self.left
        for what, limit, value in (
            ("calls", left.calls, max_cost.calls),
            ("tokens", left.tokens, max_cost.tokens),
            ("money", left.money, max_cost.money),
        ):
            if limit is not None and value > limit:
                raise BudgetSpentError(what)
        if left.minutes == 0:
            raise BudgetSpentError("minutes")
        self.reserved += max_cost

    def settle(self, max_cost: Cost, actual: Cost) -> None:
        """Remove the reservation `max_cost` of a finished call, and add the call's actual cost to `spent`."""
        self.reserved -= max_cost
        self.spent += actual

    def _kept(self, limit: float, spent: float) -> float:
        """Return how much of a limit is kept for the kept calls.

        The amount is estimated from the mean cost of the finished calls, and is at most a fixed share of the limit.
        Before the first call is finished, the mean cost is not known, and nothing is kept.

        Args:
            limit: The limit on tokens, money or minutes.
            spent: What all finished calls together have used of this limit.
        """
        mean = spent / max(1, self.spent.calls)
        return min(_LARGEST_KEPT_SHARE * limit, _KEPT_MARGIN * self.kept_calls * mean)
