"""The measurement data: where it is, and its rows by split. The data is not part of the project.

The folder is $DRPO_DATA, or shared/data beside the checkout. `train` rows serve searches and choices of settings,
`validation` rows the assertions of tests and reported figures. `sealed` rows are read once, in a final evaluation:
they are refused here unless DRPO_SEALED=1 asks for them. This module knows no model and no server.
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
    """All rows of a JSONL file of the data."""
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


def rows_of(name: str, split: str) -> list[dict[str, Any]]:
    """The rows of one split.

    Raises:
        PermissionError: `split` is sealed and DRPO_SEALED is not 1.
    """
    if split == SEALED and not reads_sealed():
        raise PermissionError("sealed rows are for a final evaluation: set DRPO_SEALED=1 to read them")
    return [row for row in read_rows(name) if row["split"] == split]


def reads_sealed() -> bool:
    """Whether this process was told to read sealed rows."""
    return os.environ.get("DRPO_SEALED") == "1"


def general_rows(split: str) -> tuple[Row, ...]:
    """references.jsonl, tag general."""
    rows = (row for row in rows_of("references.jsonl", split) if row["tag"] == GENERAL)
    return tuple(Row(row["query"], GENERAL, row["reference"]) for row in rows)


def sensitive_rows(split: str) -> tuple[Row, ...]:
    """xstest_prompts.jsonl: prompts that are, or only sound, unsafe."""
    return tuple(Row(row["query"], COMPLY if row["safe"] else REFUSE) for row in rows_of("xstest_prompts.jsonl", split))


def is_for_development(query: str) -> bool:
    """The rule for files without a split (llmbar, judged_preferences): an even SHA-256 of the query."""
    return int(hashlib.sha256(query.encode()).hexdigest(), 16) % 2 == 0
