"""Makes the folder that the workers of a server share, and removes the folders of servers that were killed."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from proxy.core.shared_state import FILES, PRESENT, MappedState

_PREFIX: Final = "drpo-"


@contextmanager
def workers_folder(workers: int) -> Iterator[Path]:
    """Yield a new folder with the files that the workers share, and remove it at the end.

    Before, remove the folders of earlier servers that were killed together with all their workers.

    Args:
        workers: The number of workers.
    """
    remove_abandoned(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as name, MappedState.prepare(Path(name), workers):
        yield Path(name)


def remove_abandoned(parent: Path) -> None:
    """Remove each folder of this user in `parent` whose server and workers have all ended.

    A folder is known by its files. Its server and its workers hold locks on the file `present`. The kernel releases the
    locks of a process that was killed, so that it does not matter whether another process has its id now. Links are not
    followed. A folder that cannot be removed stays.
    """
    with suppress(OSError):
        for path in parent.glob(f"{_PREFIX}*"):
            with suppress(OSError):
                _remove_if_abandoned(path)


def _remove_if_abandoned(path: Path) -> None:
    """Remove a folder unless a process uses it, or it is no folder of a server. Raises OSError if that fails."""
    with _opened(str(path), os.O_DIRECTORY) as folder:
        entries = list(os.scandir(folder))  # of the opened folder, whatever its path means now
        names = {entry.name for entry in entries}
        if not names >= FILES or any(entry.is_dir(follow_symlinks=False) for entry in entries):
            return
        with _opened(PRESENT, dir_fd=folder) as present:
            fcntl.flock(present, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for name in sorted(names, key=FILES.__contains__):  # last the files by which the folder is known
                os.unlink(name, dir_fd=folder)
            path.rmdir()


@contextmanager
def _opened(path: str, flags: int = 0, dir_fd: int | None = None) -> Iterator[int]:
    """Yield the descriptor of a file or a folder of this user.

    Raises:
        OSError: It is a link, it is missing, or it belongs to another user.
    """
    opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | flags, dir_fd=dir_fd)
    try:
        if os.fstat(opened).st_uid != os.geteuid():
            raise PermissionError(path)
        yield opened
    finally:
        os.close(opened)
