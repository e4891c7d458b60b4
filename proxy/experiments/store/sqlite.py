"""SQLite connections for the store.

The file is in WAL mode: readers do not wait for writers, and several processes can write in turn. When a commit
returns, its data is on the disk (synchronous = FULL). This module does not depend on tables or queries.
"""

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Final

from index.store_address import QUERY_ONLY, reading_address
from proxy.core.errors import StoreError, StoreRefusedError

TYPES: Final[Mapping[str, str]] = {"real": "REAL", "bytes": "BLOB"}
_MAX_VALUES: Final = 999  # the most values in one statement that every build of SQLite accepts
_LOCK_TIMEOUT: Final = 2.0  # seconds to wait while another process locks the file
_ROW_ERRORS: Final = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError, OverflowError)


class SqliteSession:
    """One connection to an SQLite file, which implements `dsn.Session`."""

    def __init__(self, path: Path, *, only_reads: bool = False) -> None:
        """Connect to the file. With `only_reads`, neither create nor change it; else create it if it is missing."""
        self._path = path
        with _store_errors(path):
            self._connection = _connect_to_read(path) if only_reads else _connect(path)
            self._opened = _identity(path)

    @contextmanager
    def writing(self) -> Iterator["SqliteSession"]:
        """Open a transaction. It is committed durably when the `with` block ends, or rolled back after an exception."""
        with _store_errors(self._path):
            if _identity(self._path) != self._opened:
                raise StoreError(
                    f"--store: {self._path} was replaced by another file while it was in use. Restart the server."
                )
            yield from self._transaction("BEGIN IMMEDIATE")

    @contextmanager
    def reading(self) -> Iterator["SqliteSession"]:
        """Open a transaction in which all queries read the same state of the file."""
        with _store_errors(self._path):
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
        """Run one statement and return the number of rows that it changed."""
        return self._connection.execute(statement, values).rowcount

    def execute_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows. `statement` is an INSERT of a single row, which this method extends to many rows.

        With one statement for each row, the writing thread would release and take Python's interpreter lock for each
        row, and slow down the event loop.
        """
        row_placeholders = f"({', '.join('?' * len(rows[0]))})"
        batch_size = _MAX_VALUES // len(rows[0])
        for begin in range(0, len(rows), batch_size):
            batch = rows[begin : begin + batch_size]
            batch_statement = statement.replace(row_placeholders, ", ".join([row_placeholders] * len(batch)))
            self._connection.execute(batch_statement, [*chain.from_iterable(batch)])

    def rows(self, statement: str, values: Sequence[Any] = ()) -> Iterator[Sequence[Any]]:
        """Yield the rows that a SELECT statement returns."""
        return iter(self._connection.execute(statement, values))

    def columns(self, table: str) -> set[str]:
        """Return the names of a table's columns."""
        return {name for (name,) in self.rows("SELECT name FROM pragma_table_info(?)", (table,))}

    def lock_schema(self) -> None:
        """Do nothing, since an SQLite transaction that writes already excludes all other writers."""

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=_LOCK_TIMEOUT, isolation_level=None, check_same_thread=False)
    try:
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "wal_autocheckpoint = 1000"):
            connection.execute(f"PRAGMA {pragma}")
        path.chmod(0o600)
    except BaseException:
        connection.close()
        raise
    return connection


def _connect_to_read(path: Path) -> sqlite3.Connection:
    """Connect without creating a file."""
    connection = sqlite3.connect(
        reading_address(path), timeout=_LOCK_TIMEOUT, isolation_level=None, check_same_thread=False, uri=True
    )
    connection.execute(QUERY_ONLY)
    return connection


@contextmanager
def _store_errors(path: Path) -> Iterator[None]:
    """Raise errors of SQLite and of the file system as StoreError. The messages contain no values of rows."""
    try:
        yield
    except _ROW_ERRORS as error:
        raise StoreRefusedError(f"--store: {path} rejected a row ({type(error).__name__}).") from error
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"--store: {path} cannot be used: {error}.") from error


def _identity(path: Path) -> tuple[int, int]:
    """Return the device and inode of the file at the path.

    These numbers change if another file takes its place. Writes to the old file would then be lost without an error.
    """
    status = os.stat(path)  # noqa: PTH116 - faster than Path.stat, and called for every batch
    return status.st_dev, status.st_ino
