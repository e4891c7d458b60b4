"""Reads, maps, verifies and writes the files of a bundle on the disk.

It depends on paths, sizes and hashes, and not on the content of a file.
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
REPAIR = "restore the file, or build the bundle again"
_MAX_MANIFEST_BYTES = 2**20

Content = bytes | mmap.mmap
Result = TypeVar("Result")


def read_manifest_bytes(directory: Path) -> bytes:
    """Return the bytes of the manifest.

    Raises:
        BundleError: The directory or its manifest cannot be read.
    """
    if not is_directory(directory):
        raise BundleError(f"{directory}: there is no such directory: give the directory that holds {MANIFEST}")
    return _open_and(_read, directory / MANIFEST, None)


def read_file(path: Path, size: int) -> bytes:
    """Return the bytes of a regular file.

    Raises:
        BundleIntegrityError: The file cannot be read, or does not have `size` bytes.
    """
    return _open_and(_read, path, size)


def map_file(path: Path, size: int) -> Content:
    """Map a regular file into memory, read only. All processes share one copy, which is read when it is needed.

    A process that writes to the file while it is mapped changes content that was already verified. For this reason no
    code writes to a finished bundle: a new one is written elsewhere and renamed.

    Raises:
        BundleIntegrityError: The file cannot be read, or does not have `size` bytes.
    """
    return _open_and(_map, path, size)


def check_hashes(contents: Mapping[str, Content], records: Mapping[str, FileRecord], directory: Path) -> None:
    """Compare the hashes of all files with the manifest's records.

    Raises:
        BundleIntegrityError: A file differs.
    """
    with ThreadPoolExecutor(
        max_workers=2
    ) as threads:  # a large bank has two large files, which are hashed at the same time
        hashes = threads.map(lambda name: hashlib.sha256(contents[name]).hexdigest(), records)
    for name, found in zip(records, hashes, strict=True):
        if found != records[name].sha256:
            raise BundleIntegrityError(f"{directory / name}: its SHA-256 is not the one in {MANIFEST}: {REPAIR}")


def is_directory(path: Path) -> bool:
    """Return whether the directory exists.

    Raises:
        BundleError: The path cannot be read.
    """
    try:
        return path.is_dir()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from None


def _open_without_following(path: str, flags: int) -> int:
    # Refuses symbolic links, and does not wait for a named pipe.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _open_and(read: Callable[[BufferedReader, int], Result], path: Path, size: int | None) -> Result:
    """Return the result of `read` for a regular file of `size` bytes. None allows any size up to that of a manifest."""
    try:
        with open(path, "rb", opener=_open_without_following) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BundleIntegrityError(f"{path}: is not a regular file: {REPAIR}")
            if size is None and status.st_size > _MAX_MANIFEST_BYTES:
                raise BundleFormatError(
                    f"{path}: is larger than {_MAX_MANIFEST_BYTES:,} bytes: it cannot be a manifest"
                )
            if size is not None and status.st_size != size:
                raise _wrong_size(path, status.st_size, size)
            return read(file, status.st_size)
    except FileNotFoundError:
        raise BundleIntegrityError(f"{path}: the file is missing: {REPAIR}") from None
    except OSError as error:
        reason = "is a symbolic link, which a bundle may not hold" if path.is_symlink() else f"{error.strerror}"
        raise BundleIntegrityError(f"{path}: cannot be read: {reason}: {REPAIR}") from None


def _read(file: BufferedReader, size: int) -> bytes:
    return file.read(size)


def _map(file: BufferedReader, size: int) -> Content:
    return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b""  # an empty file cannot be mapped


def _wrong_size(path: Path, found: int, expected: int) -> BundleIntegrityError:
    return BundleIntegrityError(f"{path}: has {found:,} bytes, {MANIFEST} says {expected:,}: {REPAIR}")


# Writing


def check_output_directory(directory: Path) -> None:
    """Check that a new bundle can be written to `directory`.

    Raises:
        BundleError: The directory exists, or its parent does not.
    """
    if directory.exists() or directory.is_symlink():
        raise BundleError(f"{directory}: exists already: remove it, or give another directory")
    if not is_directory(directory.parent):
        raise BundleError(f"{directory.parent}: there is no such directory: create it first")


def publish(directory: Path, contents: Mapping[str, Content]) -> None:
    """Write all files of a bundle, or none.

    The files are complete on the disk in a temporary directory before it is renamed.

    Raises:
        BundleError: The directory exists, or its parent does not, or the disk is full.
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
        raise BundleError(f"{directory}: cannot be written: {error.strerror}: make room, or write elsewhere") from None
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
