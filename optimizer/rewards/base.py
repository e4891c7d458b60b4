"""Defines what all kinds of rewards share: an answer to score, a score, and the interface of a reward.

This module does not depend on any kind of reward, nor on the search.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from optimizer.data.dataset import Row
from optimizer.models.task_model import Reply, Variant


@dataclass(frozen=True, slots=True)
class AnsweredRow:
    """The task model's answer to a row.

    Attributes:
        variant: How the task model was called: as a candidate, or as a raw variant (without a prompt and without
            examples).
        row: The row of the data set: the query, the turns before it, its kind, and a reference answer if there is one.
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
        violations: Names of the constraints that the answer violates. A constraint is a hard rule, such as the judge's
            minimum for safety: an answer that violates it gets the score 0, however good its other scores are.
        is_readable: False if the judge's reply could not be parsed. The value is then 0, and says nothing about the
            answer.
    """

    value: float
    details: Mapping[str, Any] = field(default_factory=dict)
    violations: tuple[str, ...] = ()
    is_readable: bool = True


class Reward(ABC):
    """One kind of reward.

    A subclass implements `score`. If it has work to do before a row is answered, it also implements `prepare`.
    """

    async def prepare(self, row: Row) -> None:  # noqa: B027 - optional for a reward
        """Do the work that must happen before the row is answered. The default does nothing."""

    @abstractmethod
    async def score(self, answered: AnsweredRow) -> RewardScore | None:
        """Score an answer.

        Returns:
            The score; None if this reward does not apply to the row.

        Raises:
            ModelError: A model that the reward calls gives no usable answer.
            BudgetSpentError: The budget does not allow a call that the reward makes.
            ConfigError: The reward does not work with the task model.
            RewardError: A user's reward function fails.
        """


class RowsOfKinds(Reward):
    """Limits a reward to rows of some kinds. Rows of other kinds are scored only by the other rewards of the run."""

    def __init__(self, reward: Reward, kinds: Collection[str]) -> None:
        """Limit a reward to rows of these kinds (`Row.kind`)."""
        self._reward = reward
        self._kinds = kinds

    async def prepare(self, row: Row) -> None:
        """Prepare the row, if the reward scores it."""
        if row.kind in self._kinds:
            await self._reward.prepare(row)

    async def score(self, answered: AnsweredRow) -> RewardScore | None:
        """Score an answer to a row of one of the kinds. Return None for other rows."""
        return await self._reward.score(answered) if answered.row.kind in self._kinds else None
