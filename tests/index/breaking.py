"""Helpers that damage a bundle and check how it is refused."""

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
    """Check that loading fails with a message of one line that contains all `parts`."""
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
    """Replace a file and its record in the manifest, as an attacker would."""
    (directory / name).write_bytes(data)
    record = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    edit_manifest(directory, lambda manifest: manifest["files"].update({name: record}))


def replace_line(directory: Path, line: dict[str, object] | bytes) -> None:
    """Replace the second example by `line`."""
    lines = (directory / "examples.jsonl").read_bytes().splitlines()
    lines[1] = line if isinstance(line, bytes) else json.dumps(line).encode()
    replace_file(directory, "examples.jsonl", b"\n".join(lines) + b"\n")
