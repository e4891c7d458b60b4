"""Makes examples from conversations that went well: reads an export, and keeps the examples that a person approves.

Each line of the export is a conversation with its outcome:

    {"messages": [{"role", "content"}, ...], "outcome": 0.9}

The key `outcome` can also be `score`, `rating` or `reward`. Its value is a number, or true (1) or false (0). An example
is the first user turn with the answer to it. Later turns give no example, because their meaning depends on the turns
before them.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from index.bundle.example_bank import check_example
from index.bundle.strict_json import parse_json, without_nulls
from index.errors import DrpoError
from index.types import Example
from optimizer.core.errors import DataError
from optimizer.data.dataset import read_lines

Approve = Callable[[Example, float], bool]
"""A function that decides whether an example is approved. Arguments: the example, and its conversation's outcome."""
_OUTCOME_FIELDS: Final = ("outcome", "score", "rating", "reward")
_MAX_OUTCOME: Final = 1e12
_ID_LENGTH: Final = 12


@dataclass(frozen=True, slots=True)
class Harvest:
    """The approved examples from an export, and the numbers of conversations that gave no example, by reason.

    Attributes:
        approved: The approved examples, in the order of the file.
        read: Number of conversations in the export.
        too_low: Number of conversations whose outcome is below the minimum.
        unfit: Number of conversations that give no usable example, for one of four reasons: the conversation does not
            begin with a user turn and an answer, a bundle does not accept the example, the answer is too long, or an
            approved example already has this query.
        refused: Number of conversations whose example was usable but not approved.
    """

    approved: tuple[Example, ...]
    read: int
    too_low: int
    unfit: int
    refused: int


def harvest(path: Path, min_outcome: float, max_words: int, approve: Approve) -> Harvest:
    """Read an export and choose its examples.

    Args:
        path: A JSONL file with one conversation per line.
        min_outcome: Conversations with a lower outcome are left out.
        max_words: Examples whose answer has more words are left out.
        approve: Decides whether a usable example is approved.

    Raises:
        DataError: The file cannot be read, or a line is not a conversation with an outcome.
    """
    approved: dict[str, Example] = {}
    read = too_low = unfit = refused = 0
    for _, (fields, location) in read_lines(path, _parse_conversation):
        read += 1
        outcome = _outcome(fields, location)
        if outcome < min_outcome:
            too_low += 1
            continue
        example = _first_example(fields, location)
        if example is None or example.id in approved or len(example.response.split()) > max_words:
            unfit += 1
        elif approve(example, outcome):
            approved[example.id] = example
        else:
            refused += 1
    return Harvest(tuple(approved.values()), read, too_low, unfit, refused)


def write_examples(path: Path, examples: Sequence[Example]) -> None:
    """Write examples to a file that `drpo-index build --examples` can read. Raises DataError."""
    rows = [{"query": one.query, "response": one.response, "tags": list(one.tags)} for one in examples]
    try:
        path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from None


def _parse_conversation(line: bytes, location: str) -> tuple[Mapping[str, Any], str]:
    """Return the fields of a line, and the location of the line for error messages."""
    fields = without_nulls(parse_json(line, location))
    if not isinstance(fields, dict) or not isinstance(fields.get("messages"), list):
        raise DataError(f'{location}: needs "messages", a list of turns')
    return fields, location


def _outcome(fields: Mapping[str, Any], location: str) -> float:
    """Return the outcome of a conversation as a number. Raises DataError if the conversation has no outcome."""
    value = next((fields[name] for name in _OUTCOME_FIELDS if name in fields), None)
    if not isinstance(value, int | float) or abs(value) > _MAX_OUTCOME:  # float() fails for larger integers
        raise DataError(f"{location}: needs one of {', '.join(_OUTCOME_FIELDS)}: a number, or true for good")
    return float(value)


def _first_example(fields: Mapping[str, Any], location: str) -> Example | None:
    """Return the first user turn and the answer to this turn as an example.

    System turns are ignored. Return None if the other turns do not begin with a user turn and an answer, or if a bundle
    does not accept the example.
    """
    turns = [turn for turn in fields["messages"] if isinstance(turn, dict) and turn.get("role") != "system"]
    match turns[:2]:
        case [{"role": "user", "content": str() as query}, {"role": "assistant", "content": str() as response}]:
            name = hashlib.sha256(query.encode("utf-8", "replace")).hexdigest()[:_ID_LENGTH]
            example = Example(name, query.strip(), response.strip(), tags=("harvested",))
        case _:
            return None
    try:
        check_example(example, location)
    except DrpoError:
        return None
    return example
