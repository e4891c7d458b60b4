"""Reads data sets in JSONL. Each line is a row: a query, and optionally a description of a good answer to the query.

    {"query": "...", "reference": "...", "tag": "general" | "comply" | "refuse", "history": [{"role", "content"}]}

Only `query` is required. A row can have the key `safe` instead of `tag`: `"safe": true` means `"tag": "comply"`, and
`"safe": false` means `"tag": "refuse"`. The optional key `split` names the part of the data to which the row belongs.
The optional key `id` names the row in messages, and the optional key `language` names the language of the query. A key
whose value is null counts as absent. Other keys are ignored, so that a row can hold notes. Lines are parsed by the same
code as those of `drpo-index build --examples`. This module does not depend on how queries are answered.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeVar, cast

from index.bundle.example_bank import refuse_unreadable
from index.bundle.input_files import BadLinesError, parse_each_line
from index.bundle.strict_json import Fields, parse_json, quoted, without_nulls
from index.errors import BundleError
from index.types import Message, Role
from optimizer.core.errors import DataError

T = TypeVar("T")
GENERAL, COMPLY, REFUSE = "general", "comply", "refuse"
KINDS = (GENERAL, COMPLY, REFUSE)
_KEYS: Final = ("query", "reference", "tag", "safe", "history", "split", "id", "language")
_MAX_REASONS: Final = 10
MAX_LINE_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Row:
    """A query, and a description of a good answer to it.

    Attributes:
        query: The text of the last user turn.
        kind: `comply` if a good answer must not refuse, `refuse` if it must refuse, `general` for all other rows.
        reference: A good answer; None if the file contains no good answer for this query.
        history: The turns before the query.
        split: The part of a run's data to which the row belongs: `train`, `validation` or `sealed`. None if the line
            has no key `split`: the row then belongs to each part that is read from its file.
        name: The file and the line of the row, and its id if the row has the key `id`. Messages use this name.
        line: The number of the line, counted from 1; 0 if the row is not from a file.
        language: The language of the query, as the file names it; empty if the file does not. The search groups the
            failures by language.
    """

    query: str
    kind: str = GENERAL
    reference: str | None = None
    history: tuple[Message, ...] = ()
    split: str | None = None
    name: str = field(default="a row", compare=False)
    line: int = field(default=0, compare=False)
    language: str = ""

    @property
    def messages(self) -> tuple[Message, ...]:
        """All turns of the conversation: the history, then the query as a user turn."""
        return (*self.history, Message("user", self.query))

    @property
    def length(self) -> int:
        """The number of characters of all turns."""
        return sum(len(message.text) for message in self.messages)


def read_rows(path: Path, limit: int | None = None) -> tuple[Row, ...]:
    """Read and check a JSONL file, and return its first `limit` rows, or all rows if `limit` is None.

    Blank lines are skipped. Rows after the first `limit` rows are checked too.

    Raises:
        DataError: The file cannot be read, has no row, or has malformed rows.
    """
    rows = tuple(
        replace(row, name=f"{path.name}, line {n}{row.name}", line=n) for n, row in read_lines(path, parse_row)
    )
    if not rows:
        raise DataError(f"{path} contains no row. Write at least one row, as a line of JSON.")
    return rows[:limit]


def read_lines(path: Path, parse: Callable[[bytes, str], T]) -> list[tuple[int, T]]:
    """Read a JSONL file that a person wrote, and return the number of each line and what `parse` returns for it.

    Raises:
        DataError: The file cannot be read, or lines are invalid. The message names at most ten of them.
    """
    return list(each_line(path, parse))


def each_line(path: Path, parse: Callable[[bytes, str], T]) -> Iterator[tuple[int, T]]:
    """Yield what `read_lines` returns, line by line, so that only one line is in memory.

    Raises:
        DataError: The file cannot be read, or lines are invalid. Invalid lines are reported after the last line.
    """
    try:
        yield from parse_each_line(_lines_of(path), str(path), parse)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except BadLinesError as error:
        raise DataError(first_reasons(error.reasons)) from None


def _lines_of(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE_BYTES + 1):
            if len(line) > MAX_LINE_BYTES:
                raise DataError(
                    f"{path}: a line has more than {MAX_LINE_BYTES:,} bytes. Write one object on each line."
                )
            yield line.removesuffix(b"\n")


def first_reasons(reasons: Sequence[str]) -> str:
    """Return the first ten reasons, one on each line, and the number of the others."""
    rest = len(reasons) - _MAX_REASONS
    return "\n".join([*reasons[:_MAX_REASONS], *([f"and {rest} more"] if rest > 0 else [])])


def parse_row(line: bytes, location: str) -> Row:
    """Convert one line of a file to a row. Its name is only its id in parentheses, or empty: the caller adds the line.

    Raises:
        DataError: The line is not a valid row. The message begins with `location`, the name of the file and line.
    """
    try:
        record = without_nulls(parse_json(line, location))
        _refuse_misspelled_keys(record, location)
        known = {key: record[key] for key in _KEYS if key in record} if isinstance(record, dict) else record
        fields = Fields(known, location, ("query",), _KEYS)
        query = fields.text("query")
        refuse_unreadable(query, f"{location}: the query", "Write a text, or remove the whole row")
        reference = fields.text("reference") if "reference" in fields else ""
        history = fields.raw("history") if "history" in fields else []
        return Row(
            query,
            _parse_kind(fields, location),
            _checked(reference, f"{location}: the reference") if reference.strip() else None,
            parse_history(history, location),
            fields.text("split") if "split" in fields else None,
            _id_text(fields.raw("id")) if "id" in fields else "",
            language=fields.text("language").strip() if "language" in fields else "",
        )
    except BundleError as error:
        raise DataError(str(error)) from None


def _refuse_misspelled_keys(record: object, location: str) -> None:
    """Raise DataError for a key that differs from a known key only in case or in spaces around it."""
    for key in record if isinstance(record, dict) else ():
        if key not in _KEYS and key.strip().lower() in _KEYS:
            raise DataError(f"{location}: write the key {quoted(key)} as {quoted(key.strip().lower())}")


def _parse_kind(fields: Fields, location: str) -> str:
    safe = (COMPLY if fields.flag("safe") else REFUSE) if "safe" in fields else None
    tag = fields.choice("tag", KINDS) if "tag" in fields else None
    if safe and tag and safe != tag:
        raise DataError(f'{location}: "safe" and "tag" contradict each other. Remove one of them')
    return safe or tag or GENERAL


def parse_history(turns: object, location: str) -> tuple[Message, ...]:
    """Return the turns of the key `history`. Raises DataError if they are malformed."""
    if not isinstance(turns, list):
        raise DataError(f'{location}: "history" must be a list of turns')
    return tuple(_parse_turn(turn, location) for turn in turns)


def _parse_turn(turn: object, location: str) -> Message:
    match turn:
        case {"role": "system" | "user" | "assistant" as role, "content": str() as content}:
            return Message(cast("Role", role), _checked(content, f'{location}: a turn of "history"'))
    raise DataError(f'{location}: a turn of "history" needs a role (system, user or assistant) and a content')


def _checked(text: str, what: str) -> str:
    """Check a text for characters that cannot be read, and return it. It may be blank. Raises BundleIntegrityError."""
    if text.strip():
        refuse_unreadable(text, what)
    return text


def _id_text(value: object) -> str:
    return f" ({quoted(str(value))})" if isinstance(value, str | int) else ""
