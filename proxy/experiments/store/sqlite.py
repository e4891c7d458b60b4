"""SQLite as a store: one file, in WAL mode, so that several processes write it and readers wait for none of them.

A commit is on the disk when it returns (synchronous = FULL). Knows no table.
"""

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Final

from proxy.core.errors import StoreError, StoreRefusedError

TYPES: Final[Mapping[str, str]] = {"real": "REAL", "bytes": "BLOB"}
_VALUES: Final = 999  # in one statement: what any SQLite takes
_BUSY: Final = 2.0  # seconds that another process may hold the file
_REFUSED: Final = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError, OverflowError)


class SqliteSession:
    """One connection to the file. Raises StoreError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with _said(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, _BUSY, isolation_level=None, check_same_thread=False)
        try:
            with _said(path):
                for pragma in ("journal_mode = WAL", "synchronous = FULL", "wal_autocheckpoint = 1000"):
                    self._connection.execute(f"PRAGMA {pragma}")
                path.chmod(0o600)
                self._opened = _identity(path)
        except StoreError:
            self.close()
            raise

    @contextmanager
    def writing(self) -> Iterator["SqliteSession"]:
        """A transaction that ends in a commit, which is on the disk then, or leaves no trace."""
        with _said(self._path):
            if _identity(self._path) != self._opened:
                raise StoreError(f"--store: {self._path} was replaced while it was written to.")
            yield from self._transaction("BEGIN IMMEDIATE")

    @contextmanager
    def reading(self) -> Iterator["SqliteSession"]:
        """One consistent state."""
        with _said(self._path):
            yield from self._transaction("BEGIN")

    def _transaction(self, begin: str) -> Iterator["SqliteSession"]:
        self._connection.execute(begin)
        try:
            yield self
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def execute(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Run one statement; the number of rows that it changed."""
        return self._connection.execute(statement, values).rowcount

    def execute_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Insert each row, by a statement that does so for one. Many go in one step: between two steps the thread that
        writes and the one that serves would take turns with the interpreter, row by row."""
        places = f"({', '.join('?' * len(rows[0]))})"
        together = _VALUES // len(rows[0])
        for begin in range(0, len(rows), together):
            some = rows[begin : begin + together]
            every = statement.replace(places, ", ".join([places] * len(some)))
            self._connection.execute(every, [*chain.from_iterable(some)])

    def rows(self, statement: str, values: Sequence[Any] = ()) -> Iterator[Sequence[Any]]:
        """What it selects, as it is read."""
        return iter(self._connection.execute(statement, values))

    def lock_schema(self) -> None:
        """Nothing: a writer is alone anyway."""

    def close(self) -> None:
        """End the connection."""
        self._connection.close()


@contextmanager
def _said(path: Path) -> Iterator[None]:
    """SQLite's errors as ours, without a value of any row."""
    try:
        yield
    except _REFUSED as error:
        raise StoreRefusedError(f"--store: {path} does not take a row ({type(error).__name__}).") from error
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"--store: {path} cannot be used: {error}.") from error


def _identity(path: Path) -> tuple[int, int]:
    """Which file it is: one that was removed takes writes that nobody will ever find."""
    found = os.stat(path)  # noqa: PTH116 - no Path is made for it: once in every batch
    return found.st_dev, found.st_ino
