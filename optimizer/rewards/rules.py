"""The rewards `rules` and `taste`: the form of an answer. They call no model."""

from dataclasses import asdict

from index.measures.answer_form import ends_by_itself, is_empty, repeated_share
from index.measures.refusals import refuses
from optimizer.core.reward_table import RulesTable
from optimizer.data.dataset import REFUSE
from optimizer.data.taste import Taste
from optimizer.rewards.base import AnsweredRow, Reward, RewardScore


class Rules(Reward):
    """The weighted mean of three checks of an answer, each from 0 to 1. The table [reward.rules] holds the weights.

    `ends` is 1 if the model ended the answer before the length limit, else 0. `fresh` is the share of the answer's word
    4-grams that did not occur earlier in the answer. `right` is 1 if the answer refuses a row that asks for a refusal,
    or does not refuse a row that asks for none; else 0.
    """

    def __init__(self, table: RulesTable) -> None:
        self._weights = asdict(table)

    async def score(self, answered: AnsweredRow) -> RewardScore:
        """Score the form of an answer."""
        text = answered.reply.text
        checks = {
            "ends": float(ends_by_itself(answered.reply.finish_reason)),
            "fresh": 1.0 - repeated_share(text),
            "right": float(refuses(text) == (answered.row.kind == REFUSE)),
        }
        total = sum(weight * checks[name] for name, weight in self._weights.items())
        return RewardScore(total / sum(self._weights.values()), checks)


class TasteReward(Reward):
    """The share of users who like answers of this form, as ratings and preference pairs show (optimizer.data.taste).

    It does not know what an answer says, so it should not be the only reward. It does not score rows that ask for a
    refusal. It scores no row if ratings and pairs show no taste.
    """

    def __init__(self, taste: Taste | None) -> None:
        self._taste = taste

    async def score(self, answered: AnsweredRow) -> RewardScore | None:
        """Return the score of an answer; None if this reward does not apply to the row."""
        if self._taste is None or answered.row.kind == REFUSE:
            return None
        text = answered.reply.text
        return RewardScore(0.0 if is_empty(text) else self._taste.chance(text))
