"""The questions of the users: short general questions of the train rows of $DRPO_DATA. No sealed row is read."""

import json
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from optimizer.data.split import normalized

_FILES: Final = ("references.jsonl", "drpo_train_queries.jsonl")
_MAX_LENGTH: Final = 160  # characters


def read_questions(count: int, seed: str) -> Sequence[str]:
    """Return the questions, always in the same order for a seed."""
    found: dict[str, str] = {}
    for name in _FILES:
        for line in (Path(os.environ["DRPO_DATA"]) / name).read_bytes().splitlines():
            row = json.loads(line)
            if row["split"] == "train" and row.get("tag", "general") == "general" and len(row["query"]) <= _MAX_LENGTH:
                found.setdefault(normalized(row["query"]), row["query"].strip())
    questions = sorted(found.values())
    random.Random(seed).shuffle(questions)
    return questions[:count]
