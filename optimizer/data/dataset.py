"""Reads data sets in JSONL. Each line is a row: a query, and optionally a description of a good answer to the query.

    {"query": "...", "reference": "...", "tag": "general" | "comply" | "refuse", "history": [{"role", "content"}]}

Only `query` is required. A row can have the key `safe` instead of `tag`: `"safe": true` means `"tag": "comply"`, and
`"safe": false` means `"tag": "refuse"`. The optional key `split` names the part of the data to which the row belongs.
Other keys are ignored, so that a row can hold notes. This module does not depend on how queries are answered.
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
    """A query, and a description of a good answer to it.

    Attributes:
        query: The text of the last user turn.
        kind: `comply` if a good answer must not refuse, `refuse` if it must refuse, `general` for all other rows.
        reference: A good answer; None if the file contains no good answer for this query.
        history: The turns before the query.
        split: The part of a run's data to which the row belongs: `train`, `validation` or `sealed`. None if the row
            belongs to every part whose file contains the row.
    """

    query: str
    kind: str = GENERAL
    reference: str | None = None
    history: tuple[Message, ...] = ()
    split: str | None = None

    @property
    def messages(self) -> tuple[Message, ...]:
        """All turns of the conversation: the history, then the query as a user turn."""
        return (*self.history, Message("user", self.query))


def read_rows(path: Path, limit: int | None = None) -> tuple[Row, ...]:
    """Read and check a JSONL file, and return its first `limit` rows, or all rows if `limit` is None.

    Blank lines are skipped. Rows after the first `limit` rows are checked too.

    Raises:
        DataError: The file cannot be read, has no row, or has a malformed row.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    rows = tuple(parse_row(line, f"{path}, line {number}") for number, line in _numbered_lines(data))
    if not rows:
        raise DataError(f"{path}: there is no row: write at least one, as a line of JSON")
    return rows[:limit]


def parse_row(line: bytes, location: str) -> Row:
    """Convert one line of a file to a row.

    Raises:
        DataError: The line is not a valid row. The message begins with `location`, the name of the file and line.
    """
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise DataError(f"{location}: not JSON") from None
    if not isinstance(fields, dict):
        raise DataError(f"{location}: not a JSON object")
    query, reference = fields.get("query"), fields.get("reference")
    if not isinstance(query, str) or not query:
        raise DataError(f'{location}: "query" must be a text that is not empty')
    if reference is not None and not isinstance(reference, str):
        raise DataError(f'{location}: "reference" must be a text')
    split = fields.get("split")
    if split is not None and not isinstance(split, str):
        raise DataError(f'{location}: "split" must be a text')
    return Row(
        query, _parse_kind(fields, location), reference, _parse_history(fields.get("history", []), location), split
    )


def _numbered_lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    return ((number, line) for number, line in enumerate(data.split(b"\n"), start=1) if line.strip())


def _parse_kind(fields: Mapping[str, object], location: str) -> str:
    if isinstance(safe := fields.get("safe"), bool):
        return COMPLY if safe else REFUSE
    tag = fields.get("tag", GENERAL)
    if tag not in KINDS:
        raise DataError(f'{location}: "tag" must be one of {", ".join(KINDS)}')
    return str(tag)


def _parse_history(turns: object, location: str) -> tuple[Message, ...]:
    if not isinstance(turns, list):
        raise DataError(f'{location}: "history" must be a list of turns')
    return tuple(_parse_turn(turn, location) for turn in turns)


def _parse_turn(turn: object, location: str) -> Message:
    match turn:
        case {"role": "system" | "user" | "assistant" as role, "content": str() as content}:
            return Message(cast("Role", role), content)
    raise DataError(f'{location}: a turn of "history" needs a role (system, user or assistant) and a content')
