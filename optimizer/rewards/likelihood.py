"""The reward `likelihood`: how probable the task model finds the row's reference answer. It needs no judge."""

import math

from optimizer.models.task_model import TaskModel
from optimizer.rewards.base import AnsweredRow, Reward, RewardScore


class Likelihood(Reward):
    """The geometric mean of the probabilities of the reference's tokens, after the prompt of the variant."""

    def __init__(self, task: TaskModel) -> None:
        self._task = task

    async def score(self, answered: AnsweredRow) -> RewardScore | None:
        """Score the reference of the row; None for a row without one. Raises ConfigError for a chat model."""
        if not answered.row.reference:
            return None
        mean = await self._task.log_likelihood(answered.variant, answered.row)
        return RewardScore(math.exp(mean), {"log": mean})
