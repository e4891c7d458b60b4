"""The base class of the embedders whose network runs in this process with onnxruntime."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from index.embedders.base import encodable
from index.types import EmbedderSpec, Vectors


class OnnxEmbedder(ABC):
    """Embeds one text at a time. The vector of a text therefore cannot depend on other texts.

    This embedder is thread-safe, and computes on the calling thread.
    """

    def __init__(self, network: Path, spec: EmbedderSpec, max_characters: int) -> None:
        """Open the network.

        Args:
            network: The file of the network, in ONNX format.
            spec: The name, revision and dimension of the embedder.
            max_characters: The length at which a longer text is cut before it is tokenized.
        """
        # Imported here because the import takes time and most commands embed nothing.
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only; the warnings are about devices that this session does not use
        self._session = onnxruntime.InferenceSession(str(network), options, providers=["CPUExecutionProvider"])
        self._spec = spec
        self._max_characters = max_characters

    @property
    def spec(self) -> EmbedderSpec:
        return self._spec

    def embed(self, texts: Sequence[str]) -> Vectors:
        vectors = np.empty((len(texts), self._spec.dimension), np.float32)
        for row, text in enumerate(texts):
            vectors[row] = self._embed_one(encodable(text[: self._max_characters]))
        return vectors

    @abstractmethod
    def _embed_one(self, text: str) -> Vectors:
        """Return the vector of a text: (dimension,)."""
