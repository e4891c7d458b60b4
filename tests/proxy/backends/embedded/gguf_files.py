"""Writes small GGUF files with any header, for tests of faulty files."""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LLAMA: Mapping[str, Any] = {
    "general.architecture": "llama",
    "general.name": "Tiny Llama v2",
    "llama.context_length": 16384,
    "llama.embedding_length": 512,
    "llama.block_count": 8,
    "llama.attention.head_count": 8,
    "llama.attention.head_count_kv": 2,
    "tokenizer.ggml.tokens": ["<s>", "a", "b"],
}
BYTES_PER_TOKEN = 2 * 8 * 2 * (64 + 64)
"""The bytes that the keys and values of one token take in a model with the header LLAMA."""


def gguf(
    values: Mapping[str, Any] = LLAMA, tensors: Sequence[tuple[str, tuple[int, ...], int]] = (), version: int = 3
) -> bytes:
    """Return a file with these pairs and these tensors: name, dimensions and type (0 is float32). Its data is zeros."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(values))
    pairs = b"".join(_text(key) + _typed(value) for key, value in values.items())
    infos, offset = b"", 0
    for name, dimensions, kind in tensors:
        elements = 1
        for size in dimensions:
            elements *= size
        infos += _text(name) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, kind, offset)
        offset += -(-elements * 4 // 32) * 32
    body = head + pairs + infos
    return body + bytes(-len(body) % 32) + bytes(offset)


def write(folder: Path, content: bytes, name: str = "tiny.gguf") -> str:
    path = folder / name
    path.write_bytes(content)
    return str(path)


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _typed(value: Any) -> bytes:
    kind, data = _value(value)
    return struct.pack("<I", kind) + data


def _value(value: Any) -> tuple[int, bytes]:
    if isinstance(value, bool):
        return 7, struct.pack("<?", value)
    if isinstance(value, int):
        return 4, struct.pack("<I", value)
    if isinstance(value, float):
        return 6, struct.pack("<f", value)
    if isinstance(value, str):
        return 8, _text(value)
    items = [_value(one) for one in value]
    kind = items[0][0] if items else 4
    return 9, struct.pack("<IQ", kind, len(items)) + b"".join(data for _, data in items)
