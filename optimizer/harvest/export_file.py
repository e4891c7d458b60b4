"""Reads a file of conversations with outcomes, for answers that were not recorded by drpo-proxy.

Each line is a conversation with its outcome:

    {"messages": [{"role", "content"}, ...], "outcome": 0.9}

The key `outcome` can also be `score`, `rating` or `reward`. Its value is a number, or true (1) or false (0). The first
user turn and the answer to it are used. Later turns are not, because their meaning depends on the turns before them.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from index.bundle.strict_json import parse_json, without_nulls
from index.types import Message
from optimizer.core.errors import DataError
from optimizer.data.dataset import each_line
from optimizer.harvest.exchange import Exchange
from optimizer.harvest.store.reader import ReadCounts, StoreQuery

_OUTCOME_FIELDS: Final = ("outcome", "score", "rating", "reward")
_MAX_OUTCOME: Final = 1e12
NO_OPENING: Final = "they do not begin with a user turn and an answer"


def read_export(path: Path, query: StoreQuery, counts: ReadCounts) -> Iterator[Exchange | None]:
    """Yield the conversations of a file, each as a unit of its own. A conversation that cannot be used gives None.

    Args:
        path: A JSONL file with one conversation per line.
        query: Says which outcomes mean that an answer was liked or disliked.
        counts: What was read is added to these counts.

    Raises:
        DataError: The file cannot be read, or a line is not a conversation with an outcome.
    """
    for number, (fields, location) in each_line(path, _parse_conversation):
        counts.requests += 1
        rating = query.rating(_outcome(fields, location))
        counts.rated += 1
        turns = [turn for turn in fields["messages"] if isinstance(turn, dict) and turn.get("role") != "system"]
        match turns[:2]:
            case [{"role": "user", "content": str() as asked}, {"role": "assistant", "content": str() as answer}]:
                counts.with_text += 1
                turn = Message("user", asked.strip())
                yield Exchange(str(number).encode(), float(number), (turn,), answer.strip(), rating)
            case _:
                counts.unused[NO_OPENING] += 1
                yield None


def _parse_conversation(line: bytes, location: str) -> tuple[Mapping[str, Any], str]:
    """Return the fields of a line, and the location of the line for error messages."""
    fields = without_nulls(parse_json(line, location))
    if not isinstance(fields, dict) or not isinstance(fields.get("messages"), list):
        raise DataError(f'{location}: a conversation needs "messages", a list of turns')
    return fields, location


def _outcome(fields: Mapping[str, Any], location: str) -> float:
    """Return the outcome of a conversation as a number. Raises DataError if the conversation has no outcome."""
    value = next((fields[name] for name in _OUTCOME_FIELDS if name in fields), None)
    if not isinstance(value, int | float) or abs(value) > _MAX_OUTCOME:  # float() fails for larger integers
        raise DataError(
            f"{location}: a conversation needs one of {', '.join(_OUTCOME_FIELDS)}: a number, or true for good"
        )
    return float(value)
