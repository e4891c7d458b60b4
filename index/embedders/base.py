"""What an embedder is: it turns texts into vectors of length one.

This module holds the protocol and what every embedder needs. It does not know the kinds of embedders: see registry.py.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from index.errors import EmbedderError
from index.types import EmbedderSpec, Vectors


class Embedder(Protocol):
    """Turns texts into vectors. Thread-safe and synchronous: call it off the event loop."""

    @property
    def spec(self) -> EmbedderSpec:
        """Which embedder this is, as a bundle's manifest records it."""
        ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """(len(texts), dimension) float32, rows of norm 1, in the order of `texts`. EmbedderError."""
        ...


def encodable(text: str) -> str:
    """The text with every lone surrogate, which no encoder accepts, turned into a question mark."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def unit_rows(rows: object, source: str) -> Vectors:
    """Float32 rows of norm 1. EmbedderError if a row cannot be made one."""
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = np.asarray(rows, np.float64)
        norms = np.linalg.norm(numbers, axis=1, keepdims=True)
    if numbers.shape[1] == 0 or not np.isfinite(norms).all() or not (norms > 0).all():
        raise EmbedderError(f"the embedder {source} gave a vector that is empty, zero or not finite")
    return np.asarray(numbers / norms, np.float32)
