"""Parses the data source name (DSN) of a store, and defines the interface of a connection to a database.

The DSN names the database. This module does not depend on tables or queries.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self
from urllib.parse import urlsplit

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
        connect: Function that opens a connection.
        types: SQL names of types in this database. The keys are the placeholders in `schema` that they replace.
    """

    name: str
    connect: Callable[[], Session]
    types: Mapping[str, str]


def dsn_of(store: str) -> StoreDsn:
    """Parse the value of --store: sqlite:PATH or a postgresql:// URL.

    Raises:
        StartupError: The value is in neither of these forms. The message does not contain a password.
    """
    kind, _, path = store.partition(":")
    if kind == "sqlite" and path:
        file = Path(path).expanduser()
        return StoreDsn(f"sqlite:{file}", partial(sqlite.SqliteSession, file), sqlite.TYPES)
    if kind in {"postgresql", "postgres"} and path.startswith("//"):
        from proxy.experiments.store import postgresql  # imported only if needed: the driver takes 10 MB of memory

        name = _postgresql_name(store)
        return StoreDsn(name, partial(postgresql.PostgresqlSession, store), postgresql.TYPES)
    raise StartupError("--store: expected sqlite:PATH or postgresql://[USER@]HOST[:PORT]/DATABASE.")


def _postgresql_name(store: str) -> str:
    """Return a URL without user and password. An "@" after the host shows that it is part of a password."""
    try:
        url = urlsplit(store)
        is_whole = url.port != 0 and "@" not in url.path + url.fragment + url.query.partition("=")[0]
    except ValueError:
        is_whole = False
    if not is_whole:
        raise StartupError("--store: in user and password, write %2F for /, %3F for ?, %23 for #, and %40 for @.")
    return f"postgresql://{url.netloc.rpartition('@')[2]}{url.path}"
