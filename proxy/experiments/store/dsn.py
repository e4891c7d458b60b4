"""The data source name (DSN) of a store: which database it names, and how to connect to it.

This module does not depend on tables or queries.
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
    """One connection to a database. Every method raises StoreError. `sqlite` and `postgresql` implement it."""

    def writing(self) -> AbstractContextManager[Self]:
        """Open a transaction that is durable once the block ends."""
        ...

    def reading(self) -> AbstractContextManager[Self]:
        """Open a transaction that reads one consistent state."""
        ...

    def execute(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Run one statement and return the number of rows that it changed."""
        ...

    def execute_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Insert all rows with a statement that inserts one. There must be at least one row."""
        ...

    def rows(self, statement: str, values: Sequence[Any] = ()) -> Iterator[Sequence[Any]]:
        """Yield the rows that a query selects."""
        ...

    def columns(self, table: str) -> set[str]:
        """Return the names of a table's columns."""
        ...

    def lock_schema(self) -> None:
        """Prevent other connections from creating tables until the transaction ends."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


@dataclass(frozen=True, slots=True)
class StoreDsn:
    """A parsed DSN.

    Attributes:
        name: The DSN without its password, to show to people.
        connect: Opens a connection.
        types: Names of the database's types, for the placeholders of the schema.
    """

    name: str
    connect: Callable[[], Session]
    types: Mapping[str, str]


def dsn_of(store: str) -> StoreDsn:
    """Parse the value of --store: sqlite:PATH or a postgresql:// URL.

    Raises:
        StartupError: The value names no database. The message contains no password.
    """
    kind, _, path = store.partition(":")
    if kind == "sqlite" and path:
        file = Path(path).expanduser()
        return StoreDsn(f"sqlite:{file}", partial(sqlite.SqliteSession, file), sqlite.TYPES)
    if kind in {"postgresql", "postgres"} and path.startswith("//"):
        from proxy.experiments.store import postgresql  # imported late: its driver takes 10 MB of memory

        url = urlsplit(store)
        name = f"postgresql://{url.netloc.rpartition('@')[2]}{url.path}"
        return StoreDsn(name, partial(postgresql.PostgresqlSession, store), postgresql.TYPES)
    raise StartupError("--store: expected sqlite:PATH or postgresql://[USER@]HOST[:PORT]/DATABASE.")
