"""Makes candidates, rows and outcomes for tests of proposers, without models."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from index.embedders.base import Embedder
from index.types import EmbedderSpec, Example, RetrievalPolicy, Vectors
from optimizer.core.candidate import Bank, Candidate
from optimizer.data.dataset import GENERAL, Row
from optimizer.models.task_model import Reply
from optimizer.rewards.base import RewardScore
from optimizer.rewards.scorer import ScoredReply
from optimizer.search.space import Outcome, Step
from optimizer.stages.proposers.base import Parent
from optimizer.stages.proposers.failures import group_failures

REFUSAL = "I'm sorry, but I can't help with that."
RIGHT: Mapping[str, float] = {"ends": 1.0, "fresh": 1.0, "right": 1.0}


class LetterEmbedder(Embedder):
    """A text's vector says how often it has each letter."""

    spec = EmbedderSpec("letters", "1", 26)

    def embed(self, texts: Sequence[str]) -> Vectors:
        counts = np.array([[text.lower().count(chr(97 + one)) for one in range(26)] for text in texts], np.float32)
        return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-9)


EMBEDDER = LetterEmbedder()


class PickyEmbedder(Embedder):
    """Fails at the text `unread`, as a server does at a text that is too long."""

    def __init__(self, embedder: Embedder, unread: str) -> None:
        self._embedder = embedder
        self._unread = unread

    @property
    def spec(self) -> EmbedderSpec:
        return self._embedder.spec

    def embed(self, texts: Sequence[str]) -> Vectors:
        if self._unread in texts:
            raise ValueError("too long")
        return self._embedder.embed(texts)


def make_candidate(*examples: Example, prompt: str = "Be good.", **policy: Any) -> Candidate:
    vectors = EMBEDDER.embed([one.query for one in examples]) if examples else np.zeros((0, 26), np.float32)
    bank = Bank(examples, vectors, EMBEDDER.spec)
    return Candidate(prompt, bank, "query-answer", RetrievalPolicy(**policy), {"max_tokens": 64})


def outcome(number: int, query: str, kind: str = GENERAL, shown: Sequence[str] = (), **checks: float) -> Outcome:
    """Return the outcome of an answer that passes all rules but those in `checks`."""
    found = {**RIGHT, **checks}
    score = sum(found.values()) / 3
    reply = Reply("An answer.", "stop", 1, 1, tuple(shown))
    return Outcome(number, score, (Row(query, kind), ScoredReply(reply, score, {"rules": RewardScore(score, found)})))


def make_parent(candidate: Candidate, *outcomes: Outcome, again: int = 0) -> Parent:
    return Parent((Step(candidate, outcomes),), group_failures(outcomes), again)
