"""Tests of the recorder: two records of one tree are equal, and the comparison finds a difference."""

from pathlib import Path

import pytest

from tests.snapshots.__main__ import main


@pytest.mark.slow
def test_two_records_are_equal_and_a_changed_line_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for path in (first, second):
        assert main(["--out", str(path), "--seed", "7", "--plans", "40", "--replies", "20"]) == 0
    assert first.read_bytes() == second.read_bytes()
    assert len(first.read_text().splitlines()) == 61
    assert main(["--compare", str(first), str(second)]) == 0
    lines = first.read_text().splitlines()
    kind, index, _, label = lines[3].split(" ", 3)
    second.write_text("\n".join([*lines[:3], f"{kind} {index} {'0' * 64} {label}", *lines[4:]]))
    capsys.readouterr()
    assert main(["--compare", str(first), str(second)]) == 1
    assert f"+ plan 3 {'0' * 64} {label}" in capsys.readouterr().out
