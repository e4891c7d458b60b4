"""The reward `likelihood`: how probable the row's reference answer is for the task model. It needs no judge."""

import math

from optimizer.models.task_model import TaskModel
from optimizer.rewards.base import AnsweredRow, Reward, RewardScore


class Likelihood(Reward):
    """The geometric mean of the probabilities that the task model gives the tokens of the reference.

    The reference is scored as the continuation of the prompt that the variant makes for the row.
    """

    def __init__(self, task: TaskModel) -> None:
        self._task = task

    async def score(self, answered: AnsweredRow) -> RewardScore | None:
        """Score the reference of the row; None for a row that has no reference. Raises ConfigError for a chat model."""
        if not answered.row.reference:
            return None
        mean = await self._task.log_likelihood(answered.variant, answered.row)
        return RewardScore(math.exp(mean), {"log": mean})
