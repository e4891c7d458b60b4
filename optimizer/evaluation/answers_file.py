"""The answers file: one JSON line per answer, written when it comes, so that a run that was cut short goes on.

A line is found again by its key: a hash of all that decides an answer (model, variant, decoding, conversation). It does
not know the bundle behind an endpoint: after changing that, begin a new file.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Self

import orjson

from optimizer.core.errors import DataError
from optimizer.data.dataset import Row
from optimizer.evaluation.chat_endpoint import Answer, Decoding


def answer_key(model: str, variant: str, decoding: Decoding, row: Row) -> str:
    """What an answer is filed under."""
    turns = [[message.role, message.text] for message in row.messages]
    return hashlib.sha256(orjson.dumps([model, variant, asdict(decoding), turns])).hexdigest()


class AnswersFile:
    """Answers by key, kept in a file if there is a path. Use as a context manager."""

    def __init__(self, path: Path | None) -> None:
        """DataError: the file cannot be opened, or holds a line that is no answer."""
        self._answers: dict[str, Answer] = {}
        self._file: IO[bytes] | None = None
        if path is not None:
            self._answers = _read(path)
            self._file = path.open("ab")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def get(self, key: str) -> Answer | None:
        """The answer filed under `key`, if any."""
        return self._answers.get(key)

    def add(self, key: str, variant: str, row: Row, answer: Answer) -> None:
        """Files one answer, at once on disk. The query is written too, for people who read the file."""
        self._answers[key] = answer
        if self._file is not None:
            record = {"key": key, "variant": variant, "kind": row.kind, "query": row.query, **asdict(answer)}
            self._file.write(orjson.dumps(record) + b"\n")
            self._file.flush()


def _read(path: Path) -> dict[str, Answer]:
    """The answers on file. What stands after the last line break was cut off: it is removed, and asked again."""
    try:
        with path.open("a+b") as file:
            file.seek(0)
            data = file.read()
            complete = data[: data.rfind(b"\n") + 1]
            file.truncate(len(complete))
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from None
    return dict(_parse(line, f"{path}, line {n}") for n, line in enumerate(complete.split(b"\n")[:-1], start=1))


def _parse(line: bytes, place: str) -> tuple[str, Answer]:
    try:
        record: Mapping[str, object] = orjson.loads(line)
        answer = Answer(
            text=str(record["text"]),
            finish_reason=str(record["finish_reason"]),
            prompt_tokens=int(str(record["prompt_tokens"])),
            completion_tokens=int(str(record["completion_tokens"])),
            examples=tuple(orjson.loads(orjson.dumps(record["examples"]))),
        )
        return str(record["key"]), answer
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{place}: not an answer of an earlier run: name another file with --out") from None
