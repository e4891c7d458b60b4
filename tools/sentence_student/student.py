"""Runs a trained student of the multilingual sentence encoder in numpy.

The table has 8 or 4 bits a component and one scale a row. With 4 bits a byte holds two components, which one look-up
turns into two numbers. This module depends on numpy and sentencepiece.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tools.sentence_student.teacher import Floats, dense_network

_LARGEST: Final = {8: 127, 4: 7}
_LONG: Final = 400  # characters; a longer text is read at its ends
_SHARES_OF_LARGEST: Final = (1.0, 0.9, 0.8, 0.7, 0.6)


class SentenceStudent:
    """A student.

    Args:
        resources: The folder of the teacher's sp.model.
        student: What training wrote.
        bits: The bits of a component of the table, or 0 for what training wrote.
        ends: Characters at the start and at the end of a long text whose vectors are averaged; 0 reads the whole text.
    """

    def __init__(self, resources: Path, student: Path, bits: int = 4, ends: int = 0) -> None:
        import sentencepiece

        self._tokenizer: Any = sentencepiece.SentencePieceProcessor(model_file=str(resources / "sp.model"))
        with np.load(student, allow_pickle=False) as arrays:
            self._weights: Mapping[str, Any] = {name: arrays[name] for name in arrays.files if name != "table"}
            rows = arrays["table"].astype(np.float32)
        self._bits, self._ends = bits, ends
        self._numbers, self._scales = pack(rows, bits) if bits else (rows, np.ones(len(rows), np.float32))
        self._pairs = np.array([[low - 8, high - 8] for high in range(16) for low in range(16)], np.float32)
        self._pairs = self._pairs.view(np.complex64)[:, 0]
        if "near" in self._weights:
            self._seen = len(self._weights["near"]) // 3
            self._near = self._weights["near"] / self._weights["scale"]

    @property
    def size(self) -> int:
        """Bytes of the table, its scales in 16 bits, and the dense layers in 16 bits."""
        dense = sum(value.size for value in self._weights.values()) * 2
        return int(self._numbers.nbytes + self._scales.size * 2 + dense)

    def embed(self, texts: Sequence[str]) -> Floats:
        """One vector per text: (len(texts), 512), rows of norm 1."""
        return np.stack([self._embed_one(text) for text in texts])

    def _embed_one(self, text: str) -> Floats:
        if not self._ends or len(text) <= _LONG:
            return self._embed_part(text)
        both = self._embed_part(text[: self._ends]) + self._embed_part(text[-self._ends :])
        return np.asarray(both / np.sqrt(both @ both), np.float32)

    def _embed_part(self, text: str) -> Floats:
        ids = self._tokenizer.encode(text, out_type=int, add_bos=True, add_eos=True)
        rows, w = self._rows(ids), self._weights
        sums = rows.sum(0) @ w["layer"] + len(ids) * w["bias"]
        if "near" in w:
            sums += self._near_units(rows[:, : self._seen]) @ w["curved"]
        return dense_network(w, sums / np.float32(np.sqrt(len(ids))))

    def _near_units(self, head: Floats) -> Floats:
        seen = np.zeros((len(head), 3 * self._seen), np.float32)
        seen[1:, : self._seen] = head[:-1]
        seen[:, self._seen : 2 * self._seen] = head
        seen[:-1, 2 * self._seen :] = head[1:]
        units = seen @ self._near
        units += self._weights["near_bias"]
        return np.asarray(np.maximum(units, 0, out=units).sum(0), np.float32)

    def _rows(self, ids: Sequence[int]) -> Floats:
        scales = self._scales[ids][:, None]
        if self._bits == 4:
            return np.asarray(self._pairs[self._numbers[ids]].view(np.float32) * scales, np.float32)
        return np.asarray(self._numbers[ids] * scales, np.float32)


def pack(rows: Floats, bits: int) -> tuple[NDArray[Any], Floats]:
    """A table in whole numbers, and the scale of each row: of some candidates that with the smallest squared error."""
    largest = np.abs(rows).max(1, keepdims=True) + 1e-12
    scales, errors = largest.copy(), np.full(largest.shape, np.inf, np.float32)
    numbers = np.zeros(rows.shape, np.int8)
    for share in _SHARES_OF_LARGEST if bits == 4 else _SHARES_OF_LARGEST[:1]:
        step = largest * np.float32(share / _LARGEST[bits])
        rounded = np.clip(np.round(rows / step), -_LARGEST[bits], _LARGEST[bits])
        error = np.square(rounded * step - rows).sum(1, keepdims=True)
        better = error < errors
        scales, numbers = np.where(better, step, scales), np.where(better, rounded, numbers).astype(np.int8)
        errors = np.minimum(error, errors)
    scales = scales[:, 0].astype(np.float32)
    if bits == 8:
        return numbers, scales
    shifted = (numbers + 8).astype(np.uint8)
    return shifted[:, 0::2] | shifted[:, 1::2] << 4, scales
