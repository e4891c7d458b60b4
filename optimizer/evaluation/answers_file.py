"""The answers file, which holds one JSON line per answer.

Each answer is written as soon as it arrives, so that an interrupted evaluation can continue. The key of a line is a
hash of model, variant, decoding and conversation. The key does not depend on the bundle behind the endpoint: after a
change of the bundle, the user must start a new file.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Self

import orjson

from optimizer.core.errors import DataError
from optimizer.data.dataset import Row
from optimizer.evaluation.chat_endpoint import Answer, Decoding


def answer_key(model: str, variant: str, decoding: Decoding, row: Row) -> str:
    """Return the key under which an answer is saved."""
    turns = [[message.role, message.text] for message in row.messages]
    parameters = {"max_tokens": decoding.max_tokens, "temperature": decoding.temperature}
    return hashlib.sha256(orjson.dumps([model, variant, parameters, turns])).hexdigest()


class AnswersFile:
    """Answers by key, saved in a file, or only in memory if there is no path. Use the object as a context manager."""

    def __init__(self, path: Path | None) -> None:
        """Read the file if `path` is given. Raises DataError if it cannot be opened or a line is not an answer."""
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
        """Return the answer with this key; None for an unknown key."""
        return self._answers.get(key)

    def add(self, key: str, variant: str, row: Row, answer: Answer) -> None:
        """Save one answer at once. Variant, kind and query are written too, for people who read the file."""
        self._answers[key] = answer
        if self._file is not None:
            record = {"key": key, "variant": variant, "kind": row.kind, "query": row.query, **_as_values(answer)}
            self._file.write(orjson.dumps(record) + b"\n")
            self._file.flush()


def _read(path: Path) -> dict[str, Answer]:
    """Read the answers of the file. If it does not exist, it is created.

    Text after the last line break is removed from the file, because the evaluation was interrupted while it wrote this
    text.
    """
    try:
        with path.open("a+b") as file:
            file.seek(0)
            data = file.read()
            complete = data[: data.rfind(b"\n") + 1]
            file.truncate(len(complete))
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from None
    return dict(
        _parse(line, f"{path}, line {number}") for number, line in enumerate(complete.split(b"\n")[:-1], start=1)
    )


def _as_values(answer: Answer) -> dict[str, object]:
    return {
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "examples": answer.examples,
    }


def _parse(line: bytes, location: str) -> tuple[str, Answer]:
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
        raise DataError(f"{location}: not an answer of an earlier run: name another file with --out") from None
