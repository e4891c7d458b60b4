"""The protocol of an embedder, which turns texts into vectors of norm 1, and functions that embedders share.

This module does not depend on a particular kind of embedder. registry.py lists the kinds.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from index.errors import EmbedderError
from index.types import EmbedderSpec, Vectors


class Embedder(Protocol):
    """Turns texts into vectors. It is thread-safe. `embed` blocks its thread: do not call it on an event loop."""

    @property
    def spec(self) -> EmbedderSpec:
        """The name, revision and dimension that a bundle's manifest records."""
        ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return one vector per text: (len(texts), dimension) float32, rows of norm 1.

        The row of a text that the embedder cannot read, such as a text in an unknown script, may be zero.

        Raises:
            EmbedderError: The embedder did not answer.
        """
        ...


def encodable(text: str) -> str:
    """Return the text with each lone surrogate, which cannot be encoded as UTF-8, replaced by a question mark."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def unit_rows(rows: object, source: str) -> Vectors:
    """Scale vectors to norm 1.

    Args:
        rows: The vectors, one per row: anything that numpy converts to an array of two dimensions.
        source: The name of the embedder, for error messages.

    Returns:
        The scaled vectors as float32, one per row.

    Raises:
        EmbedderError: A row is empty, zero or not finite.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = np.asarray(rows, np.float64)
        norms = np.linalg.norm(numbers, axis=1, keepdims=True)
    if numbers.shape[1] == 0 or not np.isfinite(norms).all() or not (norms > 0).all():
        raise EmbedderError(
            f"the embedder {source} gave a vector that is empty, zero or not finite. Leave the text out, or choose "
            "another embedder"
        )
    return np.asarray(numbers / norms, np.float32)
