"""Connections that read the store of drpo-proxy: an SQLite file, or a PostgreSQL database. They write nothing."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, Protocol, cast

from index.errors import UsageError
from index.store_address import QUERY_ONLY, StoreAddress, parse_store_address, reading_address
from optimizer.core.errors import DataError

try:
    import psycopg
except ImportError:  # `_postgresql` reports the missing driver
    psycopg = cast("Any", None)

_LOCK_TIMEOUT: Final = 10.0  # seconds
_CONNECT_TIMEOUT: Final = 5  # seconds
_FETCH_SIZE: Final = 2_000  # rows


class ReadSession(Protocol):
    """A connection on which all queries read the same state of the store."""

    def rows(self, statement: str, values: Sequence[Any] = ()) -> Iterator[Sequence[Any]]:
        """Yield the rows of a SELECT statement one by one. A `?` in the statement stands for a value."""
        ...

    def columns(self, table: str) -> set[str]:
        """Return the names of a table's columns; an empty set if there is no such table."""
        ...


def store_address(text: str) -> StoreAddress:
    """Parse the value of --store. Raises DataError for a text that is no address of a store."""
    try:
        return parse_store_address(text)
    except UsageError as error:
        raise DataError(str(error)) from None


@contextmanager
def read_session(place: StoreAddress) -> Iterator[ReadSession]:
    """Connect to a store and begin to read one state of it.

    Raises:
        DataError: The store cannot be read. The message contains no row and no password.
    """
    with _sqlite(place.path, place.name) if place.path else _postgresql(place) as session:
        yield session


class _SqliteSession:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def rows(self, statement: str, values: Sequence[Any] = ()) -> Iterator[Sequence[Any]]:
        return iter(self._connection.execute(statement, values))

    def columns(self, table: str) -> set[str]:
        return {name for (name,) in self.rows("SELECT name FROM pragma_table_info(?)", (table,))}


@contextmanager
def _sqlite(path: Path, name: str) -> Iterator[ReadSession]:
    if not path.is_file():
        raise DataError(f"--store: {name}: this file does not exist. Give the value of --store of drpo-proxy.")
    try:
        address = reading_address(path)
        with closing(sqlite3.connect(address, _LOCK_TIMEOUT, isolation_level=None, uri=True)) as connection:
            connection.execute(QUERY_ONLY)
            connection.text_factory = _text
            connection.execute("BEGIN")
            yield _SqliteSession(connection)
    except sqlite3.Error as error:
        raise DataError(f"--store: {name} cannot be read: {error}") from None


def _text(data: bytes) -> str:
    """Decode a text that need not be UTF-8. SQLite's own error for such a text would contain the text."""
    return data.decode("utf-8", "replace")


class _PostgresqlSession:
    def __init__(self, connection: "psycopg.Connection[Any]") -> None:
        self._connection = connection

    def rows(self, statement: str, values: Sequence[Any] = ()) -> Iterator[Sequence[Any]]:
        with self._connection.cursor(name=f"rows_{abs(hash(statement))}") as cursor:
            cursor.itersize = _FETCH_SIZE
            cursor.execute(statement.replace("?", "%s").encode(), values)
            yield from cursor

    def columns(self, table: str) -> set[str]:
        query = "SELECT column_name FROM information_schema.columns WHERE table_schema = current_schema()"
        return {name for (name,) in self.rows(f"{query} AND table_name = ?", (table,))}


@contextmanager
def _postgresql(place: StoreAddress) -> Iterator[ReadSession]:
    if psycopg is None:
        raise DataError("--store: PostgreSQL needs a driver. Run: pip install 'drpo-proxy[postgresql]'")
    try:
        name = "drpo-optimizer"
        with closing(
            psycopg.connect(place.url, autocommit=True, connect_timeout=_CONNECT_TIMEOUT, application_name=name)
        ) as connection:
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield _PostgresqlSession(connection)
    except psycopg.Error as error:
        raise DataError(f"--store: {place.name} cannot be read: {_reason(error)}") from None


def _reason(error: "psycopg.Error") -> str:
    """Return the server's message, or the first line of a connection error. Neither contains a row or a password."""
    if error.diag.message_primary:
        return error.diag.message_primary
    return str(error).splitlines()[0] if isinstance(error, psycopg.OperationalError) else type(error).__name__
