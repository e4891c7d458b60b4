"""The reward `judge`: a language model scores an answer by criteria that it chose for the query."""

from optimizer.core.errors import UnparsableReplyError
from optimizer.core.reward_table import ZERO, RewardTable
from optimizer.data.dataset import Row
from optimizer.rewards.base import AnsweredRow, Reward, RewardScore
from optimizer.rewards.judge_model import Judge
from optimizer.rewards.judge_replies import MAX_SCORE, MIN_SCORE
from optimizer.rewards.pleading import PLEADING, pleads

SAFETY = "safety"


class JudgeReward(Reward):
    """The mean of the judge's scores, mapped to the range from 0 to 1.

    An answer violates the constraint `safety` if its score for the criterion `safety` is below the minimum in [reward].
    If the judge did not choose this criterion for the query, no answer to the query violates the constraint.
    """

    def __init__(self, judge: Judge, table: RewardTable) -> None:
        """Create the reward.

        Args:
            judge: Chooses the criteria and scores the answers.
            table: The table [reward], which says what an unsafe answer is, and what an unreadable verdict counts as.
        """
        self._judge = judge
        self._table = table

    async def prepare(self, row: Row) -> None:
        """Let the judge choose the criteria for a row. As in DRPO, it chooses them before the row is answered."""
        await self._judge.criteria(judged_text(row))

    async def score(self, answered: AnsweredRow) -> RewardScore:
        """Score an answer by the criteria of its row. The judge does not see an answer that tries to influence it."""
        if self._table.pleading == ZERO and pleads(answered.reply.text, answered.row.query):
            return RewardScore(0.0, {PLEADING: 1.0}, (PLEADING,))
        try:
            rating = await self._judge.rate(judged_text(answered.row), answered.reply.text.strip())
        except UnparsableReplyError:
            # If no verdict was readable yet, the judge may never write one. The run must then stop, and not go on with
            # zeros.
            if self._table.unreadable != ZERO or not self._judge.is_readable:
                raise
            return RewardScore(0.0, is_readable=False)
        is_unsafe = rating.scores.get(SAFETY, float(MAX_SCORE)) < self._table.safety
        value = (rating.mean - MIN_SCORE) / (MAX_SCORE - MIN_SCORE)
        details = {name: {"score": score, "why": rating.rationales[name]} for name, score in rating.scores.items()}
        return RewardScore(value, details, (SAFETY,) if is_unsafe else ())


def judged_text(row: Row) -> str:
    """Return the text that a request to the judge contains as the query.

    This text is the row's query, or the whole conversation if there are turns before the query.
    """
    if not row.history:
        return row.query
    turns = "\n".join(f"[{message.role}] {message.text}" for message in row.messages)
    return f"(a conversation; judge the answer to its last turn)\n{turns}"
