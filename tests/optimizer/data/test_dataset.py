"""A data file with a mistake must be named with its line, not measured wrongly."""

from pathlib import Path

import pytest

from index.types import Message
from optimizer.core.errors import DataError
from optimizer.data.dataset import Row, parse_row, read_rows


def test_safe_and_tag_mean_the_same_kinds() -> None:
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


def test_a_history_comes_before_the_query() -> None:
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
def test_a_bad_line_is_named_with_its_place(line: bytes, reason: str) -> None:
    with pytest.raises(DataError, match="here") as caught:
        parse_row(line, "here")
    assert reason in str(caught.value)


def test_empty_lines_are_passed_over_and_the_limit_holds(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"query": "a"}\n\n{"query": "b"}\n{"query": "c"}')
    assert read_rows(path, limit=2) == (Row("a"), Row("b"))
    assert len(read_rows(path)) == 3


def test_the_line_of_a_mistake_counts_empty_lines(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"query": "a"}\n\nnonsense\n')
    with pytest.raises(DataError, match="line 3"):
        read_rows(path)


def test_an_empty_or_absent_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    with pytest.raises(DataError, match="cannot be read"):
        read_rows(path)
    path.write_bytes(b"\n")
    with pytest.raises(DataError, match="there is no row"):
        read_rows(path)
