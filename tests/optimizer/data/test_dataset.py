"""Tests that data files are parsed, and that an error names the file and the line."""

import gzip
import json
import re
from pathlib import Path

import pytest

from index.bundle.input_files import BadLinesError, parse_input_examples
from index.types import Message
from optimizer.core.config_tables import DataTable
from optimizer.core.errors import DataError
from optimizer.data.dataset import Row, parse_row, read_rows
from optimizer.data.split import read_split


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


@pytest.mark.parametrize("key", ["reference", "tag", "safe", "history", "split", "id", "language", "note"])
def test_null_counts_as_absent(key: str) -> None:
    assert parse_row(f'{{"query": "a", "{key}": null}}'.encode(), "here") == Row("a")


def test_history_comes_before_the_query() -> None:
    row = parse_row(b'{"query": "b", "history": [{"role": "user", "content": "a"}]}', "here")
    assert row.messages == (Message("user", "a"), Message("user", "b"))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"nonsense", "is not valid JSON"),
        (b"[]", "must be an object ({...}), not a list"),
        (b"{}", '"query"'),
        (b'{"query": ""}', "the query is empty"),
        (b'{"query": 3}', '"query"'),
        (b'{"query": "a", "reference": 3}', '"reference"'),
        (b'{"query": " \\n"}', "the query is empty"),
        (b'{"query": "a\\u0000b"}', "the query holds a NUL character"),
        (b'{"query": "a", "query": "b"}', "appears twice"),
        (b'{"query": "a", "tag": "maybe"}', '"general", "comply", "refuse"'),
        (b'{"query": "a", "tag": "Refuse"}', '"general", "comply", "refuse"'),
        (b'{"query": "a", "safe": "no"}', '"safe" must be true or false'),
        (b'{"query": "a", "safe": true, "tag": "refuse"}', "contradict"),
        (b'{"query": "a", "split": 3}', '"split" must be a string'),
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
    with pytest.raises(DataError, match="contains no row"):
        read_rows(path)


BAD_LINES = {
    "not JSON": b"nonsense",
    "trailing comma": b'{"query": "a", "response": "b",}',
    "NaN": b'{"query": "a", "response": "b", "tags": NaN}',
    "duplicate key": b'{"query": "a", "query": "a", "response": "b"}',
    "half of a surrogate pair": b'{"query": "\\ud800", "response": "b"}',
    "not UTF-8": b'{"query": "\xff", "response": "b"}',
    "list": b"[]",
    "NUL bytes": b"\0\0\0",
    "NUL in the query": b'{"query": "\\u0000", "response": "b"}',
    "null": b"null",
    "query of the wrong type": b'{"query": 3, "response": "b"}',
    "null query": b'{"query": null, "response": "b"}',
}


@pytest.mark.parametrize("bad", BAD_LINES.values(), ids=BAD_LINES)
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b"\r\n", b" \n"], ids=["plain", "mark", "CRLF", "blank"])
def test_rows_and_examples_have_one_reader_with_the_same_messages(start: bytes, bad: bytes, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    good = b'{"query": "a", "response": "b", "tags": null}'
    path.write_bytes(start + good + b"\r\n\n\xef\xbb\xbf" + good.replace(b"a", b"c") + b"\n" + bad + b"\n")
    with pytest.raises(BadLinesError) as of_examples:
        parse_input_examples(path.read_bytes(), str(path))
    with pytest.raises(DataError) as of_rows:
        read_rows(path)
    line = 5 if b"\n" in start else 4
    assert f"{path}, line {line}: " in str(of_rows.value)
    assert _without_id(str(of_rows.value)) == _without_id(str(of_examples.value))


def _without_id(message: str) -> str:
    return re.sub(r' of "[0-9a-f]{12}"', "", message)


ROWS = [{"query": f"What is {number}?", "response": "One.", "reference": "One."} for number in range(5)]
LINES = "\n".join(map(json.dumps, ROWS))
OTHER_FORMS = {
    "comma": (b"query,reference\nWhat is it?,One.\n", "CSV"),
    "semicolon": (b"query;reference;tag\r\nWhat is it?;One.;general\r\n", "CSV"),
    "tabs": (b"query\treference\nWhat is it?\tOne.\n", "CSV"),
    "quoted header": (b'"query","reference"\n"What, is it?","One."\n', "CSV"),
    "list in one line": (json.dumps(ROWS).encode(), "JSON list"),
    "list in lines": (json.dumps(ROWS, indent=2).encode(), "JSON list"),
    "list with a mark": (b"\xef\xbb\xbf\r\n [" + LINES.replace("\n", ",\n").encode() + b"]", "JSON list"),
    "object in lines": (json.dumps(ROWS[0], indent=2).encode(), "several lines"),
    "commas": (LINES.replace("\n", ",\n").encode(), "comma after each object"),
    "UTF-16": (LINES.encode("utf-16"), "UTF-16"),
    "UTF-16 big": (b"\xfe\xff" + LINES.encode("utf-16-be"), "UTF-16"),
    "UTF-16 without a mark": (LINES.encode("utf-16-le"), "UTF-16"),
    "UTF-32": (LINES.encode("utf-32"), "UTF-32"),
    "CR": (LINES.replace("\n", "\r").encode(), "CR alone"),
    "gzip": (gzip.compress(LINES.encode()), "no text"),
    "Excel": (b"PK\x03\x04\x14\0\x06\0\n\n", "no text"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "page": (b"<!DOCTYPE html>\n<html>", "page"),
}


@pytest.mark.parametrize(("content", "named"), OTHER_FORMS.values(), ids=OTHER_FORMS)
def test_file_of_another_form_is_refused_with_one_sentence(content: bytes, named: str, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(content)
    with pytest.raises(BadLinesError) as of_examples:
        parse_input_examples(content, str(path))
    with pytest.raises(DataError) as of_rows:
        read_rows(path)
    assert str(of_rows.value) == str(of_examples.value)
    assert str(of_rows.value).startswith(f"{path}: ")
    assert named in str(of_rows.value)
    assert "\n" not in str(of_rows.value)


@pytest.mark.parametrize("first", ["How do I do it, and why?", "- query: a", "// rows", "{'query': 'a'}"])
def test_first_line_that_shows_no_other_form_is_an_invalid_line(first: str, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(f"{first}\n{LINES}")
    with pytest.raises(DataError, match="line 1: is not valid JSON"):
        read_rows(path)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf", b"\xef\xbb\xbf\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\n\n", b"\r\n \r\n", b""])
def test_byte_order_mark_and_line_ends_are_not_part_of_a_row(mark: bytes, end: bytes, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(mark + b'{"query": "a", "tag": null}' + (end or b"\n") + mark + b'{"query": "b"}' + end)
    assert read_rows(path) == (Row("a"), Row("b"))


def test_name_of_a_row_is_its_line_and_its_id(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"query": "a"}\n\n{"query": "b", "id": "q-7"}\n')
    assert [row.name for row in read_rows(path)] == ["data.jsonl, line 1", 'data.jsonl, line 3 ("q-7")']


def test_error_names_ten_lines_and_counts_the_others(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"{}\n" * 25)
    with pytest.raises(DataError) as caught:
        read_rows(path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 11
    assert "line 10: " in lines[9]
    assert lines[10] == "and 15 more"


@pytest.mark.parametrize("name", ["Train", " test", "dev", "test", "", "VALIDATION", "sealed "])
@pytest.mark.parametrize("key", ["train", "validation", "sealed"])
def test_unknown_split_is_refused_with_its_line_and_the_allowed_ones(name: str, key: str, tmp_path: Path) -> None:
    files = {}
    for part in ("train", "validation", "sealed"):
        files[part] = tmp_path / f"{part}.jsonl"
        rows = [{"query": f"{part} {number}", "split": part} for number in range(5)]
        if part == key:
            rows.insert(2, {"query": "odd one", "split": name})
        files[part].write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError) as caught:
        read_split(DataTable(files["train"], files["sealed"], files["validation"]), 0)
    expected = f'"split" must be one of train, validation, sealed, seeds, not {json.dumps(name)}'
    assert str(caught.value) == f"{files[key]}, line 3: {expected}"


@pytest.mark.parametrize("key", ["Tag", "TAG", " tag", "Reference", "Safe", "History", "Split", "query ", "ID"])
def test_key_that_is_spelled_almost_like_a_known_one_is_refused(key: str) -> None:
    line = json.dumps({"query": "q", key: None if key == "ID" else "refuse"}).encode()
    if key == "ID":
        assert parse_row(line, "a file").name == ""
        return
    with pytest.raises(DataError, match=f'as "{key.strip().lower()}"'):
        parse_row(line, "a file")


@pytest.mark.parametrize(("odd", "holder"), [("sealed", "train"), ("validation", "train"), ("train", "sealed")])
@pytest.mark.parametrize("has_validation", [True, False])
def test_row_whose_part_is_in_another_file_is_refused(
    odd: str, holder: str, has_validation: bool, tmp_path: Path
) -> None:
    files = {part: tmp_path / f"{part}.jsonl" for part in ("train", "validation", "sealed")}
    for part, file in files.items():
        rows = [{"query": f"{part} {number}"} for number in range(5)]
        rows += [{"query": "odd one", "split": odd}] if part == holder else []
        file.write_text("\n".join(map(json.dumps, rows)))
    validation = files["validation"] if has_validation else None
    with pytest.raises(DataError, match=rf"line 6.*split. is {odd}, but \[data\] {odd} does not name this file"):
        read_split(DataTable(files["train"], files["sealed"], validation), 0)


def test_one_file_may_hold_all_parts(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{"query": f"{part} {number}", "split": part} for part in ("train", "sealed") for number in range(5)]
    file.write_text("\n".join(map(json.dumps, rows)))
    other = tmp_path / "folder" / ".." / "rows.jsonl"
    other.parent.parent.mkdir()
    split = read_split(DataTable(file, other), 0)
    assert (len(split.train), len(split.sealed)) == (5, 5)


SEED_FAULTS = [
    ([{"query": "a"}], "a seed needs a reference"),
    ([{"query": "a", "reference": " "}], "a seed needs a reference"),
    ([], "contains no row"),
    ([{"query": "sealed 1", "reference": "x"}], "sealed and seeds share 1 query"),
    ([{"query": "Validation, 1!", "reference": "x"}], "validation and seeds share 1 query"),
    ([{"query": "a", "reference": "x", "split": "train"}], "does not name this file"),
]


def seeded(folder: Path, seeds: list[dict[str, str]]) -> DataTable:
    """Return the data of a run with seeds, which lie in a file of their own."""
    paths = {}
    for part in ("train", "sealed", "validation"):
        paths[part] = folder / f"{part}.jsonl"
        paths[part].write_text("\n".join(json.dumps({"query": f"{part} {one}"}) for one in range(5)))
    paths["seeds"] = folder / "seeds.jsonl"
    paths["seeds"].write_text("\n".join(map(json.dumps, seeds)))
    return DataTable(paths["train"], paths["sealed"], paths["validation"], paths["seeds"])


@pytest.mark.parametrize(("seeds", "named"), SEED_FAULTS)
def test_seeds_that_cannot_be_used_are_refused(seeds: list[dict[str, str]], named: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=named):
        read_split(seeded(tmp_path, seeds), 0)


def test_seeds_keep_their_order_and_may_be_training_rows(tmp_path: Path) -> None:
    seeds = [{"query": query, "reference": "x", "split": "seeds"} for query in ("train 1", "b", "a")]
    assert [row.query for row in read_split(seeded(tmp_path, seeds), 7).seeds] == ["train 1", "b", "a"]


def test_sealed_rows_may_be_left_out(tmp_path: Path) -> None:
    table = seeded(tmp_path, [{"query": "a", "reference": "x"}])
    split = read_split(DataTable(table.train), 0)
    assert (split.sealed, split.seeds, len(split.train)) == ((), (), 5)
