"""The rows of a run in three parts that share no query: train, validation, sealed. Knows rows, not their use."""

import random
import re
from dataclasses import dataclass
from pathlib import Path

from optimizer.core.config_tables import DataTable
from optimizer.core.errors import DataError
from optimizer.data.dataset import Row, read_rows

_NOT_WORDS = re.compile(r"\W+")
_FEWEST = 4


@dataclass(frozen=True, slots=True)
class Split:
    """Three parts; train and validation in an order that mixes their kinds."""

    train: tuple[Row, ...]
    validation: tuple[Row, ...]
    sealed: tuple[Row, ...]


def read_split(table: DataTable, seed: int) -> Split:
    """Read the files. Raises DataError: too few rows, or a query in two parts."""
    train = _part(table.train, "train", table.limit, seed)
    sealed = _part(table.sealed, "sealed", None, seed)
    validation = _part(table.validation, "validation", table.limit, seed) if table.validation else train
    _refuse_overlap("sealed", sealed, "train", train)
    if table.validation:
        _refuse_overlap("sealed", sealed, "validation", validation)
        _refuse_overlap("validation", validation, "train", train)
    return Split(train, validation, sealed)


def _part(path: Path, split: str, limit: int | None, seed: int) -> tuple[Row, ...]:
    rows = [row for row in read_rows(path) if row.split in (None, split)]
    if len(rows) < _FEWEST:
        raise DataError(f"{path}: {len(rows)} rows for {split}: at least {_FEWEST} are needed")
    random.Random(f"{seed}:{split}").shuffle(rows)  # noqa: S311 - an order, hides nothing
    return tuple(rows[:limit])


def _refuse_overlap(one: str, rows: tuple[Row, ...], other: str, others: tuple[Row, ...]) -> None:
    known = {_plain(row.query) for row in others}
    shared = [row for row in rows if _plain(row.query) in known]
    if shared:
        raise DataError(
            f"{len(shared)} queries are in {one} and in {other}: a score on them would prove nothing: take them out"
        )


def _plain(query: str) -> str:
    """A query without what does not tell two apart: case, punctuation, white space."""
    return _NOT_WORDS.sub(" ", query.casefold()).strip()
