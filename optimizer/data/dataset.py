"""A data set to measure on: JSONL, a query per line with what is known of the answer it should get.

    {"query": "...", "reference": "...", "tag": "general" | "comply" | "refuse", "history": [{"role", "content"}]}

`reference`, `tag` (or `safe`: true or false) and `history` may be absent; other keys are ignored, since data sets carry
notes of their own. Knows the file, and nothing of how its queries are answered.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import orjson

from index.types import Message, Role
from optimizer.core.errors import DataError

GENERAL, COMPLY, REFUSE = "general", "comply", "refuse"
KINDS = (GENERAL, COMPLY, REFUSE)


@dataclass(frozen=True, slots=True)
class Row:
    """A query and what is known of it. `kind`: general, comply (must be answered) or refuse (must be refused);
    `split`: the part of a run's data that it belongs to, if the file says."""

    query: str
    kind: str = GENERAL
    reference: str | None = None
    history: tuple[Message, ...] = ()
    split: str | None = None

    @property
    def messages(self) -> tuple[Message, ...]:
        """The whole conversation, the query last."""
        return (*self.history, Message("user", self.query))


def read_rows(path: Path, limit: int | None = None) -> tuple[Row, ...]:
    """The rows of a JSONL file, at least one; the first `limit` of them. DataError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    rows = tuple(parse_row(line, f"{path}, line {number}") for number, line in _filled_lines(data))
    if not rows:
        raise DataError(f"{path}: there is no row: write at least one, as a line of JSON")
    return rows[:limit]


def parse_row(line: bytes, place: str) -> Row:
    """One line. DataError names `place`."""
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise DataError(f"{place}: not JSON") from None
    if not isinstance(fields, dict):
        raise DataError(f"{place}: not a JSON object")
    query, reference = fields.get("query"), fields.get("reference")
    if not isinstance(query, str) or not query:
        raise DataError(f'{place}: "query" must be a text that is not empty')
    if reference is not None and not isinstance(reference, str):
        raise DataError(f'{place}: "reference" must be a text')
    split = fields.get("split")
    if split is not None and not isinstance(split, str):
        raise DataError(f'{place}: "split" must be a text')
    return Row(query, _kind(fields, place), reference, _history(fields.get("history", []), place), split)


def _filled_lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    return ((number, line) for number, line in enumerate(data.split(b"\n"), start=1) if line.strip())


def _kind(fields: Mapping[str, object], place: str) -> str:
    if isinstance(safe := fields.get("safe"), bool):
        return COMPLY if safe else REFUSE
    tag = fields.get("tag", GENERAL)
    if tag not in KINDS:
        raise DataError(f'{place}: "tag" must be one of {", ".join(KINDS)}')
    return str(tag)


def _history(turns: object, place: str) -> tuple[Message, ...]:
    if not isinstance(turns, list):
        raise DataError(f'{place}: "history" must be a list of turns')
    return tuple(_turn(turn, place) for turn in turns)


def _turn(turn: object, place: str) -> Message:
    match turn:
        case {"role": "system" | "user" | "assistant" as role, "content": str() as content}:
            return Message(cast("Role", role), content)
    raise DataError(f'{place}: a turn of "history" needs a role (system, user or assistant) and a content')
