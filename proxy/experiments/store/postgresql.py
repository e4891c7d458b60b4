"""PostgreSQL as a store, for several replicas; by psycopg, which is the extra `postgresql`. Knows no table.

A password comes with the variable DRPO_STORE, with PGPASSWORD, or from the password file of libpq, never with a flag.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, cast

from proxy.core.errors import StartupError, StoreError, StoreRefusedError

try:
    import psycopg
except ImportError:  # said where one is asked for
    psycopg = cast("Any", None)

TYPES: Final[Mapping[str, str]] = {"real": "DOUBLE PRECISION", "bytes": "BYTEA"}
_CONNECT_WITHIN: Final = 5  # seconds
_STATEMENT_WITHIN: Final = 10_000  # milliseconds, for what writes
_PEER_WITHIN: Final = 10_000  # milliseconds that a server may not acknowledge what was sent to it
_SCHEMA_LOCK: Final = 7_277_711  # any number, the same for all who create the tables
_READ_AT_ONCE: Final = 2_000  # rows


class PostgresqlSession:
    """One connection. Raises StoreError; StartupError where the driver is missing."""

    def __init__(self, url: str) -> None:
        if psycopg is None:
            raise StartupError("--store postgresql: needs a driver: pip install 'drpo-proxy[postgresql]'.")
        with _said():
            self._connection = psycopg.connect(
                url,
                autocommit=True,
                connect_timeout=_CONNECT_WITHIN,
                application_name="drpo-proxy",
                options=f"-c statement_timeout={_STATEMENT_WITHIN} -c lock_timeout={_STATEMENT_WITHIN}",
                keepalives_idle=10,
                tcp_user_timeout=_PEER_WITHIN,
            )

    @contextmanager
    def writing(self) -> Iterator["PostgresqlSession"]:
        """A transaction that ends in a commit, which is on the server's disk then, or leaves no trace."""
        with _said(), self._connection.transaction():
            yield self

    @contextmanager
    def reading(self) -> Iterator["PostgresqlSession"]:
        """One consistent state, however long it takes to read."""
        with _said(), self._connection.transaction():
            self._connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            self._connection.execute("SET LOCAL statement_timeout = 0")
            yield self

    def execute(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Run one statement; the number of rows that it changed."""
        return self._connection.execute(_translated(statement), values).rowcount

    def execute_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run it for each row, in one round trip."""
        with self._connection.cursor() as cursor:
            cursor.executemany(_translated(statement), rows)

    def rows(self, statement: str, values: Sequence[Any] = ()) -> Iterator[Sequence[Any]]:
        """What it selects, as it is read."""
        with self._connection.cursor(name=f"rows_{abs(hash(statement))}") as cursor:
            cursor.itersize = _READ_AT_ONCE
            cursor.execute(_translated(statement), values)
            yield from cursor

    def lock_schema(self) -> None:
        """Wait until nobody else creates tables: two at once fail, IF NOT EXISTS or not."""
        self._connection.execute("SELECT pg_advisory_xact_lock(%s)", (_SCHEMA_LOCK,))

    def close(self) -> None:
        """End the connection."""
        self._connection.close()


def _translated(statement: str) -> bytes:
    return statement.replace("?", "%s").encode()


@contextmanager
def _said() -> Iterator[None]:
    """PostgreSQL's errors as ours, without a value of any row: its own words may have one."""
    try:
        yield
    except (psycopg.DataError, psycopg.IntegrityError) as error:
        raise StoreRefusedError(f"--store: PostgreSQL does not take a row ({type(error).__name__}).") from error
    except psycopg.Error as error:
        raise StoreError(f"--store: PostgreSQL cannot be used: {_words(error)}.") from error


def _words(error: "psycopg.Error") -> str:
    """What the server says, or libpq of a connection; what it says of a URL may repeat the password in it."""
    if error.diag.message_primary:
        return error.diag.message_primary
    return str(error).splitlines()[0] if isinstance(error, psycopg.OperationalError) else type(error).__name__
