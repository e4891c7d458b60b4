"""Embeds the queries and answers of rows. It finds out whether an embedder fails at one text or at every text."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from index.embedders.base import Embedder
from index.errors import EmbedderError
from index.types import EmbedderSpec, Vectors
from optimizer.core.errors import UnembeddableTextError

_TRIAL: Final = "What is the capital of France?"


class RowEmbedder:
    """Wraps an embedder. If it fails at some texts, but embeds another text, the raised error blames these texts."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    @property
    def spec(self) -> EmbedderSpec:
        """The name, revision and dimension of the embedder."""
        return self._embedder.spec

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return one vector per text, as `Embedder.embed` does.

        Raises:
            UnembeddableTextError: The embedder fails at these texts, but embeds another text.
            EmbedderError: The embedder does not answer.
        """
        try:
            return self._embed(texts)
        except Exception as error:  # a user's own embedder can raise any exception
            reason = _reason(error)
            try:
                self._embed([_TRIAL])
            except Exception:  # noqa: BLE001 - the same foreign code as above
                raise EmbedderError(reason) from error
            raise UnembeddableTextError(f"{reason}; it embeds other texts") from error

    def _embed(self, texts: Sequence[str]) -> Vectors:
        vectors = np.asarray(self._embedder.embed(texts))
        if vectors.shape != (len(texts), self.spec.dimension) or not np.isfinite(vectors).all():
            raise EmbedderError(
                f"the embedder {self.spec.name} gave vectors of another shape, or with values that are not finite. "
                "Choose another embedder with [bundle] embedder"
            )
        return vectors


def _reason(error: Exception) -> str:
    """Return a reason without the message of a foreign exception, which can contain the text of a row."""
    return str(error) if isinstance(error, EmbedderError) else f"the embedder failed: {type(error).__name__}"
