"""Numbers on which all workers of a server agree: requests in flight, and what each key may still use.

They lie in files that every worker maps into its memory, with a lock that the kernel takes from a holder that dies.
A server of one process keeps them to itself, behind the same two methods. Knows no request and no key.
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
_CELL: Final = 8  # bytes, of an integer as of a float
_RECORD: Final = NAME_BYTES + CELLS * _CELL

Cells: TypeAlias = "memoryview[float]"
Seats: TypeAlias = "memoryview[int]"


class SharedState(Protocol):
    """What workers share. `worker` is this one's number; `lock` guards what is read to be written."""

    @property
    def lock(self) -> AbstractContextManager[object]:
        """To hold for as long as a few numbers take."""
        ...

    @property
    def worker(self) -> int:
        """This process among the workers, from 0."""
        ...

    @property
    def seats(self) -> Seats:
        """Requests in flight, by worker; each writes its own."""
        ...

    def cells(self, name: bytes, initial: Sequence[float]) -> Cells:
        """The four floats kept under a name of 32 bytes; `initial` where the name is new."""
        ...


class Alone:
    """The numbers of a server of one process."""

    def __init__(self) -> None:
        self.lock: AbstractContextManager[object] = nullcontext()
        self.worker = 0
        self.seats: Seats = memoryview(array("q", [0]))
        self._cells: dict[bytes, Cells] = {}

    def cells(self, name: bytes, initial: Sequence[float]) -> Cells:
        """See SharedState."""
        return self._cells.setdefault(name, memoryview(array("d", initial)))


class Mapped:
    """The numbers of one of several workers. folder: theirs alone, made with `prepare`. Use as `with`.

    Raises FileNotFoundError where the folder is gone, as it is with its server and the last of the other workers.
    """

    def __init__(self, folder: Path, worker: int) -> None:
        self.folder = folder
        self.worker = worker
        self._lock = (folder / "lock").open("rb")
        self._present = (folder / "present").open("rb")
        self._accounts = folder / "accounts"
        self.seats: Seats = _map(folder / "seats").cast("q")
        fcntl.flock(self._present, fcntl.LOCK_SH)
        (folder / "present").stat()  # whoever was waited for may have been the last, and removed it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.close()
        self._present.close()

    def remove_if_last(self) -> None:
        """Remove the folder if no other worker uses it: for workers whose server, which would have done it, is gone."""
        with suppress(BlockingIOError):  # whoever fails here has given up its own share: the last one does not fail
            fcntl.flock(self._present, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(self.folder, ignore_errors=True)

    @staticmethod
    def prepare(folder: Path, workers: int) -> None:
        """Make the files, before any worker starts."""
        (folder / "lock").touch()
        (folder / "present").touch()
        (folder / "accounts").touch()
        (folder / "seats").write_bytes(bytes(workers * _CELL))

    @property
    def lock(self) -> AbstractContextManager[object]:
        """The kernel gives it up for a process that ends."""
        return self._locked()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def cells(self, name: bytes, initial: Sequence[float]) -> Cells:
        """See SharedState. Names are added at the file's end and never removed: 64 bytes each, for as long as the
        server
        runs."""
        with self._locked():
            known = self._accounts.read_bytes()
            at = next((n for n in range(0, len(known), _RECORD) if known[n : n + NAME_BYTES] == name), len(known))
            if at == len(known):
                with self._accounts.open("ab") as file:
                    file.write(name + struct.pack(f"{CELLS}d", *initial))
        return _map(self._accounts)[at + NAME_BYTES : at + _RECORD].cast("d")


def clear_seats(folder: Path, worker: int) -> None:
    """Give back the seats of a worker that died."""
    _map(folder / "seats").cast("q")[worker] = 0


def _map(file: Path) -> memoryview:
    with file.open("r+b") as opened:
        return memoryview(mmap.mmap(opened.fileno(), 0))
