"""PostgreSQL connections for the store. Several replicas can share a PostgreSQL store.

The driver is psycopg, from the extra `postgresql`. This module does not depend on tables or queries. The password comes
from the environment variable DRPO_STORE or PGPASSWORD, or from the password file of libpq, the client library
of PostgreSQL. No command-line flag accepts a password.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, cast

from proxy.core.errors import StartupError, StoreError, StoreRefusedError

try:
    import psycopg
except ImportError:  # the constructor of PostgresqlSession reports the missing driver
    psycopg = cast("Any", None)

TYPES: Final[Mapping[str, str]] = {"real": "DOUBLE PRECISION", "bytes": "BYTEA"}
_CONNECT_TIMEOUT: Final = 5  # seconds
_STATEMENT_TIMEOUT: Final = 10_000  # milliseconds, for statements that write
_ACKNOWLEDGE_TIMEOUT: Final = 10_000  # milliseconds until sent data must be acknowledged by the server
_SCHEMA_LOCK: Final = 7_277_711  # an arbitrary number for an advisory lock; all processes must use the same number
_FETCH_SIZE: Final = 2_000  # rows


class PostgresqlSession:
    """One connection to a PostgreSQL database, which implements `dsn.Session`.

    The constructor raises StartupError if the driver is not installed, and StoreError if it cannot connect.
    """

    def __init__(self, url: str) -> None:
        if psycopg is None:
            raise StartupError("--store: PostgreSQL needs a driver. Run: pip install 'drpo-proxy[postgresql]'")
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
        """Open a transaction. It is committed durably when the `with` block ends, or rolled back after an exception."""
        with _store_errors(), self._connection.transaction():
            yield self

    @contextmanager
    def reading(self) -> Iterator["PostgresqlSession"]:
        """Open a transaction in which all queries read the same state. The queries have no time limit."""
        with _store_errors(), self._connection.transaction():
            self._connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            self._connection.execute("SET LOCAL statement_timeout = 0")
            yield self

    def execute(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Run one statement and return the number of rows that it changed."""
        return self._connection.execute(_psycopg_statement(statement), values).rowcount

    def execute_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run `statement`, an INSERT of a single row, once for each row. The driver sends all inserts in a pipeline."""
        with self._connection.cursor() as cursor:
            cursor.executemany(_psycopg_statement(statement), rows)

    def rows(self, statement: str, values: Sequence[Any] = ()) -> Iterator[Sequence[Any]]:
        """Yield the rows that a SELECT statement returns. They are fetched in batches through a server-side cursor."""
        with self._connection.cursor(name=f"rows_{abs(hash(statement))}") as cursor:
            cursor.itersize = _FETCH_SIZE
            cursor.execute(_psycopg_statement(statement), values)
            yield from cursor

    def columns(self, table: str) -> set[str]:
        """Return the names of a table's columns."""
        query = "SELECT column_name FROM information_schema.columns WHERE table_schema = current_schema()"
        return {name for (name,) in self.rows(f"{query} AND table_name = ?", (table,))}

    def lock_schema(self) -> None:
        """Take a lock that only one process can hold while it creates the store's tables.

        The lock is released at the end of the transaction. Without the lock, two processes could create the same table
        at the same time. One of them would then fail, even with IF NOT EXISTS.
        """
        self._connection.execute("SELECT pg_advisory_xact_lock(%s)", (_SCHEMA_LOCK,))

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _psycopg_statement(statement: str) -> bytes:
    return statement.replace("?", "%s").encode()


@contextmanager
def _store_errors() -> Iterator[None]:
    """Convert errors of psycopg to StoreError, and errors about a row to StoreRefusedError.

    The message of psycopg about a row is left out, since it may contain values of the row.
    """
    try:
        yield
    except (psycopg.DataError, psycopg.IntegrityError) as error:
        raise StoreRefusedError(f"--store: PostgreSQL rejected a row ({type(error).__name__}).") from error
    except psycopg.Error as error:
        raise StoreError(f"--store: PostgreSQL cannot be used: {_server_message(error)}.") from error


def _server_message(error: "psycopg.Error") -> str:
    """Return the message of the server, or the first line of the message of a failed connection.

    For any other error, return only the name of its type, since its message may contain the password of the URL.
    """
    if error.diag.message_primary:
        return error.diag.message_primary
    return str(error).splitlines()[0] if isinstance(error, psycopg.OperationalError) else type(error).__name__
