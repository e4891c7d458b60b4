"""`fast`: the vectors that the default embedder would give to queries, nearly, for a tenth of its time or less.

A student of index/embedders/minilm.py, from index/embedders/query_weights/ (docs/bundles.md says how it was trained
and what it keeps): the
mean of a vector for each word piece and of one for each pair of neighbours (hashed), through a small network. Queries
only: a bank's vectors stay the teacher's, with whose vectors the student's are compared. Knows numpy and that file.
"""

import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.embedders.minilm import OnnxEmbedder, read_verified
from index.errors import EmbedderError
from index.types import EmbedderSpec, Vectors

NAME = "fast"
_WEIGHTS = "weights.npz"
_REPAIR = "install drpo-proxy again (in a git clone: git checkout index/embedders/query_weights)"
_FIRST_FACTOR, _SECOND_FACTOR = 8191, 131071
_SPREAD = 10.0
_EPSILON = 1e-5

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


class FastEmbedder:
    """Thread-safe. Reads what its teacher reads of a text: the first 256 tokens."""

    def __init__(self, teacher: OnnxEmbedder, directory: Path = Path(__file__).parent / "query_weights") -> None:
        """`teacher`: makes the tokens, and must be the one that the weights were trained to follow. EmbedderError if it
        is not, or if the weights are missing or not those that were shipped."""
        content = read_verified(directory, (_WEIGHTS,), _REPAIR)[_WEIGHTS]
        arrays: Mapping[str, Any] = np.load(io.BytesIO(content), allow_pickle=False)
        trained_for = str(arrays["teacher"])
        if trained_for != teacher.spec.revision:
            raise EmbedderError(
                f"{directory / _WEIGHTS}: was trained to follow {teacher.spec.name} {trained_for}, and this is "
                f"{teacher.spec.revision}: {_REPAIR}"
            )
        self.teacher = teacher
        self._words = _Table(arrays["words"], arrays["word_scales"])
        self._pairs = _Table(arrays["pairs"], arrays["pair_scales"])
        dense = ("out", "out_bias", "norm", "norm_bias", "wide", "wide_bias", "narrow", "narrow_bias")
        self._dense = {name: arrays[name].astype(np.float32) for name in dense}
        self._spec = EmbedderSpec(NAME, hashlib.sha256(content).hexdigest()[:16], len(self._dense["out"]))

    @property
    def spec(self) -> EmbedderSpec:
        return self._spec

    def embed(self, texts: Sequence[str]) -> Vectors:
        """(len(texts), 384) float32, rows of norm 1."""
        vectors = np.empty((len(texts), self._spec.dimension), np.float32)
        for row, text in enumerate(texts):
            vectors[row] = self._embed_one(self.teacher.token_ids(text))
        return vectors

    def _embed_one(self, token_ids: Integers) -> Floats:
        """A text has two tokens at least, its start and its end, and so one pair at least."""
        pairs = (token_ids[:-1] * _FIRST_FACTOR + token_ids[1:] * _SECOND_FACTOR) % len(self._pairs)
        pooled = self._words.mean(token_ids) + self._pairs.mean(pairs)
        direct = self._apply("out", pooled)
        curved = self._apply("narrow", _gelu(self._apply("wide", self._normalised(pooled * np.float32(_SPREAD)))))
        vector = direct + curved
        return np.asarray(vector / np.sqrt(vector @ vector), np.float32)

    def _apply(self, name: str, values: Floats) -> Floats:
        """A dense layer. By einsum: BLAS would wake its threads for a product that is done before they are up."""
        return np.asarray(np.einsum("oi,i->o", self._dense[name], values) + self._dense[f"{name}_bias"], np.float32)

    def _normalised(self, values: Floats) -> Floats:
        centred = values - values.mean()
        scaled = centred / np.sqrt(np.mean(centred * centred) + np.float32(_EPSILON))
        return np.asarray(scaled * self._dense["norm"] + self._dense["norm_bias"], np.float32)


class _Table:
    """Vectors in 4 bits, one scale per row. A byte holds a number of the left half, low, and one of the right half."""

    def __init__(self, packed: NDArray[np.uint8], scales: Floats) -> None:
        self._packed, self._scales = packed, scales

    def __len__(self) -> int:
        return len(self._packed)

    def mean(self, rows: Integers) -> Floats:
        packed, shares = self._packed[rows], self._scales[rows] / np.float32(len(rows))
        numbers = np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.float32)
        return np.asarray(np.einsum("t,tw->w", shares, numbers) - 8 * shares.sum(), np.float32)


def _gelu(values: Floats) -> Floats:
    """By its usual approximation with tanh (Hendrycks and Gimpel, arXiv 1606.08415)."""
    inner = np.float32(math.sqrt(2 / math.pi)) * (values + np.float32(0.044715) * values * values * values)
    return np.asarray(np.float32(0.5) * values * (1 + np.tanh(inner)), np.float32)
