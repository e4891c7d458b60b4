"""Writes index/embedders/query_weights/ from a trained student: 4-bit tables, float16 dense layers and a checksum.

    python tools/export_query_embedder.py pairs256.npz

tools/train_query_embedder.py writes the student: an npz with int8 tables, their scales and the dense layers. Each row
of a 4-bit table has one scale. It is the candidate scale with the smallest squared error.
"""

import argparse
import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index.embedders.minilm import OnnxEmbedder

TARGET = Path(__file__).parents[1] / "index" / "embedders" / "query_weights"
LARGEST = 7
SHARES_OF_LARGEST = (1.0, 0.9, 0.8, 0.7, 0.6)
DENSE = ("out", "norm", "wide", "narrow")

Floats = NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes the weights of the embedder `fast`.")
    parser.add_argument("student", type=Path, help="the trained layers, an npz")
    student = np.load(parser.parse_args().student, allow_pickle=False)
    arrays: dict[str, NDArray[np.generic]] = {"teacher": np.array(OnnxEmbedder().spec.revision)}
    for name in ("words", "pairs"):
        rows = student[f"{name}.weight.int8"] * student[f"{name}.weight.scales"]
        arrays[name], arrays[f"{name[:-1]}_scales"] = four_bits(rows)
    for name in DENSE:
        arrays[name], arrays[f"{name}_bias"] = student[f"{name}.weight"], student[f"{name}.bias"]
    TARGET.mkdir(exist_ok=True)
    np.savez(TARGET / "weights.npz", **arrays)  # type: ignore[arg-type]
    digest = hashlib.sha256((TARGET / "weights.npz").read_bytes()).hexdigest()
    (TARGET / "SHA256SUMS").write_text(f"{digest}  weights.npz\n", encoding="ascii")


def four_bits(rows: Floats) -> tuple[NDArray[np.uint8], Floats]:
    """Rows of 16 steps around 8, two numbers to a byte as index/embedders/student.py reads them, and the step of each
    row."""
    largest = np.abs(rows).max(1, keepdims=True) + 1e-12
    scales, numbers, errors = largest.copy(), np.zeros(rows.shape), np.full(largest.shape, np.inf)
    for share in SHARES_OF_LARGEST:
        step = largest * share / LARGEST
        rounded = np.clip(np.round(rows / step), -LARGEST, LARGEST)
        error = np.square(rounded * step - rows).sum(1, keepdims=True)
        better = error < errors
        scales, numbers = np.where(better, step, scales), np.where(better, rounded, numbers)
        errors = np.minimum(error, errors)
    left, right = np.split((numbers + 8).astype(np.uint8), 2, axis=1)
    return np.asarray(left | right << 4, np.uint8), np.asarray(scales[:, 0], np.float32)


if __name__ == "__main__":
    main()
