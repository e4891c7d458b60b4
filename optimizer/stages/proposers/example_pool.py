"""The pool of written examples from which the proposer `examples` adds to a bank."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from index.bundle.bundle import default_bundle_directory
from index.bundle.input_files import parse_input_examples
from index.bundle.shipped import DEFAULT_BUNDLE
from index.embedders.base import Embedder
from index.measures.refusals import refuses
from index.types import Example, Vectors
from optimizer.core.errors import ConfigError, UnembeddableTextError
from optimizer.data.split import normalized

_EXAMPLES: Final = "examples.jsonl"


@dataclass(frozen=True)
class ExamplePool:
    """Written examples, and the vectors of their queries.

    Attributes:
        examples: The examples.
        vectors: The vectors: (len(examples), dimension), rows of norm 1.
    """

    examples: tuple[Example, ...]
    vectors: Vectors = field(repr=False)

    def nearest(
        self, vectors: Vectors, count: int, known: Collection[str], *, refusals: bool | None = None
    ) -> Sequence[int]:
        """Return the positions of the examples that are most similar to any of some vectors, the most similar first.

        Args:
            vectors: The vectors: (n, dimension).
            count: Maximum number of positions.
            known: Queries of examples that are left out.
            refusals: True for refusals only, False for other answers only, None for both.
        """
        if not len(vectors):
            return []
        similarities = (self.vectors @ vectors.T).max(axis=1)
        ranked = np.argsort(-similarities, kind="stable").tolist()
        usable = [one for one in ranked if self.examples[one].query not in known and self._is_of(one, refusals)]
        return usable[:count]

    def _is_of(self, position: int, refusals: bool | None) -> bool:
        return refusals is None or refuses(self.examples[position].response) == refusals


def pool_file(pool: str) -> Path:
    """Return the file that `[examples] pool` names."""
    return default_bundle_directory() / _EXAMPLES if pool == DEFAULT_BUNDLE else Path(pool)


def read_pool(pool: str, queries: Collection[str] = ()) -> tuple[Example, ...]:
    """Read the examples of a pool. Examples with the query of a row are left out, because they would answer this row.

    Args:
        pool: The value of `[examples] pool`.
        queries: The queries of all rows.

    Raises:
        ConfigError: The file cannot be read.
        BundleError: The file has invalid lines.
    """
    file, rows = pool_file(pool), {normalized(query) for query in queries}
    try:
        examples = parse_input_examples(file.read_bytes(), str(file))
    except OSError as error:
        raise ConfigError(f"[examples] pool: {file} cannot be read: {error.strerror}") from None
    return tuple(one for one in examples if normalized(one.query) not in rows)


def embed_pool(examples: Sequence[Example], embedder: Embedder) -> ExamplePool:
    """Embed the queries of a pool. Queries that the embedder cannot read are left out: no bank can hold their vectors.

    Raises:
        EmbedderError: The embedder does not answer.
    """
    if not examples:
        return ExamplePool((), np.zeros((0, embedder.spec.dimension), np.float32))
    readable, vectors = embed_readable([one.query for one in examples], embedder)
    return ExamplePool(tuple(examples[one] for one in readable), vectors)


def embed_readable(texts: Sequence[str], embedder: Embedder) -> tuple[Sequence[int], Vectors]:
    """Return the positions of the texts that the embedder can read, and their vectors: (positions, dimension).

    The embedder cannot read a text at which it fails, or whose vector is zero.

    Raises:
        EmbedderError: The embedder does not answer.
    """
    vectors = _embed_or_zero(texts, embedder)
    readable = np.flatnonzero(vectors.any(axis=1))
    return readable.tolist(), np.ascontiguousarray(vectors[readable])


def _embed_or_zero(texts: Sequence[str], embedder: Embedder) -> Vectors:
    """Embed texts in halves until the embedder fails at single texts only, and give these the vector zero."""
    try:
        return embedder.embed(texts)
    except UnembeddableTextError:
        if len(texts) == 1:
            return np.zeros((1, embedder.spec.dimension), np.float32)
        half = len(texts) // 2
        return np.concatenate([_embed_or_zero(part, embedder) for part in (texts[:half], texts[half:])])
