"""Tests that an interrupted evaluation continues from its answers, and never confuses two answers."""

import json
from pathlib import Path

import pytest

from index.types import Message
from optimizer.core.errors import DataError
from optimizer.data.dataset import Row
from optimizer.evaluation.answers_file import AnswersFile, answer_key
from optimizer.evaluation.chat_endpoint import Answer, Decoding

ANSWER = Answer("text", "stop", 5, 2, ("one", "two"))


def test_answers_are_found_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with AnswersFile(path) as answers:
        answers.add("key", "raw", Row("q"), ANSWER)
    with AnswersFile(path) as answers:
        assert answers.get("key") == ANSWER
        assert answers.get("other") is None


def test_truncated_line_is_removed_and_can_be_written_again(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with AnswersFile(path) as answers:
        answers.add("first", "raw", Row("q"), ANSWER)
        answers.add("second", "raw", Row("q"), ANSWER)
    path.write_bytes(path.read_bytes()[:-20])
    with AnswersFile(path) as answers:
        assert answers.get("second") is None
        answers.add("second", "raw", Row("q"), ANSWER)
    with AnswersFile(path) as answers:
        assert answers.get("first") == answers.get("second") == ANSWER


def test_line_separators_inside_an_answer_do_not_break_the_file(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    odd = Answer("a\nb\u2028c\x85d\x0ce", "stop", 1, 1)
    with AnswersFile(path) as answers:
        answers.add("key", "raw", Row("q"), odd)
    with AnswersFile(path) as answers:
        assert answers.get("key") == odd


def line_with(**fields: object) -> bytes:
    whole = {"key": "k", "text": "t", "finish_reason": "stop", "prompt_tokens": 1, "completion_tokens": 1}
    return json.dumps({**whole, "examples": [], **fields}).encode() + b"\n"


@pytest.mark.parametrize(
    "line",
    [
        *(b"nonsense\n", b"{}\n", b"[]\n", b'{"key": "k", "text": "t"}\n'),
        *(line_with(text=value) for value in (None, 5, ["t"], True)),
        *(line_with(key=None), line_with(finish_reason=None), line_with(examples="abc"), line_with(examples=[None])),
    ],
)
def test_file_of_another_format_is_an_error_that_names_the_line(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_bytes(line)
    with pytest.raises(DataError, match=r"answers\.jsonl, line 1"):
        AnswersFile(path)


def test_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be written"):
        AnswersFile(tmp_path / "absent" / "answers.jsonl")


def test_answers_without_a_path_are_kept_in_memory() -> None:
    with AnswersFile(None) as answers:
        answers.add("key", "raw", Row("q"), ANSWER)
        assert answers.get("key") == ANSWER


def test_key_depends_on_everything_that_determines_an_answer() -> None:
    base = ("model", "raw", Decoding(256, 0.0), Row("q"))
    others = [
        ("other", *base[1:]),
        (base[0], "aligned", *base[2:]),
        (*base[:2], Decoding(128, 0.0), base[3]),
        (*base[:2], Decoding(256, 0.7), base[3]),
        (*base[:3], Row("p")),
        (*base[:3], Row("q", history=(Message("user", "before"),))),
    ]
    keys = {answer_key(*arguments) for arguments in (base, *others)}
    assert len(keys) == 7
    assert answer_key(*base) == answer_key(*base[:3], Row("q", kind="refuse", reference="other"))
