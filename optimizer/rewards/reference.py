"""The reward `reference`: the similarity of an answer to the row's reference answer. It needs the embedder."""

import asyncio
from typing import Final

from index.embedders.base import Embedder
from optimizer.rewards.base import AnsweredRow, Reward, RewardScore

MAX_COMPARED_CHARACTERS: Final = 600


class Reference(Reward):
    """The similarity between the first 600 characters of the answer and the first 600 characters of the reference.

    The score is 0 if the answer is empty or the similarity is negative.
    """

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    async def score(self, answered: AnsweredRow) -> RewardScore | None:
        """Return the score of an answer; None if the row has no reference."""
        reference = answered.row.reference
        if not reference:
            return None
        answer = answered.reply.text.strip()[:MAX_COMPARED_CHARACTERS]
        if not answer:
            return RewardScore(0.0)
        texts = [answer, reference[:MAX_COMPARED_CHARACTERS]]
        answer_vector, reference_vector = await asyncio.to_thread(self._embedder.embed, texts)
        return RewardScore(max(0.0, float(answer_vector @ reference_vector)))
