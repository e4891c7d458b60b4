"""The embedder that comes with the package: all-MiniLM-L6-v2 in int8, from index/embedders/weights/.

Knows onnxruntime, tokenizers and those files (tools/export_minilm.py made them and says how). Each text is run by
itself: on one thread a batch is no faster, and a text's vector then cannot depend on the texts beside it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index.embedders.base import encodable
from index.errors import EmbedderError
from index.types import EmbedderSpec, Vectors

NAME = "onnx"
DIMENSION = 384
_MODEL = "model.onnx"
_TOKENIZER = "tokenizer.json"
_CHECKSUMS = "SHA256SUMS"
# Far more than the 256 tokens that are read hold; it bounds the time that tokenizing a huge text takes.
_CHARACTERS_READ = 20_000
_REPAIR = "install drpo-proxy again (in a git clone: git checkout index/embedders/weights)"


class OnnxEmbedder:
    """Thread-safe; uses the calling thread only. Reads the first 256 tokens of a text, as the model's authors do."""

    def __init__(self, directory: Path = Path(__file__).parent / "weights") -> None:
        """EmbedderError if the files are missing or not the ones that were shipped."""
        # Here and not above: importing them takes half a second, and most commands embed nothing.
        import onnxruntime
        from tokenizers import Tokenizer

        contents = read_verified(directory, (_MODEL, _TOKENIZER), _REPAIR)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors; its warnings are about devices that are not used
        # Its arena stays on, though the longest text leaves some 20 MB in it: without it, each large block of each text
        # would be mapped anew where large blocks are (proxy/core/malloc.py), for a fifth more time.
        # By its path: from bytes, onnxruntime keeps a second copy of the weights (23 MB).
        path = str(directory / _MODEL)
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._tokenizer = Tokenizer.from_str(contents[_TOKENIZER].decode())
        self._spec = EmbedderSpec(NAME, _revision(contents), DIMENSION)

    @property
    def spec(self) -> EmbedderSpec:
        return self._spec

    def embed(self, texts: Sequence[str]) -> Vectors:
        vectors = np.empty((len(texts), DIMENSION), np.float32)
        for row, text in enumerate(texts):
            vectors[row] = self._embed_one(text)
        return vectors

    def token_ids(self, text: str) -> NDArray[np.int64]:
        """(tokens,): what the model reads of a text; the first and the last mark its start and its end."""
        return np.array(self._tokenizer.encode(encodable(text[:_CHARACTERS_READ])).ids, np.int64)

    def _embed_one(self, text: str) -> Vectors:
        embedding: Vectors = self._session.run(None, {"token_ids": self.token_ids(text)})[0]
        return embedding


def read_verified(directory: Path, names: Sequence[str], repair: str) -> Mapping[str, bytes]:
    """These files, by name. EmbedderError, with the advice `repair`, unless each is the one of the checksums there."""
    contents = {name: _read(directory / name, repair) for name in (_CHECKSUMS, *names)}
    expected = contents[_CHECKSUMS].decode("ascii", errors="replace").split()
    recorded = dict(zip(expected[1::2], expected[::2], strict=False))
    for name in names:
        if hashlib.sha256(contents[name]).hexdigest() != recorded.get(name):
            raise EmbedderError(f"{directory / name}: is damaged, its SHA-256 is not the one in {_CHECKSUMS}: {repair}")
    return contents


def _read(path: Path, repair: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EmbedderError(f"{path}: cannot be read ({error.strerror}): {repair}") from error


def _revision(contents: Mapping[str, bytes]) -> str:
    return hashlib.sha256(contents[_MODEL] + contents[_TOKENIZER]).hexdigest()[:16]
