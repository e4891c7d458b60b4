"""Defines what all optimizers share (rows, starting bundle and rewards), and writes it as a run.toml."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from optimizer.data.dataset import COMPLY, GENERAL, REFUSE, Row
from proxy.backends.embedded.model_file import MODEL_NAME
from tests.measurement import rows_of

OPTIMIZERS: Final = ("raced", "raced, prompt alone", "published", "gepa", "capo", "random edits")
ROWS_OF_A_KIND: Final = 20
MAX_REPLIES: Final = 20
START: Final = "You are a helpful assistant."
_START: Final = f"""prompt = "{START}"
retrieval = {{ policy = "nearest", k = 0, max_injected_tokens = 700 }}
sampling = {{ temperature = 0, max_tokens = 128, frequency_penalty = 0.6 }}
"""
ROWS_FILE: Final = "rows.jsonl"
_RACES: Final = 12
"""A race of `raced` has at most the run's answers divided by this number of rows, so that a run has several levels."""
_KINDS: Final = (COMPLY, REFUSE, GENERAL)
_PUBLISHED: Final = """algorithm = "published"
depth = 20
deeper = 10
resample = true
keep_above = 4.5
words = 0
shared_words = 0
repeated = 1.0
writer = { instructions = "published", temperature = 0.2, top_p = 0.95 }
"""
"""The keys of [search] in the recipe `drpo`. The recipe would also set examples and layout, which are shared here."""


def search_keys(optimizer: str, seed: int, answers: int) -> str:
    """Return the keys of [search] for an optimizer."""
    keys = f"seed = {seed}\n"
    if optimizer == "published":
        return keys + _PUBLISHED
    keys += f"queries = {max(10, answers // _RACES)}\n"
    return keys + ('propose = ["writer", "edits"]\n' if optimizer == "raced, prompt alone" else "")


def draw(split: str, count: int = ROWS_OF_A_KIND) -> Sequence[dict[str, Any]]:
    """Return the first `count` rows of each kind in a split of references.jsonl. The kinds alternate."""
    rows = rows_of("references.jsonl", split)
    by_kind = [[row for row in rows if row["tag"] == kind][:count] for kind in _KINDS]
    return [row for several in zip(*by_kind, strict=True) for row in several]


def as_row(row: dict[str, Any]) -> Row:
    return Row(row["query"], row["tag"], row["reference"])


def write_run(folder: Path, url: str, rows: Sequence[dict[str, Any]], search: str = "", start: str = "") -> Path:
    """Write run.toml and its rows into a folder, and return the path of run.toml.

    Args:
        folder: The folder.
        url: The URL of the relay.
        rows: The rows.
        search: The keys of [search].
        start: The directory of the bundle to begin with. If empty, the run begins with the shared starting bundle.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fields = ("query", "reference", "tag")
    lines = [json.dumps({name: row[name] for name in fields}) + "\n" for row in rows]
    (folder / ROWS_FILE).write_text("".join(lines), encoding="utf-8")
    path = folder / "run.toml"
    bundle = f'start = "{start}"\n' if start else _START
    path.write_text(_run_toml(url, search) + bundle, encoding="utf-8")
    return path


def _run_toml(url: str, search: str) -> str:
    return f"""[models.task]
base_url = "{url}/task/v1"
model = "{MODEL_NAME}"
kind = "completion"
timeout = 3600

[models.optimizer]
base_url = "{url}/writer/v1"
model = "{MODEL_NAME}"
concurrency = 1
timeout = 3600

[models.judge]  # the published algorithm asks for the table, and these rewards never for the model
base_url = "{url}/writer/v1"
model = "{MODEL_NAME}"

[data]
train = "{ROWS_FILE}"

[reward]
weights = {{ rules = 0.5, reference = 0.5 }}

[search]
{search}

[bundle]
name = "found"
write = "found"
"""
