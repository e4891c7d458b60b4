"""The embedder that comes with the package: all-MiniLM-L6-v2 in int8, from index/embedders/weights/.

This module depends on the packages onnxruntime and tokenizers, and on the files of weights, which
tools/export_minilm.py creates. The model runs one text at a time, because a batch of texts is no faster on one thread.
The vector of a text therefore cannot depend on other texts.
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
# A longer text is cut before it is tokenized, because tokenizing a huge text takes long. The 256 tokens that the model
# reads usually have far fewer characters than this limit.
_MAX_CHARACTERS = 20_000
_REPAIR_ADVICE = "install drpo-proxy again (in a git clone: git checkout index/embedders/weights)"


class OnnxEmbedder:
    """Embeds the first 256 tokens of a text, because the model's authors also cut texts at this length.

    This embedder is thread-safe, and computes on the calling thread.
    """

    def __init__(self, directory: Path = Path(__file__).parent / "weights") -> None:
        """Open the model in `directory`.

        Raises:
            EmbedderError: A file is missing or damaged.
        """
        # Imported here because the imports take half a second and most commands embed nothing.
        import onnxruntime
        from tokenizers import Tokenizer

        contents = read_verified(directory, (_MODEL, _TOKENIZER), _REPAIR_ADVICE)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only; the warnings are about devices that this session does not use
        # onnxruntime's memory arena stays on, although it keeps about 20 MB after the longest text. Without the arena,
        # onnxruntime would allocate memory again for each text. The large blocks would come from mmap each time
        # (proxy/core/malloc.py), and embedding a text would take a fifth more time.
        # The session gets the path of the model, because onnxruntime keeps a second copy of the weights (23 MB) if it
        # gets the content of the file.
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
        """Return the model's token ids: (tokens,). The first id marks the start of the text, the last id its end."""
        return np.array(self._tokenizer.encode(encodable(text[:_MAX_CHARACTERS])).ids, np.int64)

    def _embed_one(self, text: str) -> Vectors:
        embedding: Vectors = self._session.run(None, {"token_ids": self.token_ids(text)})[0]
        return embedding


def read_verified(directory: Path, names: Sequence[str], repair: str) -> Mapping[str, bytes]:
    """Read files, compare them with the checksums in their directory, and return their contents by name.

    Args:
        directory: The directory with the files and their SHA256SUMS.
        names: The names of the files.
        repair: Advice to the user about a damaged file. The error message ends with this advice.

    Raises:
        EmbedderError: A file is missing or differs from its checksum.
    """
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
