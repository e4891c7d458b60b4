"""The embedder that comes with the package: a multilingual sentence encoder in int8.

The encoder is Universal Sentence Encoder multilingual v3 (Yang et al., arXiv 1907.04307). It reads English, Arabic,
Chinese, Dutch, French, German, Italian, Japanese, Korean, Polish, Portuguese, Russian, Spanish, Thai and Turkish. A
question has nearly the same vector in each of them. This module depends on the packages onnxruntime and sentencepiece,
and on the files in multilingual_weights/, which tools/export_sentence_encoder.py writes.
"""

import unicodedata
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from index.embedders.onnx_embedder import OnnxEmbedder
from index.embedders.weight_files import check_files, revision
from index.types import EmbedderSpec, Vectors

NAME: Final = "multilingual"
DIMENSION: Final = 512
_NETWORK, _PIECES, _WORDS = "network.onnx", "pieces.model", "words.bin"
_CHECKSUMS: Final[Mapping[str, str]] = MappingProxyType(
    {
        _NETWORK: "0b50df93e9d625fd8691eff82970d9896057caef0ef7836192fac96e801d169c",
        _PIECES: "994fcc2e8ad0fe2c802b68fa0de9f058403f2b1656c2d33b6a94146b0c5925e9",
        _WORDS: "e3b04614bbeaaad07dca3f5ad94eacc77962b4d7c07ed0fa37345f412b7e33b0",
    }
)
_REPAIR_ADVICE: Final = "install drpo-proxy again (in a git clone: git checkout index/embedders/multilingual_weights)"
# A longer text is cut before it is tokenized: the time and the memory of the network grow with the number of tokens.
_MAX_CHARACTERS: Final = 4_000
_UNKNOWN: Final = 0  # the token of a piece that the vocabulary lacks
_MAX_UNKNOWN_SHARE: Final = 0.1
_MAX_UNKNOWN_OR_RARE_SHARE: Final = 0.4


class MultilingualEmbedder(OnnxEmbedder):
    """Embeds the first 4,000 characters of a text.

    If the encoder cannot read the script of a text, the vector of the text is zero. The encoder cannot read a script,
    as this class decides, if more than a tenth of the text's pieces are not in the vocabulary. Chinese, Japanese and
    Korean have thousands of characters, and the vocabulary lacks the rare ones. A text with such characters has a zero
    vector only if more than two fifths of its pieces are not in the vocabulary.
    """

    def __init__(self, directory: Path = Path(__file__).parent / "multilingual_weights") -> None:
        """Open the files in `directory`.

        Raises:
            EmbedderError: A file is missing or damaged.
        """
        # Imported here because the import takes time and most commands embed nothing.
        import sentencepiece

        check_files(directory, _CHECKSUMS, _REPAIR_ADVICE)
        spec = EmbedderSpec(NAME, revision(_CHECKSUMS), DIMENSION)
        super().__init__(directory / _NETWORK, spec, _MAX_CHARACTERS)
        self._tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(directory / _PIECES))
        # The file is mapped and not read, because a server needs only the rows of the words that its users write, not
        # all 65 MB.
        words = np.memmap(directory / _WORDS, np.uint8, "r").reshape(-1, DIMENSION)
        self._words: NDArray[np.uint8] = words

    def _embed_one(self, text: str) -> Vectors:
        ids: list[int] = self._tokenizer.encode(text, out_type=int, add_bos=True, add_eos=True)
        if _UNKNOWN in ids and self._is_unreadable(text):
            return np.zeros(DIMENSION, np.float32)
        token_ids = np.array(ids, np.int64)
        vector: Vectors = self._session.run(None, {"token_ids": token_ids, "rows": self._words[token_ids]})[0]
        return vector

    def _is_unreadable(self, text: str) -> bool:
        """Return whether the vocabulary lacks too many pieces of a text. Unknown emoji and symbols do not count."""
        pieces: list[str] = self._tokenizer.encode(text, out_type=str)
        ids: list[int] = self._tokenizer.encode(text, out_type=int)
        unknown = [piece for piece, number in zip(pieces, ids, strict=True) if number == _UNKNOWN]
        words = [piece for piece in unknown if any(map(str.isalpha, piece))]
        foreign = sum(not any(map(_is_east_asian, piece)) for piece in words)
        return foreign > _MAX_UNKNOWN_SHARE * len(pieces) or len(words) > _MAX_UNKNOWN_OR_RARE_SHARE * len(pieces)


def _is_east_asian(character: str) -> bool:
    """Return whether a character is as wide as those of Chinese, Japanese and Korean."""
    return unicodedata.east_asian_width(character) == "W"
