"""Kinds of damage to a file, for tests of embedders that verify their files."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1_000])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES: Final[Mapping[str, Callable[[Path], None]]] = MappingProxyType(
    {"missing": Path.unlink, "one bit": _flip, "cut short": _cut, "empty": _empty}
)
