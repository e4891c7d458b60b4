"""What a run may spend, and what it has spent. Knows numbers alone: no call, no clock of its own.

Before a call is sent, the most that it can cost is reserved; when it is over, what it did cost takes its place. So the
budget cannot be overshot, however many calls are under way.
"""

from dataclasses import dataclass

from optimizer.core.errors import BudgetSpentError

_A_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """The most of each; None: no limit. `money` in the unit of the prices; `minutes` of running, over all resumes."""

    calls: int | None = None
    tokens: int | None = None
    money: float | None = None
    minutes: float | None = None


@dataclass(frozen=True, slots=True)
class Prices:
    """Money per million tokens."""

    prompt: float = 0.0
    completion: float = 0.0

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """What so many tokens cost."""
        return (self.prompt * prompt_tokens + self.completion * completion_tokens) / _A_MILLION


@dataclass(frozen=True, slots=True)
class Cost:
    """What one or more calls cost."""

    calls: int = 0
    tokens: int = 0
    money: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.calls + other.calls, self.tokens + other.tokens, self.money + other.money)

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.calls - other.calls, self.tokens - other.tokens, self.money - other.money)


class Budget:
    """Limits, what was spent, and what is reserved for calls under way. `share`: of the limits, to be used now."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.spent = Cost()
        self.reserved = Cost()
        self.minutes = 0.0
        self.share = 1.0

    def reserve(self, most: Cost) -> None:
        """Set aside what a call can cost at most. Raises BudgetSpentError if that is not left."""
        after = self.spent + self.reserved + most
        for what, limit, value in (
            ("calls", self.limits.calls, after.calls),
            ("tokens", self.limits.tokens, after.tokens),
            ("money", self.limits.money, after.money),
        ):
            if limit is not None and value > limit * self.share:
                raise BudgetSpentError(what)
        if self.limits.minutes is not None and self.minutes >= self.limits.minutes * self.share:
            raise BudgetSpentError("minutes")
        self.reserved += most

    def settle(self, most: Cost, actual: Cost) -> None:
        """A call is over: give back what was reserved, and count what it cost."""
        self.reserved -= most
        self.spent += actual
