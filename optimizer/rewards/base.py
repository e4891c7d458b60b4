"""What all kinds of rewards share: an answer to score, a score, and the interface of a reward.

This module does not depend on any kind of reward, nor on the search.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from optimizer.data.dataset import Row
from optimizer.models.task_model import Reply, Variant


@dataclass(frozen=True, slots=True)
class AnsweredRow:
    """The task model's answer to a row.

    Attributes:
        variant: The candidate or the raw variant that the task model answered under.
        row: The query, and what is known about a good answer.
        reply: The answer.
    """

    variant: Variant
    row: Row
    reply: Reply


@dataclass(frozen=True, slots=True)
class RewardScore:
    """The score that one reward gives to an answer.

    Attributes:
        value: The score, from 0 to 1.
        details: The numbers that the value is computed from, for the journal and the report.
        violations: Names of the constraints that the answer violates.
    """

    value: float
    details: Mapping[str, Any] = field(default_factory=dict)
    violations: tuple[str, ...] = ()


class Reward(ABC):
    """One kind of reward. A subclass implements `score`. It also implements `prepare` if it has work to do earlier."""

    async def prepare(self, row: Row) -> None:  # noqa: B027 - optional for a reward
        """Do the work that must happen before the row is answered. By default there is none."""

    @abstractmethod
    async def score(self, answered: AnsweredRow) -> RewardScore | None:
        """Score an answer.

        Returns:
            The score; None if this reward does not apply to the row.

        Raises:
            ModelError: A model that the reward calls does not answer.
            BudgetSpentError: The budget does not allow the call.
        """
