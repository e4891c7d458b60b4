"""PostgreSQL connections for the store, for several replicas.

The driver is psycopg, from the extra `postgresql`. This module does not depend on tables or queries. The password comes
from the variable DRPO_STORE, from PGPASSWORD or from the password file of libpq. No flag accepts a password.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, cast

from proxy.core.errors import StartupError, StoreError, StoreRefusedError

try:
    import psycopg
except ImportError:  # PostgresqlSession raises StartupError
    psycopg = cast("Any", None)

TYPES: Final[Mapping[str, str]] = {"real": "DOUBLE PRECISION", "bytes": "BYTEA"}
_CONNECT_TIMEOUT: Final = 5  # seconds
_STATEMENT_TIMEOUT: Final = 10_000  # milliseconds, for statements that write
_ACKNOWLEDGE_TIMEOUT: Final = 10_000  # milliseconds until sent data must be acknowledged by the server
_SCHEMA_LOCK: Final = 7_277_711  # an arbitrary number that all processes share
_FETCH_SIZE: Final = 2_000  # rows


class PostgresqlSession:
    """One connection. Implements `dsn.Session`. Raises StartupError if the driver is missing, else StoreError."""

    def __init__(self, url: str) -> None:
        if psycopg is None:
            raise StartupError("--store postgresql: needs a driver: pip install 'drpo-proxy[postgresql]'.")
        with _store_errors():
            self._connection = psycopg.connect(
                url,
                autocommit=True,
                connect_timeout=_CONNECT_TIMEOUT,
                application_name="drpo-proxy",
                options=f"-c statement_timeout={_STATEMENT_TIMEOUT} -c lock_timeout={_STATEMENT_TIMEOUT}",
                keepalives_idle=10,
                tcp_user_timeout=_ACKNOWLEDGE_TIMEOUT,
            )

    @contextmanager
    def writing(self) -> Iterator["PostgresqlSession"]:
        """Open a transaction. It is committed to the server's disk when the block ends, or rolled back."""
        with _store_errors(), self._connection.transaction():
            yield self

    @contextmanager
    def reading(self) -> Iterator["PostgresqlSession"]:
        """Open a transaction that reads one consistent state, without a time limit."""
        with _store_errors(), self._connection.transaction():
            self._connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            self._connection.execute("SET LOCAL statement_timeout = 0")
            yield self

    def execute(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Run one statement and return the number of rows that it changed."""
        return self._connection.execute(_psycopg_statement(statement), values).rowcount

    def execute_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run the statement for each row, in one round trip."""
        with self._connection.cursor() as cursor:
            cursor.executemany(_psycopg_statement(statement), rows)

    def rows(self, statement: str, values: Sequence[Any] = ()) -> Iterator[Sequence[Any]]:
        """Yield the rows that a query selects, fetched in batches."""
        with self._connection.cursor(name=f"rows_{abs(hash(statement))}") as cursor:
            cursor.itersize = _FETCH_SIZE
            cursor.execute(_psycopg_statement(statement), values)
            yield from cursor

    def columns(self, table: str) -> set[str]:
        """Return the names of a table's columns."""
        query = "SELECT column_name FROM information_schema.columns WHERE table_schema = current_schema()"
        return {name for (name,) in self.rows(f"{query} AND table_name = ?", (table,))}

    def lock_schema(self) -> None:
        """Wait until no other process creates tables. Concurrent creation fails even with IF NOT EXISTS."""
        self._connection.execute("SELECT pg_advisory_xact_lock(%s)", (_SCHEMA_LOCK,))

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _psycopg_statement(statement: str) -> bytes:
    return statement.replace("?", "%s").encode()


@contextmanager
def _store_errors() -> Iterator[None]:
    """Raise PostgreSQL's errors as StoreError, without its message where that may contain values of rows."""
    try:
        yield
    except (psycopg.DataError, psycopg.IntegrityError) as error:
        raise StoreRefusedError(f"--store: PostgreSQL does not take a row ({type(error).__name__}).") from error
    except psycopg.Error as error:
        raise StoreError(f"--store: PostgreSQL cannot be used: {_server_message(error)}.") from error


def _server_message(error: "psycopg.Error") -> str:
    """Return the message of the server or of the connection. Other messages may repeat the password of the URL."""
    if error.diag.message_primary:
        return error.diag.message_primary
    return str(error).splitlines()[0] if isinstance(error, psycopg.OperationalError) else type(error).__name__
