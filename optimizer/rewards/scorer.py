"""Answers a row with the task model, and combines the scores of several rewards for the answer.

This module does not depend on the search.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from optimizer.core.concurrency import gather_or_cancel
from optimizer.core.errors import RefusedRequestError, refusal_of
from optimizer.data.dataset import Row
from optimizer.models.task_model import Reply, TaskModel, Variant
from optimizer.rewards.base import AnsweredRow, Reward, RewardScore


@dataclass(frozen=True, slots=True)
class ScoredReply:
    """An answer and its scores.

    Attributes:
        reply: The answer.
        score: Weighted mean of the rewards' scores, from 0 to 1. It is 0 if any reward says that the answer violates a
            constraint (`RewardScore.violations`), or if no reward applies to the row.
        parts: The score of each reward that applies to the row, by the name of the reward.
    """

    reply: Reply
    score: float
    parts: Mapping[str, RewardScore]

    @property
    def is_readable(self) -> bool:
        """Whether the judge's reply could be parsed for every reward that needs one."""
        return all(part.is_readable for part in self.parts.values())


class Scorer:
    """Answers rows and scores the answers."""

    def __init__(self, task: TaskModel, rewards: Mapping[str, Reward], weights: Mapping[str, float]) -> None:
        """Create a scorer.

        Args:
            task: The task model, which answers the rows.
            rewards: The rewards by name. Only those with a positive weight are used.
            weights: The weights of the rewards by name.
        """
        self._task = task
        self._weights = weights
        self._rewards = {name: rewards[name] for name, weight in weights.items() if weight > 0}

    async def score(self, variant: Variant, row: Row, replicate: int = 0) -> ScoredReply:
        """Let the task model answer a row, and score the answer.

        Args:
            variant: How the task model is called: with the prompt, the examples and the sampling of a candidate, or as
                a raw variant (without a prompt and without examples).
            row: The row to answer.
            replicate: Number of the repetition, if the same row is answered several times under the same variant.

        Raises:
            ModelError: A model gives no usable answer.
            BudgetSpentError: The budget is spent.
            JournalError: The journal cannot be written.
        """
        for reward in self._rewards.values():
            await reward.prepare(row)
        reply = await self._task.answer(variant, row, replicate)
        answered = AnsweredRow(variant, row, reply)
        scores = await gather_or_cancel(reward.score(answered) for reward in self._rewards.values())
        parts = {name: score for name, score in zip(self._rewards, scores, strict=True) if score is not None}
        return ScoredReply(reply, combine(parts, self._weights), parts)

    async def refusal(self, variant: Variant, row: Row) -> RefusedRequestError | None:
        """Return the error with which the task model's server refuses a row for good; None if it accepts the row.

        Raises:
            UnembeddableTextError: No request can be made, because the embedder fails at the row.
            ModelError: The model gave no usable reply, but a later call may succeed.
        """
        return await refusal_of(self._task.answer(variant, row))


def combine(parts: Mapping[str, RewardScore], weights: Mapping[str, float]) -> float:
    """Return the weighted mean of the scores, from 0 to 1.

    Return 0 if the answer violates a constraint of any reward, however good its scores are. Also return 0 if no reward
    applies to the row.
    """
    if not parts or any(part.violations for part in parts.values()):
        return 0.0
    total = sum(weights[name] for name in parts)
    return sum(weights[name] * part.value for name, part in parts.items()) / total
