"""Writes a harvest to files that a person can read, and reads the files again to continue a review.

The folder holds `report.txt`, `candidates.jsonl`, `rows.jsonl`, `preferences.jsonl`, and `harvest.json`, which is
written last: a folder without it holds no whole harvest. Only the user who ran the command can read it.
"""

import fcntl
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import orjson

from index.atomic_file import replace_file
from index.types import Example
from optimizer.core.errors import DataError
from optimizer.harvest.harvest import CandidateExample, DislikedRow
from optimizer.harvest.report import report_lines
from optimizer.harvest.run import HarvestResult, HarvestSettings

REPORT, CANDIDATES, ROWS, PREFERENCES, EXAMPLES = (
    "report.txt",
    "candidates.jsonl",
    "rows.jsonl",
    "preferences.jsonl",
    "examples.jsonl",
)
SUMMARY: Final = "harvest.json"
_FOLDER_MODE: Final = 0o700
FILE_MODE: Final = 0o600


@contextmanager
def only_user_of(folder: Path) -> Iterator[None]:
    """Lock a folder against other processes, such as a second review. Create the folder if it does not exist.

    Raises:
        DataError: Another process works on the folder, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=_FOLDER_MODE)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror}") from None
    try:
        _lock(lock, folder)
        yield
    finally:
        os.close(lock)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise DataError(
            f"{folder}: another harvest works on this folder. Wait for it, or name another --out."
        ) from None


def write_harvest(folder: Path, result: HarvestResult, settings: HarvestSettings, source: Mapping[str, Any]) -> None:
    """Write a harvest.

    Args:
        folder: The folder, which is created.
        result: The harvest.
        settings: The settings of the harvest.
        source: What identifies the harvest. A later command with another source does not continue this harvest.

    Raises:
        DataError: The folder cannot be written.
    """
    harvest = result.harvest
    report = "\n".join(report_lines(result, settings)) + "\n"
    summary = {
        "source": source,
        "read": result.read,
        "unused": result.unused,
        "ignored": result.ignored,
        "left_out": harvest.left_out,
        "rows_left_out": harvest.rows_left_out,
        "replaced": harvest.replaced,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=_FOLDER_MODE)
        replace_file(folder / REPORT, [report.encode()])
        _write_lines(folder / CANDIDATES, map(_candidate_json, harvest.examples))
        _write_lines(folder / ROWS, map(_row_json, harvest.rows))
        _write_lines(folder / PREFERENCES, harvest.preferences.as_json)
        replace_file(folder / SUMMARY, [orjson.dumps(summary, option=orjson.OPT_INDENT_2)])
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror}") from None


def harvest_source(folder: Path) -> Mapping[str, Any] | None:
    """Return what identifies the harvest in a folder. None if the folder holds no whole harvest."""
    try:
        found = orjson.loads((folder / SUMMARY).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, orjson.JSONDecodeError):
        raise DataError(f"{folder / SUMMARY} cannot be read. Name another --out.") from None
    source = found.get("source") if isinstance(found, dict) else None
    return source if isinstance(source, dict) else {}


def read_candidates(folder: Path) -> Sequence[CandidateExample]:
    """Read the candidate examples of a folder. Raises DataError if the file is damaged."""
    try:
        lines = (folder / CANDIDATES).read_bytes().splitlines()
        return [_candidate(orjson.loads(line)) for line in lines]
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
        raise DataError(f"{folder / CANDIDATES} cannot be read. Name another --out.") from None


def write_examples(folder: Path, examples: Sequence[Example]) -> None:
    """Write examples.jsonl, which `drpo-index build --examples` reads. Raises DataError."""
    rows = [{"query": one.query, "response": one.response, "tags": list(one.tags)} for one in examples]
    try:
        _write_lines(folder / EXAMPLES, rows)
    except OSError as error:
        raise DataError(f"{folder / EXAMPLES} cannot be written: {error.strerror}") from None


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    replace_file(path, (orjson.dumps(row) + b"\n" for row in rows))


def _candidate_json(candidate: CandidateExample) -> Mapping[str, Any]:
    example = candidate.example
    return {
        "id": example.id,
        "query": example.query,
        "response": example.response,
        "tags": list(example.tags),
        "likes": candidate.likes,
        "dislikes": candidate.dislikes,
        "cautions": list(candidate.cautions),
    }


def _candidate(fields: Mapping[str, Any]) -> CandidateExample:
    example = Example(fields["id"], fields["query"], fields["response"], tags=tuple(fields["tags"]))
    return CandidateExample(example, fields["likes"], fields["dislikes"], tuple(fields["cautions"]))


def _row_json(found: DislikedRow) -> Mapping[str, Any]:
    """Return a row of a data set. The keys after `tag` are notes, which the reader of data sets ignores."""
    row = found.row
    history = [{"role": turn.role, "content": turn.text} for turn in row.history]
    notes = {
        "disliked_answer": found.answer,
        "comments": list(found.comments),
        "likes": found.likes,
        "dislikes": found.dislikes,
    }
    return {"query": row.query, **({"history": history} if history else {}), "tag": row.kind, **notes}
