"""Reads the training, validation and sealed rows and the seeds of a run, and checks which parts share a query.

The table [data] of run.toml names the files. The key `validation` of the table is optional: without a validation file,
the training rows also serve as validation rows. Sealed rows and seeds are optional too. This module does not depend on
how the rows are used.
"""

import random
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from index.bundle.strict_json import quoted
from index.counted import counted
from optimizer.core.config_checks import MIN_ROWS
from optimizer.core.config_tables import DataTable
from optimizer.core.errors import DataError
from optimizer.data.dataset import Row, first_reasons, read_rows

TRAIN, VALIDATION, SEALED, SEEDS = "train", "validation", "sealed", "seeds"
SPLITS: Final = (TRAIN, VALIDATION, SEALED, SEEDS)

_NOT_WORDS = re.compile(r"\W+")


@dataclass(frozen=True, slots=True)
class Split:
    """The parts of a run's data. The rows of each part are in random order, and the seeds in the order of their file.

    Attributes:
        train: The rows on which the search scores prompts, and to whose queries the run writes exemplary answers.
        validation: The rows on which the tuning stage compares the settings of the bundle.
        sealed: The rows on which the final evaluation compares the bundle with the baseline. No other stage uses them.
            If there are none, there is no final evaluation.
        seeds: Rows with references, from which examples are made.
    """

    train: tuple[Row, ...]
    validation: tuple[Row, ...]
    sealed: tuple[Row, ...]
    seeds: tuple[Row, ...] = ()

    @property
    def parts(self) -> Mapping[str, tuple[Row, ...]]:
        """The rows of each part, by the name of the part."""
        return {TRAIN: self.train, VALIDATION: self.validation, SEALED: self.sealed, SEEDS: self.seeds}


def read_split(table: DataTable, seed: int) -> Split:
    """Read the data files that the table [data] of run.toml names.

    Two queries count as the same if they differ at most in case, punctuation and white space.

    Args:
        table: The table [data].
        seed: The seed for the random order of the rows.

    Raises:
        DataError: A file cannot be used, a row has an unknown split, or a split for which [data] names another file or
            none, a part has fewer than four rows, a seed has no reference, or two parts share a query. Training rows
            may share queries with the seeds. They are also the validation rows if [data] names no validation file.
    """
    parts = read_parts(table)
    train = _in_random_order(TRAIN, parts[TRAIN], table.train, seed)[: table.limit]
    sealed = _in_random_order(SEALED, parts[SEALED], table.sealed, seed) if table.sealed else ()
    seeds = _checked_seeds(parts[SEEDS], table.seeds) if table.seeds else ()
    validation = train
    if table.validation:
        validation = _in_random_order(VALIDATION, parts[VALIDATION], table.validation, seed)[: table.limit]
    split = Split(train, validation, sealed, seeds)
    pairs = [(SEALED, TRAIN), (SEALED, SEEDS)]
    if table.validation:
        pairs += [(SEALED, VALIDATION), (VALIDATION, TRAIN), (VALIDATION, SEEDS)]
    for name, other in pairs:
        _refuse_overlap(table, split, name, other)
    return split


def read_parts(table: DataTable) -> dict[str, list[Row]]:
    """Read each data file once, and return the rows of each part for which [data] names a file, in the file's order.

    Raises:
        DataError: A file cannot be used, or a row has an unknown split, or a split for which [data] names another file
            or none.
    """
    paths = _paths(table)
    files = {path: read_rows(path) for path in dict.fromkeys(paths.values())}
    for path, rows in files.items():
        _refuse_unused_rows(path, rows, {part for part, one in paths.items() if one.resolve() == path.resolve()})
        _refuse_unknown_splits(path, rows)
    return {part: [row for row in files[path] if row.split in (None, part)] for part, path in paths.items()}


def _in_random_order(part: str, rows: Sequence[Row], path: Path, seed: int) -> tuple[Row, ...]:
    if len(rows) < MIN_ROWS:
        raise DataError(f"{path} has too few rows for {part} ({len(rows)}). At least {MIN_ROWS} are needed.")
    shuffled = list(rows)
    random.Random(f"{seed}:{part}").shuffle(shuffled)  # noqa: S311 - an order, not security
    return tuple(shuffled)


def _checked_seeds(rows: Sequence[Row], path: Path) -> tuple[Row, ...]:
    """Return the seeds. Raises DataError if there are none, or if one has no reference."""
    if not rows:
        raise DataError(
            f"{path} contains no seeds. Write rows with a query and a reference, or remove seeds from [data]."
        )
    reasons = [
        f"{path.with_name(row.name)}: a seed needs a reference, which is its answer"
        for row in rows
        if not row.reference
    ]
    if reasons:
        raise DataError(first_reasons(reasons))
    return tuple(rows)


def _refuse_unknown_splits(path: Path, rows: Sequence[Row]) -> None:
    unknown = [
        f'{path.with_name(row.name)}: "split" must be one of {", ".join(SPLITS)}, not {quoted(row.split)}'
        for row in rows
        if row.split is not None and row.split not in SPLITS
    ]
    if unknown:
        raise DataError(first_reasons(unknown))


def _refuse_unused_rows(path: Path, rows: Sequence[Row], used: Collection[str]) -> None:
    """Raise DataError if a row has a split for which [data] names another file or none: no part would use this row."""
    unused = [row for row in rows if row.split in SPLITS and row.split not in used]
    if unused:
        first, count = unused[0], counted(len(unused), "row")
        raise DataError(
            f'{path}: no part uses {count}, such as {first.name}. Its "split" is {first.split}, '
            f"but [data] {first.split} does not name this file. Name the file there, or take these rows out."
        )


def _paths(table: DataTable) -> dict[str, Path]:
    """Return the file of each part for which [data] names one."""
    named = zip(SPLITS, (table.train, table.validation, table.sealed, table.seeds), strict=True)
    return {part: path for part, path in named if path}


def _refuse_overlap(table: DataTable, split: Split, name: str, other: str) -> None:
    """Raise DataError if two parts share a query. The message depends on why they share it."""
    known = {normalized(row.query) for row in split.parts[other]}
    shared = [row for row in split.parts[name] if normalized(row.query) in known]
    if not shared:
        return
    advice, paths = "Take them out of one of the two.", _paths(table)
    if paths[name].resolve() == paths[other].resolve() and any(row.split is None for row in shared):
        advice = f'[data] names {paths[name]} for both. Give each of its rows a "split", such as "split": "{name}".'
    raise DataError(
        f"{name} and {other} share {counted(len(shared), 'query')}, so a score would prove nothing. {advice}"
    )


def normalized(query: str) -> str:
    """Return the query in lower case, with one space for each sequence of punctuation and white space."""
    return _NOT_WORDS.sub(" ", query.casefold()).strip()
