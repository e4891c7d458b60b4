"""The answers file, which contains one JSON line per answer.

Each answer is written as soon as it arrives, so that an interrupted evaluation can continue. The key of a line is a
hash of model, variant, decoding parameters and conversation. The hash does not include the bundle that the endpoint
serves. If the user changes the bundle and keeps the file, the evaluation therefore reuses answers of the old bundle.
After such a change, the user must name a new file.
"""

import hashlib
from pathlib import Path
from typing import IO, Self

import orjson

from optimizer.core.errors import DataError, UnparsableReplyError
from optimizer.data.dataset import Row
from optimizer.evaluation.chat_endpoint import Answer, Decoding
from optimizer.models.reply_text import text_field
from optimizer.models.token_count import token_usage


def answer_key(model: str, variant: str, decoding: Decoding, row: Row) -> str:
    """Return the key under which an answer is saved."""
    turns = [[message.role, message.text] for message in row.messages]
    parameters = {"max_tokens": decoding.max_tokens, "temperature": decoding.temperature}
    return hashlib.sha256(orjson.dumps([model, variant, parameters, turns])).hexdigest()


class AnswersFile:
    """Stores answers by key. Use it as a context manager."""

    def __init__(self, path: Path | None) -> None:
        """Read the answers of the file.

        Args:
            path: The path of the file. If it is None, answers are kept only in memory.

        Raises:
            DataError: The file cannot be opened, or a line is not an answer.
        """
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
        """Store one answer, and write it to the file before this method returns.

        The line also contains variant, kind and query. Only people who read the file need them.
        """
        self._answers[key] = answer
        if self._file is not None:
            record = {"key": key, "variant": variant, "kind": row.kind, "query": row.query, **_as_values(answer)}
            self._file.write(orjson.dumps(record) + b"\n")
            self._file.flush()


def _read(path: Path) -> dict[str, Answer]:
    """Read the answers of the file, or create the file if it does not exist.

    Text after the last line break is removed from the file. It is an incomplete line, because an evaluation was
    interrupted while it wrote this line.
    """
    try:
        with path.open("a+b") as file:
            file.seek(0)
            data = file.read()
            complete = data[: data.rfind(b"\n") + 1]
            file.truncate(len(complete))
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}") from None
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
        record = orjson.loads(line)
        key, text, finish_reason = (text_field(record, name) for name in ("key", "text", "finish_reason"))
        examples = record["examples"]
        if not isinstance(examples, list) or not all(isinstance(name, str) for name in examples):
            raise TypeError
        return key, Answer(text, finish_reason, *token_usage({"usage": record}), tuple(examples))
    except (ValueError, KeyError, TypeError, UnparsableReplyError):
        raise DataError(f"{location}: this is not an answer of an earlier run. Name another file with --out.") from None
