"""Reads the training, validation and sealed rows of a run, and checks that no two parts share a query.

The table [data] of run.toml names the files. The key `validation` of the table is optional: without a validation file,
the training rows also serve as validation rows. This module does not depend on how the rows are used.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from index.bundle.strict_json import quoted
from optimizer.core.config import MIN_ROWS
from optimizer.core.config_tables import DataTable
from optimizer.core.errors import DataError
from optimizer.data.dataset import Row, first_reasons, read_rows

TRAIN, VALIDATION, SEALED = "train", "validation", "sealed"
SPLITS: Final = (TRAIN, VALIDATION, SEALED)

_NOT_WORDS = re.compile(r"\W+")


@dataclass(frozen=True, slots=True)
class Split:
    """The three parts of a run's data. The rows of each part are in random order.

    Attributes:
        train: The rows on which the search scores prompts, and to whose queries the run writes exemplary answers.
        validation: The rows on which the tuning stage compares the settings of the bundle.
        sealed: The rows on which the final evaluation compares the bundle with the baseline. No other stage uses them.
    """

    train: tuple[Row, ...]
    validation: tuple[Row, ...]
    sealed: tuple[Row, ...]


def read_split(table: DataTable, seed: int) -> Split:
    """Read the data files that the table [data] of run.toml names.

    Two queries count as the same if they differ at most in case, punctuation and white space.

    Args:
        table: The table [data].
        seed: The seed for the random order of the rows.

    Raises:
        DataError: A file cannot be used, a row has an unknown split or one for which its file is not named, a part has
            fewer than four rows, or two parts share a query. Training and validation rows are not compared if [data]
            names no validation file, because they are then the same rows.
    """
    _refuse_unused_rows(table)
    train = _read_part(table.train, TRAIN, table.limit, seed)
    sealed = _read_part(table.sealed, SEALED, None, seed)
    validation = _read_part(table.validation, VALIDATION, table.limit, seed) if table.validation else train
    _refuse_overlap(SEALED, sealed, TRAIN, train)
    if table.validation:
        _refuse_overlap(SEALED, sealed, VALIDATION, validation)
        _refuse_overlap(VALIDATION, validation, TRAIN, train)
    return Split(train, validation, sealed)


def read_part(path: Path, split: str) -> list[Row]:
    """Return the rows of a file that belong to a part of the data, in the order of the file. Raises DataError."""
    found = read_rows(path)
    _refuse_unknown_splits(path, found)
    return [row for row in found if row.split in (None, split)]


def _read_part(path: Path, split: str, limit: int | None, seed: int) -> tuple[Row, ...]:
    rows = read_part(path, split)
    if len(rows) < MIN_ROWS:
        raise DataError(f"{path}: {len(rows)} rows for {split}: at least {MIN_ROWS} are needed")
    random.Random(f"{seed}:{split}").shuffle(rows)  # noqa: S311 - an order, not security
    return tuple(rows[:limit])


def _refuse_unknown_splits(path: Path, rows: Sequence[Row]) -> None:
    unknown = [
        f'{path.with_name(row.name)}: "split" must be one of {", ".join(SPLITS)}, not {quoted(row.split)}'
        for row in rows
        if row.split is not None and row.split not in SPLITS
    ]
    if unknown:
        raise DataError(first_reasons(unknown))


def _refuse_unused_rows(table: DataTable) -> None:
    """Raise DataError if a row has a split for which [data] does not name its file: it would be used for nothing."""
    parts = {
        part: path for part, path in zip(SPLITS, (table.train, table.validation, table.sealed), strict=True) if path
    }
    for path in dict.fromkeys(parts.values()):
        used = {part for part, one in parts.items() if one.resolve() == path.resolve()}
        unused = [row for row in read_rows(path) if row.split in SPLITS and row.split not in used]
        if unused:
            first = unused[0]
            raise DataError(
                f'{path}: {len(unused)} rows are used for nothing, such as {first.name}: its "split" is {first.split}, '
                f"but [data] {first.split} does not name this file. Name it there, or take these rows out"
            )


def _refuse_overlap(name: str, rows: tuple[Row, ...], other_name: str, other_rows: tuple[Row, ...]) -> None:
    known = {_normalized(row.query) for row in other_rows}
    shared = [row for row in rows if _normalized(row.query) in known]
    if shared:
        raise DataError(
            f"{len(shared)} queries are in {name} and in {other_name}: "
            "a score on them would prove nothing: take them out"
        )


def _normalized(query: str) -> str:
    """Return the query in lower case, with one space for each sequence of punctuation and white space."""
    return _NOT_WORDS.sub(" ", query.casefold()).strip()
