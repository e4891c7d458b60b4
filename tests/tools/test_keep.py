"""Tests of folders in the cache: a damaged folder is built again, and a complete one is kept."""

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from tools.keep import kept


def _silent(_: str) -> None:
    pass


def _build(place: Path) -> None:
    (place / "lib").mkdir(parents=True)
    (place / "lib" / "weights").write_bytes(b"12345")
    with (place.parent / "builds").open("a") as builds:
        builds.write(".")


def _slow_build(place: Path) -> None:
    time.sleep(0.5)
    _build(place)


def _builds(folder: Path) -> int:
    return (folder.parent / "builds").stat().st_size


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return kept(tmp_path / "thing-1", _build, _silent)


def test_complete_folder_is_kept(folder: Path) -> None:
    (folder / "lib" / "__pycache__").mkdir()
    (folder / "lib" / "__pycache__" / "x.pyc").touch()
    kept(folder, _build, _silent)
    assert _builds(folder) == 1


@pytest.mark.parametrize("damage", ["file removed", "file cut", "stamp removed"])
def test_damaged_folder_is_built_again(folder: Path, damage: str) -> None:
    weights = folder / "lib" / "weights"
    if damage == "file removed":
        weights.unlink()
    elif damage == "file cut":
        weights.write_bytes(b"123")
    else:
        (folder / ".complete").unlink()
    kept(folder, _build, _silent)
    assert weights.read_bytes() == b"12345"
    assert _builds(folder) == 2


def test_remains_of_an_interrupted_build_are_removed(tmp_path: Path) -> None:
    left = tmp_path / "thing-1.building" / "half"
    left.mkdir(parents=True)
    folder = kept(tmp_path / "thing-1", _build, _silent)
    assert not (folder / "half").exists()
    assert not left.exists()


def test_failed_build_is_not_kept(tmp_path: Path) -> None:
    def fail(place: Path) -> None:
        _build(place)
        raise RuntimeError("no network")

    with pytest.raises(RuntimeError):
        kept(tmp_path / "thing-1", fail, _silent)
    assert not (tmp_path / "thing-1").exists()


def test_two_processes_build_once(tmp_path: Path) -> None:
    start = multiprocessing.get_context("spawn").Process
    builders = [start(target=kept, args=(tmp_path / "thing-1", _slow_build, _silent)) for _ in range(2)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join(60)
    assert [builder.exitcode for builder in builders] == [0, 0]
    assert _builds(tmp_path / "thing-1") == 1


def test_version_that_was_not_used_for_a_month_is_removed(folder: Path) -> None:
    long_ago = time.time() - 31 * 24 * 3600
    os.utime(folder / ".complete", (long_ago, long_ago))
    newer = kept(folder.with_name("thing-2"), _build, _silent)
    assert newer.exists()
    assert not folder.exists()
