"""Tests that a new server removes the folders of killed servers, and no other folder."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.core.shared_state import MappedState
from proxy.server.workers_folder import remove_abandoned, workers_folder

_SERVER = """
import sys, time
from proxy.server.workers_folder import workers_folder
with workers_folder(2) as folder:
    print(folder, flush=True)
    time.sleep(1_000)
"""


def abandoned(parent: Path, name: str = "drpo-one") -> Path:
    """Make the folder of a server that has ended without removing it."""
    folder = parent / name
    folder.mkdir()
    MappedState.prepare(folder, 2).close()
    (folder / "page-0.socket").touch()
    (folder / "gauge_all_17.db").touch()
    return folder


def test_folder_of_a_killed_server_is_removed_by_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdout=subprocess.PIPE, text=True, env=environment
    ) as server:
        assert server.stdout is not None
        killed = Path(server.stdout.readline().strip())
        with workers_folder(2) as second:
            assert killed.is_dir(), "its server still runs"
            server.kill()
            server.wait()
            with workers_folder(2) as third:
                assert not killed.exists()
                assert second.is_dir()
                assert third.is_dir()
    assert not list(tmp_path.iterdir())


def test_folder_stays_while_a_worker_uses_it(tmp_path: Path) -> None:
    folder = abandoned(tmp_path)
    with MappedState(folder, 0):
        remove_abandoned(tmp_path)
        assert (folder / "seats").exists()
    remove_abandoned(tmp_path)
    assert not folder.exists()


def link_to_a_folder(parent: Path) -> None:
    elsewhere = parent / "elsewhere"
    elsewhere.mkdir()
    (parent / "drpo-link").symlink_to(abandoned(elsewhere))


def link_to_a_file(parent: Path) -> None:
    folder = abandoned(parent)
    (folder / "present").rename(parent / "present")
    (folder / "present").symlink_to(parent / "present")


def notes_of_the_user(parent: Path) -> None:
    (parent / "drpo-notes").mkdir()
    (parent / "drpo-notes" / "present").touch()


def folder_in_a_folder(parent: Path) -> None:
    (abandoned(parent) / "mine").mkdir()


def other_name(parent: Path) -> None:
    abandoned(parent, "other-one")


@pytest.mark.parametrize("make", [link_to_a_folder, link_to_a_file, notes_of_the_user, folder_in_a_folder, other_name])
def test_what_no_server_made_stays(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    remove_abandoned(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_folder_of_another_user_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = abandoned(tmp_path)
    monkeypatch.setattr("os.geteuid", lambda: folder.stat().st_uid + 1)
    remove_abandoned(tmp_path)
    assert (folder / "seats").exists()


def test_server_starts_if_the_folder_of_temporary_files_cannot_be_listed(tmp_path: Path) -> None:
    remove_abandoned(tmp_path / "missing")
