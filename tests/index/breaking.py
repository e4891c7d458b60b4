"""Ways to break a bundle, and to look at how it is refused."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from index.bundle.bundle import load_bundle
from index.errors import BundleError
from tests.index.words import WordEmbedder


def load(directory: Path) -> None:
    load_bundle(directory, WordEmbedder())


def refused(directory: Path, kind: type[BundleError], *parts: str) -> None:
    """Loading is refused with one line that has all `parts`."""
    with pytest.raises(kind) as caught:
        load(directory)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def edit_manifest(directory: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((directory / "manifest.json").read_bytes())
    edit(manifest)
    (directory / "manifest.json").write_text(json.dumps(manifest))


def replace_file(directory: Path, name: str, data: bytes) -> None:
    """Puts `data` in place and lets the manifest vouch for it, as one who poisons a bundle would."""
    (directory / name).write_bytes(data)
    record = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    edit_manifest(directory, lambda manifest: manifest["files"].update({name: record}))


def replace_line(directory: Path, line: dict[str, object] | bytes) -> None:
    """Puts `line` in the place of the second example."""
    lines = (directory / "examples.jsonl").read_bytes().splitlines()
    lines[1] = line if isinstance(line, bytes) else json.dumps(line).encode()
    replace_file(directory, "examples.jsonl", b"\n".join(lines) + b"\n")
