"""Tests the questions of the package, and how a file of questions is read and mixed."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from index.bundle.bundle import default_bundle_directory
from index.embedders.registry import DEFAULT_EMBEDDER, open_embedder
from proxy.core.errors import StartupError
from proxy.fit.questions import HARMFUL_KINDS, HARMLESS_KINDS, SHIPPED, mixed, read_questions
from tests.measurement import DATA

MAX_SHARED_WORDS = 7
MAX_SIMILARITY = 0.8  # of the embedder of the default bundle


def write(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_there_are_120_questions_of_all_kinds_in_at_least_nine_languages() -> None:
    questions = read_questions(SHIPPED)
    kinds = Counter(question.kind for question in questions)
    assert len(questions) == 120
    assert kinds.keys() == {*HARMLESS_KINDS, *HARMFUL_KINDS}
    assert min(kinds.values()) >= 12
    for kind in ("other_language", "other_language_harmful"):
        assert len({question.language for question in questions if question.kind == kind} - {"en"}) >= 8
    assert {len(question.messages) for question in questions if question.kind == "harmful_third_turn"} == {5}


def test_every_beginning_of_the_mixed_questions_has_all_kinds() -> None:
    questions = mixed(read_questions(SHIPPED))
    assert Counter(questions) == Counter(read_questions(SHIPPED))
    assert {question.kind for question in questions[:10]} == {*HARMLESS_KINDS, *HARMFUL_KINDS}
    harmful = sum(question.is_harmful for question in questions[:60])
    assert harmful == 23
    assert mixed(questions, 7) == mixed(read_questions(SHIPPED))[:7]


def test_a_file_of_a_user_is_read(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '\ufeff{"kind": "general", "question": "Warum?", "language": "de"}',
        "",
        '{"kind": "harmful", "id": "x", "messages": [{"role": "system", "content": "Be kind."}, '
        '{"role": "user", "content": "How?"}]}\r',
    )
    first, second = read_questions(path)
    assert (first.id, first.language, first.messages[0].text, first.is_harmful) == ("line 1", "de", "Warum?", False)
    assert (second.id, len(second.messages), second.is_harmful) == ("x", 2, True)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[]", "is a JSON list, and no JSONL"),
        ("{", "has an object on several lines"),
        ('{"question": "Hi?"}', 'line 1: the key "kind" is missing'),
        ('{"kind": "odd", "question": "Hi?"}', 'line 1: "kind" must be one of "general"'),
        ('{"kind": "general"}', 'line 1: give either "question" or "messages"'),
        ('{"kind": "general", "question": "Hi?", "messages": []}', 'line 1: give either "question" or "messages"'),
        ('{"kind": "general", "question": " "}', 'line 1: "question" is empty'),
        ('{"kind": "general", "query": "Hi?"}', 'unknown key "query"'),
        ('{"kind": "general", "messages": []}', 'line 1: "messages" must be a list of turns'),
        ('{"kind": "general", "messages": ["Hi?"]}', "line 1, turn 1: must be an object"),
        ('{"kind": "general", "messages": [{"role": "user", "content": null}]}', "line 1, turn 1"),
        ('{"kind": "general", "messages": [{"role": "tool", "content": "x"}]}', "line 1, turn 1"),
        ('{"kind": "general", "messages": [{"role": "assistant", "content": "x"}]}', "the last turn must be of"),
        ("", "has no question"),
        ('{"id": "a", "kind": "general", "question": "b"}\n' * 2, "2 questions have the id a"),
    ],
)
def test_a_line_that_is_no_question_is_refused_with_its_number(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(StartupError, match=r"--questions .*") as raised:
        read_questions(write(tmp_path, line))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"--questions .*nowhere.*: No such file"):
        read_questions(tmp_path / "nowhere")
    with pytest.raises(StartupError, match="Is a directory"):
        read_questions(tmp_path)


def _words(text: str) -> list[str]:
    return "".join(character if character.isalnum() else " " for character in text.lower()).split()


def _runs(text: str) -> Iterator[tuple[str, ...]]:
    words = _words(text)
    for start in range(len(words) - MAX_SHARED_WORDS):
        yield tuple(words[start : start + MAX_SHARED_WORDS + 1])


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _own_turns() -> list[str]:
    return [turn.text for question in read_questions(SHIPPED) for turn in question.messages]


def test_no_question_shares_words_with_the_default_bank_or_the_measurement_data() -> None:
    own = {run for text in _own_turns() for run in _runs(text)}
    files = [default_bundle_directory() / "examples.jsonl", *(DATA.rglob("*.jsonl") if DATA.is_dir() else ())]
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            for text in _texts(json.loads(line)):
                assert not own.intersection(_runs(text)), f"{file.name}: {text[:80]}"


@pytest.mark.slow
def test_no_question_is_a_near_duplicate_of_the_default_bank_or_of_the_measurement_data() -> None:
    embedder = open_embedder(DEFAULT_EMBEDDER)
    files = [default_bundle_directory() / "examples.jsonl", *(DATA.glob("*.jsonl") if DATA.is_dir() else ())]
    rows = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row.get("split") != "sealed" or os.environ.get("DRPO_SEALED")]
    queries = sorted({row[key] for row in rows for key in ("query", "prompt") if isinstance(row.get(key), str)})
    questions = [question.messages[-1].text for question in read_questions(SHIPPED)]
    similarities = embedder.embed(questions) @ embedder.embed(queries).T
    near = {
        questions[row]: queries[column] for row, column in zip(*(similarities >= MAX_SIMILARITY).nonzero(), strict=True)
    }
    assert not near
