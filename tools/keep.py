"""Builds a folder once and keeps it in the cache folder.

Only one process at a time builds a folder. The folder gets its final name when it is complete. A stamp file in the
folder shows whether the folder was damaged later. This module does not depend on what the folder contains.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from tools.steps import Say

_STAMP: Final = ".complete"
_MAX_UNUSED: Final = 30 * 24 * 3600.0  # seconds; an older version that was not used for so long is removed


def cache_root() -> Path:
    """Return the folder for large files, outside the repository."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "drpo"


def key_of(*sources: Path | str) -> str:
    """Return a short hash of the sources of a folder: contents of files (Path) and strings."""
    digest = hashlib.sha256()
    for source in sources:
        data = source.read_bytes() if isinstance(source, Path) else source.encode()
        digest.update(len(data).to_bytes(8) + data)
    return digest.hexdigest()[:12]


def kept(folder: Path, build: Callable[[Path], None], say: Say) -> Path:
    """Build `folder` if it is missing or damaged.

    Args:
        folder: The folder. Its name ends in a dash and a version, such as the hash of its sources.
        build: Called with the path of a temporary folder. Makes this folder and its content.
        say: Receives lines of progress.

    Returns:
        `folder`.
    """
    building = folder.with_name(f"{folder.name}.building")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _builder_lock(folder.with_name(f"{folder.name}.lock"), say):
        if not is_intact(folder):
            _remove_remains(folder, building, say)
            build(building)
            (building / _STAMP).write_text(_fingerprint(building), encoding="utf-8")
            building.rename(folder)
        (folder / _STAMP).touch()
    _remove_old_versions(folder, say)
    return folder


def is_intact(folder: Path) -> bool:
    """Return whether all files are as the builder left them, by path and size."""
    with contextlib.suppress(OSError):
        return (folder / _STAMP).read_text(encoding="utf-8") == _fingerprint(folder)
    return False


def _remove_remains(folder: Path, building: Path, say: Say) -> None:
    if folder.exists():
        say(f"{folder.name} is damaged: it is built again")
        shutil.rmtree(folder)
    if building.exists():
        say(f"{folder.name}: removing what an interrupted build left")
        shutil.rmtree(building)


@contextlib.contextmanager
def _builder_lock(lock: Path, say: Say) -> Iterator[None]:
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{lock.stem}: another process builds it; waiting")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fingerprint(folder: Path) -> str:
    """Return a hash of all paths and sizes, except those of byte code, which Python writes at any time."""
    digest = hashlib.sha256()
    for path, size in sorted(_files(folder, "")):
        digest.update(f"{path}\0{size}\n".encode())
    return digest.hexdigest()


def _files(folder: Path, prefix: str) -> Iterator[tuple[str, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if entry.name != "__pycache__":
                    yield from _files(Path(entry.path), f"{prefix}{entry.name}/")
            elif entry.name != _STAMP:
                yield f"{prefix}{entry.name}", entry.stat().st_size


def _remove_old_versions(folder: Path, say: Say) -> None:
    """Remove older versions of the folder that were not used for a month."""
    kind = folder.name.rpartition("-")[0]
    for stamp in folder.parent.glob(f"{kind}-*/{_STAMP}"):
        if stamp.parent != folder and time.time() - stamp.stat().st_mtime > _MAX_UNUSED:
            say(f"removing {stamp.parent.name}, not used for a month")
            shutil.rmtree(stamp.parent)
