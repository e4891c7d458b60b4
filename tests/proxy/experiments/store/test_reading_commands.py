"""Tests that commands which only read neither create nor change a file, and that no command but the server does so."""

import asyncio
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from optimizer.__main__ import main
from proxy.__main__ import run
from proxy.experiments.store.dsn import dsn_of
from proxy.experiments.store.store import Batch, Store
from tests.faults.scripted import scripted_backend
from tests.proxy.backends.kinds.test_kinds_served import ENDS, always
from tests.proxy.experiments.store.test_store import exposure

FILE = """
name = "e"
metrics = ["thumbs_up"]
[[arms]]
name = "raw"
variant = "raw-matched"
weight = 50
[[arms]]
name = "new"
weight = 50
"""
READING = (
    ["experiment", "check", "FILE"],
    ["experiment", "report", "FILE"],
    ["experiment", "report", "FILE", "--json"],
    ["experiment", "export", "e"],
)
CHANGING = (["experiment", "stop", "e"], ["experiment", "release", "e"], ["experiment", "delete-unit", "u"])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def arguments(given: Sequence[str], folder: Path, store: Path) -> list[str]:
    file = folder / "e.toml"
    file.write_text(FILE, encoding="utf-8")
    return [str(file) if one == "FILE" else one for one in given] + ["--store", f"sqlite:{store}"]


def makes_store(path: Path) -> None:
    with Store(dsn_of(f"sqlite:{path}")) as store:
        store.write(Batch([exposure(1)]))


def makes_other_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE other (x)")


@pytest.mark.parametrize("given", READING)
def test_reading_commands_leave_a_store_as_it_is(given: Sequence[str], tmp_path: Path) -> None:
    command = arguments(given, tmp_path, tmp_path / "s.sqlite3")
    makes_store(tmp_path / "s.sqlite3")
    before = contents(tmp_path)
    assert run(command) == 0
    assert contents(tmp_path) == before


@pytest.mark.parametrize("given", [*READING[1:], *CHANGING])
@pytest.mark.parametrize("exists", [False, True])
def test_no_command_makes_a_store_of_a_place_that_holds_none(
    given: Sequence[str], exists: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = arguments(given, tmp_path, tmp_path / "new" / "s.sqlite3")
    if exists:
        (tmp_path / "new").mkdir()
        makes_other_database(tmp_path / "new" / "s.sqlite3")
    before = contents(tmp_path)
    assert run(command) == 1
    assert contents(tmp_path) == before
    said = "this place has no tables of a store" if exists else "this file does not exist"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("exists", "says"), [(False, "does not exist yet: the server creates it"), (True, "has no tables yet")]
)
def test_check_says_that_there_is_no_store_yet(
    exists: bool, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = arguments(READING[0], tmp_path, tmp_path / "s.sqlite3")
    if exists:
        makes_other_database(tmp_path / "s.sqlite3")
    before = contents(tmp_path)
    assert run(command) == 0
    assert contents(tmp_path) == before
    assert says in capsys.readouterr().out


def test_check_reports_a_place_where_no_store_can_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert run(arguments(READING[0], tmp_path, tmp_path / "file" / "s.sqlite3")) == 1
    assert "cannot be" in capsys.readouterr().err


def test_check_of_a_server_refuses_a_wrong_address(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "--backend", "http://127.0.0.1:9", "--store", "nowhere"]) == 1
    assert "expected sqlite:PATH" in " ".join(capsys.readouterr().err.split())


async def test_check_of_a_server_opens_no_store(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path}/s.sqlite3"
    async with scripted_backend(always(ENDS)) as backend:
        arguments = ["check", "--backend", backend.url, "--store", store]
        assert await asyncio.to_thread(run, arguments) == 0
    assert not list(tmp_path.iterdir())


def test_harvest_leaves_no_files_beside_the_store(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    makes_store(tmp_path / "store" / "s.sqlite3")
    before = contents(tmp_path / "store")
    main(["harvest", "--store", f"sqlite:{tmp_path}/store/s.sqlite3", "--out", str(tmp_path / "out"), "--yes"])
    assert contents(tmp_path / "store") == before
