"""Tests that data files are parsed, and that an error names the file and the line."""

from pathlib import Path

import pytest

from index.types import Message
from optimizer.core.errors import DataError
from optimizer.data.dataset import Row, parse_row, read_rows


def test_safe_and_tag_give_the_kind_of_a_row() -> None:
    assert [
        parse_row(line, "here").kind
        for line in (
            b'{"query": "a", "safe": true}',
            b'{"query": "a", "safe": false}',
            b'{"query": "a", "tag": "comply"}',
            b'{"query": "a", "tag": "refuse"}',
            b'{"query": "a"}',
        )
    ] == ["comply", "refuse", "comply", "refuse", "general"]


def test_history_comes_before_the_query() -> None:
    row = parse_row(b'{"query": "b", "history": [{"role": "user", "content": "a"}]}', "here")
    assert row.messages == (Message("user", "a"), Message("user", "b"))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"nonsense", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", '"query"'),
        (b'{"query": ""}', '"query"'),
        (b'{"query": 3}', '"query"'),
        (b'{"query": "a", "reference": 3}', '"reference"'),
        (b'{"query": "a", "tag": "maybe"}', "general, comply, refuse"),
        (b'{"query": "a", "history": {}}', '"history"'),
        (b'{"query": "a", "history": [{"role": "tool", "content": "x"}]}', "role"),
        (b'{"query": "a", "history": [{"role": "user"}]}', "content"),
    ],
)
def test_invalid_line_is_an_error_with_its_location(line: bytes, reason: str) -> None:
    with pytest.raises(DataError, match="here") as caught:
        parse_row(line, "here")
    assert reason in str(caught.value)


def test_read_rows_skips_empty_lines_and_keeps_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"query": "a"}\n\n{"query": "b"}\n{"query": "c"}')
    assert read_rows(path, limit=2) == (Row("a"), Row("b"))
    assert len(read_rows(path)) == 3


def test_line_number_of_an_error_counts_empty_lines(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"query": "a"}\n\nnonsense\n')
    with pytest.raises(DataError, match="line 3"):
        read_rows(path)


def test_empty_or_missing_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    with pytest.raises(DataError, match="cannot be read"):
        read_rows(path)
    path.write_bytes(b"\n")
    with pytest.raises(DataError, match="there is no row"):
        read_rows(path)
