"""Reads the measurement data, which is not part of the project: the folder, and rows by split.

The folder is $DRPO_DATA, or shared/data beside the repository. Searches and choices of settings use `train` rows. Tests
and reported figures use `validation` rows. `sealed` rows serve the final evaluation, and are refused here unless
DRPO_SEALED=1 is set. This module does not depend on models or servers.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Final

import pytest

from optimizer.data.dataset import COMPLY, GENERAL, REFUSE, Row

DATA: Final = Path(os.environ.get("DRPO_DATA") or Path(__file__).parents[2] / "shared" / "data")
TRAIN: Final = "train"
VALIDATION: Final = "validation"
SEALED: Final = "sealed"

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the measurement data is not at {DATA}: set DRPO_DATA")


def read_rows(name: str) -> list[dict[str, Any]]:
    """Return all rows of a JSONL file."""
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


def rows_of(name: str, split: str) -> list[dict[str, Any]]:
    """Return the rows of one split.

    Raises:
        PermissionError: `split` is sealed and DRPO_SEALED is not 1.
    """
    if split == SEALED and not reads_sealed():
        raise PermissionError("sealed rows are for a final evaluation: set DRPO_SEALED=1 to read them")
    return [row for row in read_rows(name) if row["split"] == split]


def reads_sealed() -> bool:
    """Return whether DRPO_SEALED allows sealed rows."""
    return os.environ.get("DRPO_SEALED") == "1"


def general_rows(split: str) -> tuple[Row, ...]:
    """Return the general rows of references.jsonl."""
    rows = (row for row in rows_of("references.jsonl", split) if row["tag"] == GENERAL)
    return tuple(Row(row["query"], GENERAL, row["reference"]) for row in rows)


def sensitive_rows(split: str) -> tuple[Row, ...]:
    """Return the rows of xstest_prompts.jsonl: prompts that are unsafe or only sound unsafe."""
    return tuple(Row(row["query"], COMPLY if row["safe"] else REFUSE) for row in rows_of("xstest_prompts.jsonl", split))


def is_for_development(query: str) -> bool:
    """Return whether a row without a field `split` may be used for development: the SHA-256 of its query is even.

    The rows of llmbar and of judged_preferences have no such field.
    """
    return int(hashlib.sha256(query.encode()).hexdigest(), 16) % 2 == 0
