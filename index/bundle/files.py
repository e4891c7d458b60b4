"""The files of a bundle on the disk: read or mapped, compared with the manifest's records, written all or none.

Knows paths, sizes and hashes; knows nothing of what a file holds.
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
_MANIFEST_LIMIT = 2**20

Content = bytes | mmap.mmap
Taken = TypeVar("Taken")


def read_manifest_bytes(directory: Path) -> bytes:
    """The bytes of the manifest. BundleError."""
    if not is_directory(directory):
        raise BundleError(f"{directory}: there is no such directory: give the directory that holds {MANIFEST}")
    return _open_and(_read, directory / MANIFEST, None)


def read_file(path: Path, size: int) -> bytes:
    """The bytes of a regular file, which must be `size` long. BundleIntegrityError."""
    return _open_and(_read, path, size)


def map_file(path: Path, size: int) -> Content:
    """The same, mapped: read only, one copy in memory for all processes, and read from the disk when it is needed.

    Whoever writes to the file while it is mapped changes what was checked. Bundles are never written to: a new one is
    written elsewhere and renamed.
    """
    return _open_and(_map, path, size)


def check_hashes(contents: Mapping[str, Content], records: Mapping[str, FileRecord], directory: Path) -> None:
    """BundleIntegrityError unless every content is what the manifest vouches for."""
    with ThreadPoolExecutor(max_workers=2) as threads:  # the two large files of a large bank at the same time
        hashes = threads.map(lambda name: hashlib.sha256(contents[name]).hexdigest(), records)
    for name, found in zip(records, hashes, strict=True):
        if found != records[name].sha256:
            raise BundleIntegrityError(f"{directory / name}: its SHA-256 is not the one in {MANIFEST}: {REPAIR}")


def is_directory(path: Path) -> bool:
    """Whether there is a directory. BundleError if that cannot be told."""
    try:
        return path.is_dir()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from None


def _open_plainly(path: str, flags: int) -> int:
    # A symbolic link is refused, and a named pipe must not be waited for.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _open_and(take: Callable[[BufferedReader, int], Taken], path: Path, size: int | None) -> Taken:
    """What `take` makes of a regular file of `size` bytes; None: of anything up to the limit of a manifest."""
    try:
        with open(path, "rb", opener=_open_plainly) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BundleIntegrityError(f"{path}: is not a regular file: {REPAIR}")
            if size is None and status.st_size > _MANIFEST_LIMIT:
                raise BundleFormatError(f"{path}: is larger than {_MANIFEST_LIMIT:,} bytes: it cannot be a manifest")
            if size is not None and status.st_size != size:
                raise _wrong_size(path, status.st_size, size)
            return take(file, status.st_size)
    except FileNotFoundError:
        raise BundleIntegrityError(f"{path}: the file is missing: {REPAIR}") from None
    except OSError as error:
        reason = "is a symbolic link, which a bundle may not hold" if path.is_symlink() else f"{error.strerror}"
        raise BundleIntegrityError(f"{path}: cannot be read: {reason}: {REPAIR}") from None


def _read(file: BufferedReader, size: int) -> bytes:
    return file.read(size)


def _map(file: BufferedReader, size: int) -> Content:
    return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b""  # nothing cannot be mapped


def _wrong_size(path: Path, found: int, expected: int) -> BundleIntegrityError:
    return BundleIntegrityError(f"{path}: has {found:,} bytes, {MANIFEST} says {expected:,}: {REPAIR}")


# Writing


def refuse_place(directory: Path) -> None:
    """BundleError if a new bundle cannot be put there."""
    if directory.exists() or directory.is_symlink():
        raise BundleError(f"{directory}: exists already: remove it, or give another directory")
    if not is_directory(directory.parent):
        raise BundleError(f"{directory.parent}: there is no such directory: create it first")


def publish(directory: Path, contents: Mapping[str, Content]) -> None:
    """All files or none: they are complete on the disk, under another name, before the directory gets its own."""
    temporary = directory.parent / f".{directory.name}.{secrets.token_hex(8)}.tmp"
    try:
        temporary.mkdir()
        for name, data in contents.items():
            _write_file(temporary / name, data)
        _sync_directory(temporary)
        refuse_place(directory)
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
