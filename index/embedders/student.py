"""The query embedder `fast`: a small model that approximates the vectors of the default embedder.

This small model (the student) was trained to return the vectors of the default embedder (the teacher,
index/embedders/minilm.py). The student needs at most a tenth of the teacher's time. docs/bundles.md describes the
training and the accuracy. The student embeds only queries; the teacher makes the vectors of a bank.

The student has one vector for each word piece, and one for each hash value of a pair of adjacent word pieces. It adds
the mean of the text's word piece vectors to the mean of the text's pair vectors, and passes the sum through a small
network. This module depends on numpy, the weights in index/embedders/query_weights/ and the teacher's tokenizer.
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
_REPAIR_ADVICE = "install drpo-proxy again (in a git clone: git checkout index/embedders/query_weights)"
_FIRST_HASH_FACTOR, _SECOND_HASH_FACTOR = 8191, 131071
_INPUT_SCALE = 10.0
_EPSILON = 1e-5

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


class FastEmbedder:
    """Embeds the first 256 tokens of a text. The teacher reads the same tokens. This embedder is thread-safe.

    Attributes:
        teacher: The embedder whose vectors the student approximates. Its tokenizer also tokenizes the student's texts.
    """

    def __init__(self, teacher: OnnxEmbedder, directory: Path = Path(__file__).parent / "query_weights") -> None:
        """Load the weights in `directory`, which were trained for `teacher`.

        Raises:
            EmbedderError: The weights are missing or damaged, or were trained for another revision of the teacher.
        """
        content = read_verified(directory, (_WEIGHTS,), _REPAIR_ADVICE)[_WEIGHTS]
        arrays: Mapping[str, Any] = np.load(io.BytesIO(content), allow_pickle=False)
        trained_for = str(arrays["teacher"])
        if trained_for != teacher.spec.revision:
            raise EmbedderError(
                f"{directory / _WEIGHTS}: was trained to follow {teacher.spec.name} {trained_for}, and this is "
                f"{teacher.spec.revision}: {_REPAIR_ADVICE}"
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
        """Return one vector per text: (len(texts), 384) float32, rows of norm 1."""
        vectors = np.empty((len(texts), self._spec.dimension), np.float32)
        for row, text in enumerate(texts):
            vectors[row] = self._embed_one(self.teacher.token_ids(text))
        return vectors

    def _embed_one(self, token_ids: Integers) -> Floats:
        # Each text has at least two tokens, which mark its start and its end, and therefore at least one pair.
        pairs = (token_ids[:-1] * _FIRST_HASH_FACTOR + token_ids[1:] * _SECOND_HASH_FACTOR) % len(self._pairs)
        pooled = self._words.mean(token_ids) + self._pairs.mean(pairs)
        direct = self._apply("out", pooled)
        curved = self._apply("narrow", _gelu(self._apply("wide", self._normalised(pooled * np.float32(_INPUT_SCALE)))))
        vector = direct + curved
        return np.asarray(vector / np.sqrt(vector @ vector), np.float32)

    def _apply(self, name: str, values: Floats) -> Floats:
        """Apply the dense layer `name`."""
        # einsum does not use BLAS. BLAS would start threads, and starting them takes longer than this small product.
        return np.asarray(np.einsum("oi,i->o", self._dense[name], values) + self._dense[f"{name}_bias"], np.float32)

    def _normalised(self, values: Floats) -> Floats:
        centred = values - values.mean()
        scaled = centred / np.sqrt(np.mean(centred * centred) + np.float32(_EPSILON))
        return np.asarray(scaled * self._dense["norm"] + self._dense["norm_bias"], np.float32)


class _Table:
    """A table of vectors, one per row. Each component is stored as a number of 4 bits, and each row has one scale.

    Byte i of a row holds two components of the vector. Its low 4 bits hold component i of the left half. Its high 4
    bits hold component i of the right half. A stored number n means the component (n - 8) * scale.
    """

    def __init__(self, packed: NDArray[np.uint8], scales: Floats) -> None:
        self._packed, self._scales = packed, scales

    def __len__(self) -> int:
        return len(self._packed)

    def mean(self, rows: Integers) -> Floats:
        """Return the mean of the vectors in these rows. A row that occurs twice counts twice."""
        packed, shares = self._packed[rows], self._scales[rows] / np.float32(len(rows))
        numbers = np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.float32)
        return np.asarray(np.einsum("t,tw->w", shares, numbers) - 8 * shares.sum(), np.float32)


def _gelu(values: Floats) -> Floats:
    """Apply the activation function GELU in its tanh approximation (Hendrycks and Gimpel, arXiv 1606.08415)."""
    inner = np.float32(math.sqrt(2 / math.pi)) * (values + np.float32(0.044715) * values * values * values)
    return np.asarray(np.float32(0.5) * values * (1 + np.tanh(inner)), np.float32)
