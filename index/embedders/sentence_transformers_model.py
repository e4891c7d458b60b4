"""An embedder that runs a model of the sentence-transformers library.

The library may download the model from the hub. The code of this module does not use the network.
"""

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from index.embedders.base import encodable, unit_rows
from index.errors import EmbedderError
from index.types import EmbedderSpec, Vectors

_PROBE = "How long is a vector?"
_UNKNOWN_REVISION = "unknown"


class SentenceTransformersEmbedder:
    """Runs a model of the sentence-transformers library on the device that the library chooses."""

    def __init__(self, model: str) -> None:
        """Load a model.

        Args:
            model: A folder with a model, or the name of a model on the Hugging Face hub.

        Raises:
            EmbedderError: The library is not installed, or the model cannot be loaded.
        """
        self._source = f"sentence-transformers:{model}"
        self._model = _load_sentence_transformer(model)
        self._lock = threading.Lock()
        self._spec = EmbedderSpec(self._source, self._revision(model), self._encode([_PROBE]).shape[1])

    @property
    def spec(self) -> EmbedderSpec:
        return self._spec

    def embed(self, texts: Sequence[str]) -> Vectors:
        if not texts:
            return np.empty((0, self._spec.dimension), np.float32)
        return self._encode(texts)

    def _encode(self, texts: Sequence[str]) -> Vectors:
        encodables = [encodable(text) for text in texts]
        with self._lock:  # the tokenizer stores the padding of the current call; a second call would change it
            rows = self._model.encode(encodables, show_progress_bar=False, convert_to_numpy=True)
        return unit_rows(rows, self._source)

    def _revision(self, model: str) -> str:
        """Return the hash of the folder's files if `model` is a folder.

        For a model of the hub, return the commit that the library reports, or `unknown` if it reports no commit.
        """
        if Path(model).is_dir():
            return _folder_hash(Path(model))
        return self._model.model_card_data.base_model_revision or _UNKNOWN_REVISION


def _load_sentence_transformer(model: str) -> Any:
    try:
        from safetensors import SafetensorError  # type: ignore[import-not-found]
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        advice = "pip install 'drpo-proxy[sentence-transformers]'"
        raise EmbedderError(f"sentence-transformers is not installed: {advice}") from error
    try:
        return SentenceTransformer(model)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise EmbedderError(
            f"sentence-transformers cannot load {model!r} ({type(error).__name__}): it must be a model folder, or the "
            "name of a hub model that is cached or can be reached"
        ) from error


def _folder_hash(folder: Path) -> str:
    """Return a hash of the names and bytes of the folder's files, except hidden files and files in hidden folders."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            digest.update(f"{name.as_posix()}\0".encode(errors="surrogateescape"))
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]
