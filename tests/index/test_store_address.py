"""Tests of the address with which a store in SQLite is opened to be read."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from index.store_address import QUERY_ONLY, reading_address


def test_file_of_any_name_is_read_and_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a ?mode=rwc#%20é.sqlite3"
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("CREATE TABLE one (value)")
        writer.execute("INSERT INTO one VALUES (1)")
        writer.commit()
    with closing(sqlite3.connect(reading_address(path), uri=True)) as reader:
        reader.execute(QUERY_ONLY)
        assert reader.execute("SELECT value FROM one").fetchall() == [(1,)]
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader.execute("INSERT INTO one VALUES (2)")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_missing_file_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError):
        sqlite3.connect(reading_address(tmp_path / "none.sqlite3"), uri=True)
    assert not list(tmp_path.iterdir())
