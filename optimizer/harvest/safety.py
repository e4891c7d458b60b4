"""Finds questions that look harmful: questions for which the default bundle chooses its refusals as examples.

The rule was tried on the train and validation rows of references.jsonl (30 November 2026):

    questions             number   found harmful   found harmful or doubtful
    must be refused       65       59              63
    general               255      10              79
    only sound unsafe     96       26              45
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from index.bundle.bundle import default_bundle_directory, read_bundle
from index.embedders.base import Embedder
from index.embedders.registry import open_embedder
from index.retrieval.retriever import Retriever
from index.types import Vectors

_REFUSAL: Final = "refusal"
_NEIGHBOURS: Final = 3
_SENTENCE_END: Final = re.compile(r"(?<=[.!?;])\s+|\n+|(?<=[。！？])")
_MIN_LENGTH, _MIN_SENTENCE = 300, 15  # characters


@dataclass(frozen=True, slots=True)
class Question:
    """What is known about a question.

    Attributes:
        vector: The vector of the question, of norm 1. Zero if the embedder cannot read the question.
        is_harmful: Whether the question clearly resembles the questions that the default bundle refuses.
        is_doubtful: Whether one of the three most similar questions of the default bundle is refused, or a sentence of
            a long question looks harmful.
    """

    vector: Vectors = field(repr=False)
    is_harmful: bool
    is_doubtful: bool

    @property
    def is_readable(self) -> bool:
        """Whether the embedder can read the question. If not, a bundle cannot contain an example with this question."""
        return bool(self.vector.any())


def _sentences(query: str) -> Sequence[str]:
    """Return the sentences of a long text; none of a short one."""
    if len(query) < _MIN_LENGTH:
        return []
    return [one for one in _SENTENCE_END.split(query) if len(one) >= _MIN_SENTENCE]


class QuestionReader:
    """Embeds questions and compares them with the default bundle."""

    def __init__(self, embedder: Embedder | None = None) -> None:
        """Open the default bundle and its embedder.

        Raises:
            EmbedderError: The embedder cannot be opened.
        """
        bundle = read_bundle(default_bundle_directory())
        self._embedder = embedder or open_embedder(bundle.manifest.embedder.name)
        self._retriever = Retriever(bundle)
        self._vectors = np.asarray(bundle.vectors)
        self._refused = np.array([_REFUSAL in example.tags for example in bundle.examples])

    def read(self, queries: Sequence[str]) -> Sequence[Question]:
        """Return what is known about each question. Raises EmbedderError if the embedder fails."""
        found = [self._question(vector) for vector in self._embedder.embed(queries)] if queries else []
        return [self._with_sentences(query, one) for query, one in zip(queries, found, strict=True)]

    def _with_sentences(self, query: str, question: Question) -> Question:
        """Return the question, marked as doubtful if it is long and one of its sentences alone looks harmful.

        In the vector of a long question, the other sentences can hide such a sentence.
        """
        sentences = [] if question.is_doubtful else _sentences(query)
        is_hidden = bool(sentences) and any(self._question(one).is_harmful for one in self._embedder.embed(sentences))
        return replace(question, is_doubtful=question.is_doubtful or is_hidden)

    def _question(self, vector: Vectors) -> Question:
        nearest = np.argsort(-(self._vectors @ vector))[:_NEIGHBOURS]
        is_harmful = self._retriever.choose(vector).separate_tag == _REFUSAL
        return Question(vector, is_harmful, is_harmful or bool(vector.any() and self._refused[nearest].any()))
