"""Divides what was harvested into rows and examples, and adds the user's own rows. It reads and writes no file.

The part of a question depends only on a hash of its text. A question therefore keeps its part in every later
improvement. For example, a sealed question never becomes a training row of the next improvement.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from index.counted import counted
from index.measures.refusals import refuses
from index.types import Example
from optimizer.core.config_checks import MIN_ROWS
from optimizer.core.errors import DataError
from optimizer.data.dataset import GENERAL, REFUSE, Row
from optimizer.data.preferences import Preferences
from optimizer.data.split import SEALED, TRAIN, VALIDATION, normalized

MIN_TELLING_ROWS: Final = 20
"""With fewer sealed rows, even a clear improvement is hard to tell from chance."""
_SHARES: Final = ((SEALED, 30), (VALIDATION, 45), (TRAIN, 70))  # upper ends, in percent; the rest can be examples


@dataclass(frozen=True, slots=True)
class Parts:
    """What a run gets.

    Attributes:
        rows: The rows, each with its split.
        examples: Liked answers that can become examples. No row has the same question as one of them.
        preferences: Pairs, ratings and comments. No sealed row has the same question as a pair or a rating.
    """

    rows: tuple[Row, ...] = field(repr=False)
    examples: tuple[Example, ...] = field(repr=False)
    preferences: Preferences = field(repr=False)

    @property
    def counts(self) -> Mapping[str, int]:
        """The number of rows of each part."""
        return Counter(row.split or TRAIN for row in self.rows)


def part_of(query: str) -> str:
    """Return the part of a question: `sealed`, `validation`, `train`, or an empty text if it can be an example."""
    digest = hashlib.sha256(normalized(query).encode("utf-8", "surrogatepass")).digest()
    percent = int.from_bytes(digest[:4]) % 100
    return next((part for part, end in _SHARES if percent < end), "")


def divide(accepted: Sequence[Example], disliked: Sequence[Row], preferences: Preferences, own: Sequence[Row]) -> Parts:
    """Divide what was harvested.

    A liked answer is a possible example, or its question becomes a row. No harvested row has a reference: the current
    bundle wrote the liked answers, so a comparison with them would favour the current bundle over every other one.
    The user's own rows keep their part, and take precedence over harvested rows of the same question.

    Args:
        accepted: The accepted examples.
        disliked: The rows of disliked answers.
        preferences: The preference pairs, ratings and comments.
        own: The user's own rows, each with its split.

    Raises:
        DataError: There are too few rows.
    """
    known = {normalized(row.query) for row in own}
    examples = tuple(one for one in accepted if not part_of(one.query) and normalized(one.query) not in known)
    known |= {normalized(one.query) for one in examples}
    liked = (_liked_row(one) for one in accepted if part_of(one.query))
    harvested = _distinct(row for row in (*liked, *disliked) if normalized(row.query) not in known)
    rows = (*own, *(replace(row, split=part_of(row.query) or TRAIN) for row in harvested))
    sealed = {normalized(row.query) for row in rows if row.split == SEALED}
    pairs = tuple(pair for pair in preferences.pairs if normalized(pair.query) not in sealed)
    ratings = tuple(one for one in preferences.ratings if normalized(one.query) not in sealed)
    parts = Parts(_without_small_validation(rows), examples, replace(preferences, pairs=pairs, ratings=ratings))
    _check_enough(parts)
    return parts


def row_json(row: Row) -> Mapping[str, Any]:
    """Return the keys and values of a row in a file."""
    history = [{"role": turn.role, "content": turn.text} for turn in row.history]
    optional = {"reference": row.reference, "history": history, "language": row.language}
    return {"query": row.query, "tag": row.kind, "split": row.split} | {k: v for k, v in optional.items() if v}


def _liked_row(example: Example) -> Row:
    kind = REFUSE if refuses(example.response) else GENERAL
    return Row(example.query, kind)


def _distinct(rows: Iterable[Row]) -> Iterator[Row]:
    known: set[object] = set()
    for row in rows:
        key = (normalized(row.query), row.history)
        if key not in known:
            known.add(key)
            yield row


def _without_small_validation(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Turn the validation rows into training rows if they are too few. The tuning stage then uses the training rows."""
    if sum(row.split == VALIDATION for row in rows) >= MIN_ROWS:
        return tuple(rows)
    return tuple(replace(row, split=TRAIN) if row.split == VALIDATION else row for row in rows)


def _check_enough(parts: Parts) -> None:
    train, sealed = (parts.counts.get(part, 0) for part in (TRAIN, SEALED))
    if min(train, sealed) < MIN_ROWS:
        raise DataError(
            f"there is too little feedback. It gives {counted(train, 'training row')} and "
            f"{counted(sealed, 'sealed row')}, and each part needs {MIN_ROWS}. Wait for more feedback and name a new "
            "folder with --out, read more of the store (--since, --experiment, --metric), or add rows "
            "of your own under [data] in run.toml (--config)."
        )
