"""Stores numbers that all workers of a server share: requests in flight, and the unused part of each key's rate limits.

The workers map the same files into memory. A file lock guards the files; if a worker dies, the kernel releases the lock
of this worker. A server with one process keeps the numbers in its own memory, behind the same interface. The module
only stores the numbers: other modules count the requests and apply the rate limits.
"""

import fcntl
import mmap
import shutil
import struct
from array import array
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, Final, Protocol, Self, TypeAlias

NAME_BYTES: Final = 32
CELLS: Final = 4  # floats under one name
_CELL_BYTES: Final = 8  # the size of an integer, and also of a float
_RECORD_BYTES: Final = NAME_BYTES + CELLS * _CELL_BYTES
PRESENT: Final = "present"
FILES: Final = frozenset({"lock", PRESENT, "seats", "accounts"})
"""The files that the folder of the workers has from the beginning."""

Cells: TypeAlias = "memoryview[float]"
RequestCounts: TypeAlias = "memoryview[int]"


class SharedState(Protocol):
    """The interface to the numbers that workers share."""

    @property
    def lock(self) -> AbstractContextManager[object]:
        """A lock that the caller holds from reading a number until the changed number is written."""
        ...

    @property
    def worker(self) -> int:
        """The number of this worker, from 0."""
        ...

    @property
    def folder(self) -> Path | None:
        """The folder of the files that all workers share; None if the server has one process."""
        ...

    @property
    def in_flight(self) -> RequestCounts:
        """The number of requests in flight in each worker. A worker writes only its own entry."""
        ...

    def cells(self, name: bytes, initial: Sequence[float]) -> Cells:
        """Return a view of the CELLS floats that are stored under a name. If the name is new, store `initial` first.

        Args:
            name: A name of exactly NAME_BYTES bytes.
            initial: The CELLS floats for a new name.
        """
        ...


class LocalState:
    """The numbers of a server with one process; implements SharedState."""

    def __init__(self) -> None:
        self.lock: AbstractContextManager[object] = nullcontext()
        self.worker = 0
        self.folder: Path | None = None
        self.in_flight: RequestCounts = memoryview(array("q", [0]))
        self._cells: dict[bytes, Cells] = {}

    def cells(self, name: bytes, initial: Sequence[float]) -> Cells:
        """Return a view of the floats that are stored under a name, as in SharedState."""
        return self._cells.setdefault(name, memoryview(array("d", initial)))


class MappedState:
    """The numbers of a server with several workers, in memory-mapped files; implements SharedState.

    The folder contains these files:

        lock: Each worker locks this file while it changes a number.
        present: The server and each running worker hold a shared lock on this file, which shows that they use the
            folder.
        kind-*: The decisions of proxy/backends/kinds, which one worker makes for all workers; one file per model.
        seats: The number of requests in flight in each worker; one integer per worker.
        accounts: The named floats that `cells` returns; one record of NAME_BYTES and CELLS floats per name.
    """

    def __init__(self, folder: Path, worker: int) -> None:
        """Map the shared files into memory.

        Args:
            folder: The folder that only the workers of this server use. `prepare` has created its files.
            worker: The number of this worker.

        Raises:
            FileNotFoundError: The folder was removed, because the server and the other workers have ended.
        """
        self.folder = folder
        self.worker = worker
        self._lock = (folder / "lock").open("rb")
        self._present = (folder / PRESENT).open("rb")
        self._accounts = folder / "accounts"
        self.in_flight: RequestCounts = _map(folder / "seats").cast("q")
        fcntl.flock(self._present, fcntl.LOCK_SH)
        (folder / PRESENT).stat()  # raises if another worker removed the folder before this worker had its lock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.close()
        self._present.close()

    def remove_if_last(self) -> None:
        """Remove the folder if no other worker uses it.

        A worker calls this method at its end, after the parent process (supervisor) has ended.
        """
        # Each running worker holds a shared lock on `present`. flock replaces a shared lock by an exclusive lock in two
        # steps: it releases the shared lock, and then it requests the exclusive lock. If another worker still holds a
        # shared lock, the second step fails. This worker then has no lock any more, and leaves the folder to the other
        # worker. The last worker gets the exclusive lock and removes the folder.
        with suppress(BlockingIOError):
            fcntl.flock(self._present, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(self.folder, ignore_errors=True)

    @staticmethod
    def prepare(folder: Path, workers: int) -> IO[bytes]:
        """Create the files of a folder. Call this before the first worker starts.

        Returns:
            The open file `present`. The folder is in use while this file is open, or while a worker runs.
        """
        (folder / "lock").touch()
        (folder / "accounts").touch()
        (folder / "seats").write_bytes(bytes(workers * _CELL_BYTES))
        unlocked = folder / "unlocked"
        present = unlocked.open("wb")
        fcntl.flock(present, fcntl.LOCK_SH)
        unlocked.rename(folder / PRESENT)  # the file gets its name only now: without a lock, the folder is abandoned
        return present

    @property
    def lock(self) -> AbstractContextManager[object]:
        """A lock between the workers. If the worker that holds the lock dies, the kernel releases it."""
        return self._locked()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def cells(self, name: bytes, initial: Sequence[float]) -> Cells:
        """Return a view of the floats that are stored under a name, as in SharedState.

        A new name adds a record of 64 bytes to the file `accounts`. Records are never removed.
        """
        with self._locked():
            records = self._accounts.read_bytes()
            starts = range(0, len(records), _RECORD_BYTES)
            start = next((n for n in starts if records[n : n + NAME_BYTES] == name), len(records))
            if start == len(records):
                with self._accounts.open("ab") as file:
                    file.write(name + struct.pack(f"{CELLS}d", *initial))
        return _map(self._accounts)[start + NAME_BYTES : start + _RECORD_BYTES].cast("d")


def clear_in_flight(folder: Path, worker: int) -> None:
    """Set the number of requests in flight of a worker to zero, after the worker has died."""
    _map(folder / "seats").cast("q")[worker] = 0


def _map(file: Path) -> memoryview:
    with file.open("r+b") as opened:
        return memoryview(mmap.mmap(opened.fileno(), 0))
