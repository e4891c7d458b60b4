"""Numbers that all workers of a server share: requests in flight, and the remaining rate limit of each key.

Workers map the same files into memory. The file lock that guards them is released by the kernel if a worker dies. A
server with one process keeps the numbers in its own memory behind the same interface. The module does not depend on
requests or on what the numbers mean.
"""

import fcntl
import mmap
import shutil
import struct
from array import array
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Final, Protocol, Self, TypeAlias

NAME_BYTES: Final = 32
CELLS: Final = 4
_CELL_BYTES: Final = 8  # for an integer and for a float
_RECORD_BYTES: Final = NAME_BYTES + CELLS * _CELL_BYTES

Cells: TypeAlias = "memoryview[float]"
RequestCounts: TypeAlias = "memoryview[int]"


class SharedState(Protocol):
    """The numbers that workers share."""

    @property
    def lock(self) -> AbstractContextManager[object]:
        """A lock to hold while numbers are read and then written."""
        ...

    @property
    def worker(self) -> int:
        """The number of this worker, from 0."""
        ...

    @property
    def in_flight(self) -> RequestCounts:
        """The requests in flight by worker. Each worker writes its own entry."""
        ...

    def cells(self, name: bytes, initial: Sequence[float]) -> Cells:
        """Return the CELLS floats stored under a name of NAME_BYTES bytes; store `initial` if the name is new."""
        ...


class LocalState:
    """The numbers of a server with one process; implements SharedState."""

    def __init__(self) -> None:
        self.lock: AbstractContextManager[object] = nullcontext()
        self.worker = 0
        self.in_flight: RequestCounts = memoryview(array("q", [0]))
        self._cells: dict[bytes, Cells] = {}

    def cells(self, name: bytes, initial: Sequence[float]) -> Cells:
        """See SharedState."""
        return self._cells.setdefault(name, memoryview(array("d", initial)))


class MappedState:
    """The numbers of one of several workers, in memory-mapped files; implements SharedState."""

    def __init__(self, folder: Path, worker: int) -> None:
        """Map the files.

        Args:
            folder: The folder of these workers alone, made with `prepare`.
            worker: The number of this worker.

        Raises:
            FileNotFoundError: The folder was removed, because the server and the other workers have ended.
        """
        self.folder = folder
        self.worker = worker
        self._lock = (folder / "lock").open("rb")
        self._present = (folder / "present").open("rb")
        self._accounts = folder / "accounts"
        self.in_flight: RequestCounts = _map(folder / "seats").cast("q")
        fcntl.flock(self._present, fcntl.LOCK_SH)
        (folder / "present").stat()  # raises if the last worker removed the folder while this one waited for the lock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.close()
        self._present.close()

    def remove_if_last(self) -> None:
        """Remove the folder if no other worker uses it. Workers do this if their server has ended without doing it."""
        with suppress(BlockingIOError):  # another worker is present and will remove it: a failed attempt drops the lock
            fcntl.flock(self._present, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(self.folder, ignore_errors=True)

    @staticmethod
    def prepare(folder: Path, workers: int) -> None:
        """Create the files before the first worker starts."""
        (folder / "lock").touch()
        (folder / "present").touch()
        (folder / "accounts").touch()
        (folder / "seats").write_bytes(bytes(workers * _CELL_BYTES))

    @property
    def lock(self) -> AbstractContextManager[object]:
        """A lock that the kernel releases if its holder dies."""
        return self._locked()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def cells(self, name: bytes, initial: Sequence[float]) -> Cells:
        """See SharedState. A name takes 64 bytes at the end of the file and is never removed."""
        with self._locked():
            records = self._accounts.read_bytes()
            starts = range(0, len(records), _RECORD_BYTES)
            start = next((n for n in starts if records[n : n + NAME_BYTES] == name), len(records))
            if start == len(records):
                with self._accounts.open("ab") as file:
                    file.write(name + struct.pack(f"{CELLS}d", *initial))
        return _map(self._accounts)[start + NAME_BYTES : start + _RECORD_BYTES].cast("d")


def clear_in_flight(folder: Path, worker: int) -> None:
    """Reset the requests in flight of a worker that died."""
    _map(folder / "seats").cast("q")[worker] = 0


def _map(file: Path) -> memoryview:
    with file.open("r+b") as opened:
        return memoryview(mmap.mmap(opened.fileno(), 0))
