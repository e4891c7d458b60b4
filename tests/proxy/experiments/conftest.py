"""Defines fixtures: the DSN of an empty SQLite store, and that of an empty PostgreSQL store."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.experiments.store.dsn import StoreDsn, dsn_of
from tests.ports import free_port
from tests.proxy.experiments.postgresql import PostgresqlServer, postgresql_server


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    """A PostgreSQL server, for slow tests only."""
    with postgresql_server(free_port(), print) as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def dsn(request: pytest.FixtureRequest, tmp_path: Path) -> StoreDsn:
    """The DSN of a store that does not exist yet."""
    if request.param == "sqlite":
        return dsn_of(f"sqlite:{tmp_path}/store.sqlite3")
    return dsn_of(request.getfixturevalue("postgresql").database(f"d{secrets.token_hex(6)}"))
