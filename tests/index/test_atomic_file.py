"""Tests that a file is replaced by a whole file, which only its owner can read."""

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from index.atomic_file import replace_file


def test_file_is_replaced_by_one_that_only_its_owner_can_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o644)
    replace_file(path, [b"ne", b"w"])
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_link_is_replaced_and_its_target_stays(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    replace_file(link, [b"new"])
    assert (target.read_text(), link.read_text(), link.is_symlink()) == ("old", "new", False)


def test_failure_leaves_the_older_file_and_no_other(tmp_path: Path) -> None:
    def blocks() -> Iterator[bytes]:
        yield b"ne"
        raise OSError("no space")

    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(OSError, match="no space"):
        replace_file(path, blocks())
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
