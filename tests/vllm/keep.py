"""A folder that is built once and kept: one builder at a time, renamed when complete, stamped so that damage shows.

Knows nothing of what is in the folder.
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

from tests.vllm.steps import Say

_STAMP: Final = ".complete"
_FORGOTTEN: Final = 30 * 24 * 3600.0  # seconds without use, after which an older version is removed


def cache_root() -> Path:
    """Where large things are kept, outside the clone."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "drpo"


def key_of(*sources: Path | str) -> str:
    """A short hash of what a folder is made from: file contents and words."""
    digest = hashlib.sha256()
    for source in sources:
        data = source.read_bytes() if isinstance(source, Path) else source.encode()
        digest.update(len(data).to_bytes(8) + data)
    return digest.hexdigest()[:12]


def kept(folder: Path, build: Callable[[Path], None], say: Say) -> Path:
    """`folder`, built by `build(temporary folder)` where it is missing or damaged."""
    building = folder.with_name(f"{folder.name}.building")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _only_builder(folder.with_name(f"{folder.name}.lock"), say):
        if not is_intact(folder):
            _clear(folder, building, say)
            build(building)
            (building / _STAMP).write_text(_fingerprint(building), encoding="utf-8")
            building.rename(folder)
        (folder / _STAMP).touch()
    _forget_older_versions(folder, say)
    return folder


def is_intact(folder: Path) -> bool:
    """Every file that the builder left is there, with its size."""
    with contextlib.suppress(OSError):
        return (folder / _STAMP).read_text(encoding="utf-8") == _fingerprint(folder)
    return False


def _clear(folder: Path, building: Path, say: Say) -> None:
    if folder.exists():
        say(f"{folder.name} is damaged: it is built again")
        shutil.rmtree(folder)
    if building.exists():
        say(f"{folder.name}: removing what an interrupted build left")
        shutil.rmtree(building)


@contextlib.contextmanager
def _only_builder(lock: Path, say: Say) -> Iterator[None]:
    with lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{lock.stem}: another process builds it; waiting for that")
            fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _fingerprint(folder: Path) -> str:
    """A hash of all paths and sizes. Byte code is left out: Python writes it when it likes."""
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


def _forget_older_versions(folder: Path, say: Say) -> None:
    """Remove folders of the same kind, made from other sources, that nobody has used for a month."""
    kind = folder.name.rpartition("-")[0]
    for stamp in folder.parent.glob(f"{kind}-*/{_STAMP}"):
        if stamp.parent != folder and time.time() - stamp.stat().st_mtime > _FORGOTTEN:
            say(f"removing {stamp.parent.name}, not used for a month")
            shutil.rmtree(stamp.parent)
