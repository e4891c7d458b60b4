"""Parses the data source name (DSN) of a store, and defines the interface of a connection to a database.

The DSN names the database. This module does not depend on tables or queries.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, Self

from index.errors import UsageError
from index.store_address import parse_store_address
from proxy.core.errors import StartupError
from proxy.experiments.store import sqlite


class Session(Protocol):
    """One connection to a database. `sqlite` and `postgresql` implement this protocol.

    A database error inside a `writing` or `reading` block is raised as StoreError.
    """

    def writing(self) -> AbstractContextManager[Self]:
        """Open a transaction. It is committed durably when the `with` block ends, or rolled back after an exception."""
        ...

    def reading(self) -> AbstractContextManager[Self]:
        """Open a transaction in which all queries read the same state of the database."""
        ...

    def execute(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Run one statement and return the number of rows that it changed."""
        ...

    def execute_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows. `statement` is an INSERT of a single row, and `rows` must contain at least one row."""
        ...

    def rows(self, statement: str, values: Sequence[Any] = ()) -> Iterator[Sequence[Any]]:
        """Yield the rows that a SELECT statement returns."""
        ...

    def columns(self, table: str) -> set[str]:
        """Return the names of a table's columns."""
        ...

    def lock_schema(self) -> None:
        """Prevent other connections from creating the store's tables until the current transaction ends."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


@dataclass(frozen=True, slots=True)
class StoreDsn:
    """A parsed DSN.

    Attributes:
        name: The DSN without user and password, for messages.
        connect: Function that opens a connection. It creates a missing SQLite file.
        connect_to_read: Function that opens a connection on which only `reading` is allowed. It creates no file.
        types: SQL names of types in this database. The keys are the placeholders in `schema` that these names replace.
    """

    name: str
    connect: Callable[[], Session]
    connect_to_read: Callable[[], Session]
    types: Mapping[str, str]


def dsn_of(store: str) -> StoreDsn:
    """Parse the value of --store: sqlite:PATH or a postgresql:// URL.

    Raises:
        StartupError: The value is in neither of these forms. The message does not contain a password.
    """
    try:
        address = parse_store_address(store)
    except UsageError as error:
        raise StartupError(f"{error}.") from None
    if address.path is not None:
        connect_to_read = partial(sqlite.SqliteSession, address.path, only_reads=True)
        return StoreDsn(address.name, partial(sqlite.SqliteSession, address.path), connect_to_read, sqlite.TYPES)
    from proxy.experiments.store import postgresql  # imported only if needed: the driver takes 10 MB of memory

    connect = partial(postgresql.PostgresqlSession, address.url)
    return StoreDsn(address.name, connect, connect, postgresql.TYPES)
