"""The reward `rules`: the form of an answer. It calls no model."""

from optimizer.core.text_rules import ends_by_itself, refuses, repeated_share
from optimizer.data.dataset import REFUSE
from optimizer.rewards.base import AnsweredRow, Reward, RewardScore


class Rules(Reward):
    """The mean of three checks of an answer, each from 0 to 1.

    `ends` is 1 if the model ended the answer before the length limit. `fresh` is the share of the answer that does not
    repeat itself. `right` is 1 if the answer refuses and the row asks for a refusal, or if neither is the case.
    """

    async def score(self, answered: AnsweredRow) -> RewardScore:
        """Score the form of an answer."""
        text = answered.reply.text
        checks = {
            "ends": float(ends_by_itself(answered.reply.finish_reason)),
            "fresh": 1.0 - repeated_share(text),
            "right": float(refuses(text) == (answered.row.kind == REFUSE)),
        }
        return RewardScore(sum(checks.values()) / len(checks), checks)
