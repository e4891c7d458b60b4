"""Reads the header of a GGUF model file, and finds out whether the file is complete.

The header has key-value pairs, and a list of tensors with their sizes and positions. llama.cpp reads the tensors
themselves. The file may have any content, so every length is checked.
"""

import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from proxy.core.errors import EmbeddedError

_MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
_MAX_COUNT: Final = 10_000_000  # of elements of an array, of pairs, or of tensors; vocabularies have up to 300,000
_MAX_KEPT_ELEMENTS: Final = 4_096  # a longer array of numbers is skipped, because the proxy needs no such array
_MAX_DIMENSIONS: Final = 8  # of a tensor
_ALIGNMENT: Final = 32  # bytes, if the file sets none
_STRING, _ARRAY, _BOOL = 8, 9, 7  # types of values
_LENGTH: Final = struct.Struct("<Q")  # the length of a string
# The types of numbers, with their codes in the module struct.
_NUMBERS: Final[Mapping[int, str]] = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    _BOOL: "?",
    10: "Q",
    11: "q",
    12: "d",
}
# The numbers of elements and bytes in one block of each type of tensor (ggml.h).
_BLOCKS: Final[Mapping[int, tuple[int, int]]] = {
    0: (1, 4),
    1: (1, 2),
    2: (32, 18),
    3: (32, 20),
    6: (32, 22),
    7: (32, 24),
    8: (32, 34),
    9: (32, 36),
    10: (256, 84),
    11: (256, 110),
    12: (256, 144),
    13: (256, 176),
    14: (256, 210),
    15: (256, 292),
    16: (256, 66),
    17: (256, 74),
    18: (256, 98),
    19: (256, 50),
    20: (32, 18),
    21: (256, 110),
    22: (256, 82),
    23: (256, 136),
    24: (1, 1),
    25: (1, 2),
    26: (1, 4),
    27: (1, 8),
    28: (1, 8),
    29: (256, 56),
    30: (1, 2),
    34: (256, 54),
    35: (256, 66),
    39: (32, 17),
}
# Other files that a user may give instead of a model file, by their first bytes.
_OTHER_FILES: Final[Mapping[bytes, str]] = {
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself: fetch it with `git lfs pull`",
    b"PK\x03\x04": "an archive or a PyTorch checkpoint: convert it with llama.cpp's convert_hf_to_gguf.py",
    b"tjgg": "in the older format GGJT: convert the model again",
    b"lmgg": "in the older format GGML: convert the model again",
    b"fmgg": "in the older format GGMF: convert the model again",
    b"<": "a web page: download the file itself",
    b"{": "JSON: give the .gguf file",
}


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """The header of a model file.

    Attributes:
        values: The key-value pairs. Long arrays are left out.
        counts: The number of elements of each array, by its key.
        tensors_end: The size in bytes that the file has if nothing is missing.
    """

    values: Mapping[str, Any]
    counts: Mapping[str, int]
    tensors_end: int

    @property
    def architecture(self) -> str:
        """The architecture of the model, such as `llama`; empty if the file names none."""
        return str(self.values.get("general.architecture") or "")

    def own(self, key: str) -> Any:
        """Return the value of ARCHITECTURE.key, such as llama.context_length for `context_length`; None if missing."""
        return self.values.get(f"{self.architecture}.{key}")

    def number(self, key: str) -> int:
        """Return the same value as `own` if it is a positive whole number, else 0."""
        value = self.own(key)
        return value if isinstance(value, int) and value > 0 else 0


class _MalformedError(Exception):
    """The header has an impossible value, such as a length that is too large or an unknown type."""


class _CutError(Exception):
    """The file ends in the middle of its header."""


def read_header(path: Path) -> GgufHeader:
    """Read the header of a model file.

    Raises:
        EmbeddedError: The file cannot be read, is no GGUF file, has an unknown version or is cut short.
    """
    if path.exists() and not path.is_file():
        raise EmbeddedError(f"--model-file {path}: this is not a regular file.")
    try:
        with path.open("rb") as file:
            _check_beginning(path, file.read(64))
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                header, size = _Reader(data).header(), len(data)
    except OSError as error:
        raise EmbeddedError(f"--model-file {path}: {(error.strerror or str(error)).lower()}.") from error
    except _CutError as error:
        raise EmbeddedError(
            f"--model-file {path}: the file is cut short in the middle of its header. Download it again."
        ) from error
    except _MalformedError as error:
        raise EmbeddedError(f"--model-file {path}: the file is damaged ({error}). Download it again.") from error
    if size < header.tensors_end:
        raise EmbeddedError(
            f"--model-file {path}: the file is cut short. It has only {size:,} of {header.tensors_end:,} bytes. "
            "Download it again."
        )
    return header


def _check_beginning(path: Path, beginning: bytes) -> None:
    if not beginning:
        raise EmbeddedError(f"--model-file {path}: the file is empty. Download it again.")
    if not beginning.startswith(_MAGIC):
        raise EmbeddedError(f"--model-file {path}: this is no GGUF file. It {_described(beginning)}.")
    if len(beginning) < 8:
        raise _CutError
    (version,) = struct.unpack_from("<I", beginning, 4)
    if version not in _VERSIONS:
        is_swapped = struct.unpack_from(">I", beginning, 4)[0] in _VERSIONS
        what = "for big-endian machines" if is_swapped else f"of version {version}"
        raise EmbeddedError(
            f"--model-file {path}: this is a GGUF file {what}. The proxy serves little-endian files of versions "
            "2 and 3. Convert the model again."
        )


def _described(beginning: bytes) -> str:
    for first, what in _OTHER_FILES.items():
        if beginning.lstrip().startswith(first):
            return f"is {what}"
    if beginning[8:10] == b'{"':
        return "is in the format safetensors: convert it with llama.cpp's convert_hf_to_gguf.py, or serve it with vLLM"
    return "does not begin with the letters GGUF"


class _Reader:
    """Reads the values of the header one after the other."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._position = 8

    def header(self) -> GgufHeader:
        tensors, pairs = self._count(), self._count()
        values: dict[str, Any] = {}
        counts: dict[str, int] = {}
        for _ in range(pairs):
            key, kind = self._string(), self._number("I")
            value = self._array(key, counts) if kind == _ARRAY else self._value(kind)
            if value is not None:
                values[key] = value
        end = max(self._tensor_ends(tensors), default=0)
        alignment = values.get("general.alignment")
        alignment = alignment if isinstance(alignment, int) and alignment > 0 else _ALIGNMENT
        start = -(-self._position // alignment) * alignment
        return GgufHeader(values, counts, start + end if tensors else self._position)

    def _tensor_ends(self, tensors: int) -> Iterator[int]:
        """Yield the position after each tensor, in bytes from the beginning of the first tensor."""
        for _ in range(tensors):
            self._string()
            dimensions = self._number("I")
            if dimensions > _MAX_DIMENSIONS:
                raise _MalformedError(f"a tensor has {dimensions} dimensions")
            elements = 1
            for _ in range(dimensions):
                elements *= self._number("Q")
            block, size = _BLOCKS.get(self._number("I"), (1, 0))  # the size of an unknown type counts as 0
            yield self._number("Q") + elements // block * size

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind not in _NUMBERS:
            raise _MalformedError(f"a value has the unknown type {kind}")
        return self._number(_NUMBERS[kind])

    def _array(self, key: str, counts: dict[str, int]) -> list[Any] | None:
        """Read an array. Return None if the array is long, or if it contains strings."""
        kind, counts[key] = self._number("I"), self._count()
        count = counts[key]
        if kind == _STRING:
            self._skip_strings(count)
            return None
        if kind not in _NUMBERS:
            raise _MalformedError(f"an array has the unknown type {kind}")
        if count <= _MAX_KEPT_ELEMENTS:
            return [self._number(_NUMBERS[kind]) for _ in range(count)]
        self._skip(count * struct.calcsize(f"<{_NUMBERS[kind]}"))
        return None

    def _count(self) -> int:
        count: int = self._number("Q")
        if count > _MAX_COUNT:
            raise _MalformedError(f"it claims to have {count} elements, pairs or tensors")
        return count

    def _number(self, code: str) -> Any:
        start = self._skip(struct.calcsize(f"<{code}"))
        return struct.unpack_from(f"<{code}", self._data, start)[0]

    def _string(self) -> str:
        length = self._number("Q")
        start = self._skip(length)
        return self._data[start : start + length].decode("utf-8", "replace")

    def _skip_strings(self, count: int) -> None:
        """Skip strings without a call for each of them, because a vocabulary has hundreds of thousands of strings."""
        data, position, last = self._data, self._position, len(self._data) - _LENGTH.size
        for _ in range(count):
            if position > last:
                raise _CutError
            position += _LENGTH.size + _LENGTH.unpack_from(data, position)[0]
        self._skip(position - self._position)

    def _skip(self, size: int) -> int:
        """Skip `size` bytes, and return the position before them."""
        start = self._position
        if size > len(self._data) - start:
            raise _CutError
        self._position = start + size
        return start
