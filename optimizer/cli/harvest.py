"""Seed examples from conversations that went well: an export with outcomes goes in, approved examples come out. Knows
conversations and what a bundle accepts; asks a person about each.

    {"messages": [{"role", "content"}, ...], "outcome": 0.9}

`outcome` (or score, rating, reward) is a number, or true for good. Taken is the first question with its answer: later
turns lean on what was said before.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from index.bundle.example_bank import check_example
from index.errors import DrpoError
from index.types import Example
from optimizer.core.errors import DataError

_OUTCOMES = ("outcome", "score", "rating", "reward")


@dataclass(frozen=True, slots=True)
class Harvest:
    """What came of an export. approved: in the order of the file; the rest are counts."""

    approved: tuple[Example, ...]
    read: int
    too_low: int
    unfit: int
    refused: int


Approve = Callable[[Example, float], bool]


def harvest(path: Path, at_least: float, words: int, approve: Approve) -> Harvest:
    """Read an export; ask `approve` about each example that is good enough, short enough and not there yet.

    Raises DataError for a line that is no conversation.
    """
    approved: dict[str, Example] = {}
    read = too_low = unfit = refused = 0
    for fields, place in _lines(path):
        read += 1
        outcome = _outcome(fields, place)
        if outcome < at_least:
            too_low += 1
            continue
        example = _example(fields, place)
        if example is None or example.id in approved or len(example.response.split()) > words:
            unfit += 1
        elif approve(example, outcome):
            approved[example.id] = example
        else:
            refused += 1
    return Harvest(tuple(approved.values()), read, too_low, unfit, refused)


def write_examples(path: Path, examples: Sequence[Example]) -> None:
    """As drpo-index build --examples takes them. Raises DataError."""
    rows = [{"query": one.query, "response": one.response, "tags": list(one.tags)} for one in examples]
    try:
        path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from None


def _lines(path: Path) -> Iterator[tuple[Mapping[str, Any], str]]:
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            place = f"{path}, line {number}"
            try:
                fields = orjson.loads(line)
            except orjson.JSONDecodeError:
                raise DataError(f"{place}: not JSON") from None
            if not isinstance(fields, dict) or not isinstance(fields.get("messages"), list):
                raise DataError(f'{place}: needs "messages", a list of turns')
            yield fields, place


def _outcome(fields: Mapping[str, Any], place: str) -> float:
    """True counts as 1; a conversation without an outcome is an error: it would be taken for a good one."""
    value = next((fields[name] for name in _OUTCOMES if name in fields), None)
    if not isinstance(value, int | float):
        raise DataError(f"{place}: needs one of {', '.join(_OUTCOMES)}: a number, or true for good")
    return float(value)


def _example(fields: Mapping[str, Any], place: str) -> Example | None:
    """The first user turn and the answer to it; None where there is none that a bundle accepts."""
    turns = [turn for turn in fields["messages"] if isinstance(turn, dict) and turn.get("role") != "system"]
    match turns[:2]:
        case [{"role": "user", "content": str() as query}, {"role": "assistant", "content": str() as response}]:
            name = hashlib.sha256(query.encode("utf-8", "replace")).hexdigest()[:12]
            example = Example(name, query.strip(), response.strip(), tags=("harvested",))
        case _:
            return None
    try:
        check_example(example, place)
    except DrpoError:
        return None
    return example
