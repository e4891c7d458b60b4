"""Compares the files of an embedder's weights with their published checksums."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from index.errors import EmbedderError


def check_files(directory: Path, checksums: Mapping[str, str], repair: str) -> None:
    """Compare files with their checksums.

    Args:
        directory: The directory with the files.
        checksums: The SHA-256 of each file in hexadecimal, by the file's name.
        repair: Advice to the user about a damaged file. The error message ends with this advice.

    Raises:
        EmbedderError: A file is missing, cannot be read or differs from its checksum.
    """
    for name, expected in checksums.items():
        path = directory / name
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise EmbedderError(f"{path}: cannot be read ({error.strerror}): {repair}") from error
        if found != expected:
            raise EmbedderError(f"{path}: is damaged, its SHA-256 is not {expected[:16]}...: {repair}")


def revision(checksums: Mapping[str, str]) -> str:
    """Return the revision of an embedder that consists of these files: 16 hexadecimal digits."""
    return hashlib.sha256("".join(checksums.values()).encode()).hexdigest()[:16]
