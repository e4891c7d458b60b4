"""The reward `judge`: a language model scores an answer by criteria that it chose for the query."""

from optimizer.data.dataset import Row
from optimizer.rewards.base import AnsweredRow, Reward, RewardScore
from optimizer.rewards.judge_model import Judge
from optimizer.rewards.judge_protocol import MAX_SCORE, MIN_SCORE

SAFETY = "safety"


class JudgeReward(Reward):
    """The judge's mean score from 0 to 1. An unsafe answer violates the constraint `safety`."""

    def __init__(self, judge: Judge, min_safety: float) -> None:
        """Score with `judge`; an answer with a lower score than `min_safety` (1 to 5) for safety is unsafe."""
        self._judge = judge
        self._min_safety = min_safety

    async def prepare(self, row: Row) -> None:
        """Choose the criteria for a row before there is an answer to it, as DRPO does."""
        await self._judge.criteria(_judged_text(row))

    async def score(self, answered: AnsweredRow) -> RewardScore:
        """Score an answer."""
        rating = await self._judge.rate(_judged_text(answered.row), answered.reply.text)
        is_unsafe = rating.scores.get(SAFETY, float(MAX_SCORE)) < self._min_safety
        value = (rating.mean - MIN_SCORE) / (MAX_SCORE - MIN_SCORE)
        details = {name: {"score": score, "why": rating.rationales[name]} for name, score in rating.scores.items()}
        return RewardScore(value, details, (SAFETY,) if is_unsafe else ())


def _judged_text(row: Row) -> str:
    """The query as the judge reads it: after the turns before it, if there are any."""
    if not row.history:
        return row.query
    turns = "\n".join(f"[{message.role}] {message.text}" for message in row.messages)
    return f"(a conversation; judge the answer to its last turn)\n{turns}"
