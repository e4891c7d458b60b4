"""The reward `likelihood`: how probable the row's reference answer is for the task model. It needs no judge."""

import math

from optimizer.models.task_model import TaskModel
from optimizer.rewards.base import AnsweredRow, Reward, RewardScore


class Likelihood(Reward):
    """The geometric mean of the probabilities of the reference's tokens, under the task model.

    The task model gets the reference as the continuation of a prompt. This is the same prompt from which the task model
    wrote its answer to the row.
    """

    def __init__(self, task: TaskModel) -> None:
        self._task = task

    async def score(self, answered: AnsweredRow) -> RewardScore | None:
        """Return the score of the row's reference; None if the row has no reference.

        Raises:
            ConfigError: The task model is a chat model.
            ModelError: The task model gives no usable reply.
            BudgetSpentError: The budget does not allow the call.
        """
        if not answered.row.reference:
            return None
        mean = await self._task.log_likelihood(answered.variant, answered.row)
        return RewardScore(math.exp(mean), {"log": mean})
