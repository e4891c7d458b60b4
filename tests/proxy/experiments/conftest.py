"""Fixtures: a store of either kind, empty."""

import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.experiments.store.store import Place, place_of
from tests.proxy.experiments.postgresql import PostgresqlServer, postgresql_server


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    """A real server, for slow tests alone."""
    with postgresql_server(free_port(), print) as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Where nothing is kept yet."""
    if request.param == "sqlite":
        return place_of(f"sqlite:{tmp_path}/store.sqlite3")
    return place_of(request.getfixturevalue("postgresql").database(f"d{secrets.token_hex(6)}"))
