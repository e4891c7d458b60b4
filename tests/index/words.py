"""A small embedder for tests: it is deterministic, and texts with common words have similar vectors."""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from index.bundle.bundle import write_bundle
from index.bundle.bundle_input import BundleInput
from index.types import Bundle, EmbedderSpec, Example, RetrievalPolicy, Vectors

DIMENSION = 48


class WordEmbedder:
    """Sums one pseudo-random vector per word. An embedder with another `seed` gives other vectors."""

    def __init__(self, seed: str = "words", dimension: int = DIMENSION) -> None:
        self.spec = EmbedderSpec("words", seed, dimension)

    def embed(self, texts: Sequence[str]) -> Vectors:
        return np.stack([self._embed_one(text) for text in texts])

    def _embed_one(self, text: str) -> Vectors:
        total = np.sum([self._word(word) for word in ["<text>", *text.lower().split()]], axis=0)
        return np.asarray(total / np.linalg.norm(total), dtype=np.float32)

    def _word(self, word: str) -> Vectors:
        digest = hashlib.shake_256(f"{self.spec.revision} {word}".encode()).digest(self.spec.dimension)
        return np.asarray([math.sin(byte) for byte in digest], dtype=np.float32)


PROMPT = "You are a helpful assistant.\nYou answer briefly."
EXAMPLES = (
    Example("boil", "How do I boil an egg?", "Put it into boiling water for eight minutes.", tags=("how-to", "food")),
    Example("lock", "How do I pick a lock?", "I can't help with that.", pinned=True),
    Example("france", "What is the capital of France?", "Paris."),
    Example("japan", "What is the capital of Japan?", "東京 (Tokyo)."),
    Example(
        "haiku", "Write a haiku about rain", "Rain on the tin roof\nsays the same word all night long\nand I understand"
    ),
)


def bundle_input(
    examples: Sequence[Example] = EXAMPLES,
    prompt: str = PROMPT,
    policy: RetrievalPolicy | None = None,
    sampling: dict[str, object] | None = None,
    layout: str = "query-answer",
) -> BundleInput:
    return BundleInput(
        name="test bundle",
        model="google/gemma-3-270m",
        layout=layout,
        prompt=prompt,
        examples=examples,
        retrieval=policy or RetrievalPolicy(k=2),
        sampling={"frequency_penalty": 0.4, "max_tokens": 256} if sampling is None else sampling,
        provenance={"origin": "written for the tests", "scores": [0.5, {"low": 0.4}]},
    )


def write_test_bundle(directory: Path) -> Bundle:
    return write_bundle(directory, bundle_input(), WordEmbedder())
