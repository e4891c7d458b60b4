"""Reads, maps, verifies and writes the files of a bundle on the disk.

This module does not depend on what the files contain.
"""

import hashlib
import mmap
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from io import BufferedReader
from pathlib import Path
from typing import TypeVar

from index.errors import BundleError, BundleFormatError, BundleIntegrityError
from index.types import FileRecord

MANIFEST = "manifest.json"
REPAIR = "Restore the file, or build the bundle again"
_MAX_SMALL_BYTES = 2**20

Content = bytes | mmap.mmap
Result = TypeVar("Result")


def read_manifest_bytes(directory: Path) -> bytes:
    """Return the bytes of the manifest.

    Raises:
        BundleError: The directory or its manifest cannot be read.
    """
    if not is_directory(directory):
        raise BundleError(f"{directory}: there is no such directory. Give the directory that holds {MANIFEST}")
    return read_small_file(directory / MANIFEST)


def read_small_file(path: Path) -> bytes:
    """Return the bytes of a regular file that no manifest records. It may have up to `_MAX_SMALL_BYTES` bytes.

    Raises:
        BundleError: The file cannot be read, or is too large.
    """
    return _open_and(_read, path, None)


def read_file(path: Path, size: int) -> bytes:
    """Return the bytes of a regular file.

    Raises:
        BundleIntegrityError: The file cannot be read, or does not have `size` bytes.
    """
    return _open_and(_read, path, size)


def map_file(path: Path, size: int) -> Content:
    """Map a regular file into memory, read only. All processes that map the file share one copy of it in memory.

    If a process wrote to a mapped file, it would change content that other processes have already verified. For this
    reason no code of drpo writes to a finished bundle: `publish` writes a new bundle to a temporary directory and then
    renames the directory.

    Raises:
        BundleIntegrityError: The file cannot be read, or does not have `size` bytes.
    """
    return _open_and(_map, path, size)


def check_hashes(contents: Mapping[str, Content], records: Mapping[str, FileRecord], directory: Path) -> None:
    """Compare the SHA-256 of each content with the manifest's record of the file.

    Raises:
        BundleIntegrityError: The SHA-256 of a file's content differs from the recorded SHA-256.
    """
    # Two threads, so that the two files that can be large (examples.jsonl and vectors.npy) are hashed in parallel.
    with ThreadPoolExecutor(max_workers=2) as threads:
        hashes = threads.map(lambda name: hashlib.sha256(contents[name]).hexdigest(), records)
    for name, found in zip(records, hashes, strict=True):
        if found != records[name].sha256:
            raise BundleIntegrityError(f"{directory / name}: its SHA-256 differs from the one in {MANIFEST}. {REPAIR}")


def is_directory(path: Path) -> bool:
    """Return whether `path` is an existing directory.

    Raises:
        BundleError: The path cannot be read.
    """
    try:
        return path.is_dir()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from None


def _open_without_following(path: str, flags: int) -> int:
    # O_NOFOLLOW makes a symbolic link an error. Without O_NONBLOCK, opening a named pipe would wait for its writer.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _open_and(read: Callable[[BufferedReader, int], Result], path: Path, size: int | None) -> Result:
    """Open a regular file, and return the result of `read`, which is called with the file and its size.

    The file must have `size` bytes. If `size` is None, it may have up to `_MAX_SMALL_BYTES` bytes.
    """
    try:
        with open(path, "rb", opener=_open_without_following) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BundleIntegrityError(f"{path}: is not a regular file. {REPAIR}")
            if size is None and status.st_size > _MAX_SMALL_BYTES:
                raise BundleFormatError(
                    f"{path}: is larger than {_MAX_SMALL_BYTES:,} bytes, so it cannot be a {path.name}"
                )
            if size is not None and status.st_size != size:
                raise _wrong_size(path, status.st_size, size)
            return read(file, status.st_size)
    except FileNotFoundError:
        raise BundleIntegrityError(f"{path}: the file is missing. {REPAIR}") from None
    except OSError as error:
        reason = "it is a symbolic link, which a bundle must not contain" if path.is_symlink() else f"{error.strerror}"
        raise BundleIntegrityError(f"{path}: cannot be read ({reason}). {REPAIR}") from None


def _read(file: BufferedReader, size: int) -> bytes:
    return file.read(size)


def _map(file: BufferedReader, size: int) -> Content:
    return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b""  # an empty file cannot be mapped


def _wrong_size(path: Path, found: int, expected: int) -> BundleIntegrityError:
    return BundleIntegrityError(f"{path}: has {found:,} bytes, but {MANIFEST} says {expected:,}. {REPAIR}")


# Writing


def check_output_directory(directory: Path) -> None:
    """Check that `directory` does not exist and that its parent directory exists.

    Raises:
        BundleError: The directory exists, or its parent does not exist.
    """
    if directory.exists() or directory.is_symlink():
        raise BundleError(f"{directory}: exists already. Remove it, or give another directory")
    if not is_directory(directory.parent):
        raise BundleError(f"{directory.parent}: there is no such directory. Create it first")


def publish(directory: Path, contents: Mapping[str, Content]) -> None:
    """Write the files of a bundle to a new directory. If a file cannot be written, the directory is not created.

    The files are written to a temporary directory beside `directory`. When all files are on the disk, the temporary
    directory is renamed to `directory`.

    Raises:
        BundleError: The directory exists, its parent does not exist, or a file cannot be written.
    """
    temporary = directory.parent / f".{directory.name}.{secrets.token_hex(8)}.tmp"
    try:
        temporary.mkdir()
        for name, data in contents.items():
            _write_file(temporary / name, data)
        _sync_directory(temporary)
        check_output_directory(directory)
        temporary.rename(directory)
        _sync_directory(directory.parent)
    except OSError as error:
        raise BundleError(
            f"{directory}: cannot be written ({error.strerror}). Free space, or write elsewhere"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_file(path: Path, data: Content) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
