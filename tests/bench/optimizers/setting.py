"""What all optimizers share: rows, start, rewards, and the run.toml that says so."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from optimizer.data.dataset import COMPLY, GENERAL, REFUSE, Row
from proxy.backends.embedded.child_process import MODEL_NAME
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
_KINDS: Final = (COMPLY, REFUSE, GENERAL)
_SEARCH: Final = {
    "raced, prompt alone": 'propose = ["writer", "edits"]',
    "published": """
algorithm = "published"
depth = 20
deeper = 10
resample = true
words = 0
writer = { instructions = "published", temperature = 0.2, top_p = 0.95 }""",
}
"""The keys of [search] by optimizer. The recipe `drpo` would also set examples and layout, which are shared here."""


def draw(split: str, count: int = ROWS_OF_A_KIND) -> Sequence[dict[str, Any]]:
    """The first `count` rows of each kind in a split of references.jsonl, one kind after the other in turn."""
    rows = rows_of("references.jsonl", split)
    by_kind = [[row for row in rows if row["tag"] == kind][:count] for kind in _KINDS]
    return [row for several in zip(*by_kind, strict=True) for row in several]


def as_row(row: dict[str, Any]) -> Row:
    return Row(row["query"], row["tag"], row["reference"])


def write_run(
    folder: Path, url: str, rows: Sequence[dict[str, Any]], optimizer: str = "", seed: int = 0, start: str = ""
) -> Path:
    """Write run.toml and its rows into a folder, and return the path of run.toml. `start` is a bundle to begin with."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = ("query", "reference", "tag")
    lines = [json.dumps({name: row[name] for name in fields}) + "\n" for row in rows]
    (folder / ROWS_FILE).write_text("".join(lines), encoding="utf-8")
    path = folder / "run.toml"
    path.write_text(_run_toml(url, optimizer, seed) + (f'start = "{start}"' if start else _START), encoding="utf-8")
    return path


def _run_toml(url: str, optimizer: str, seed: int) -> str:
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
seed = {seed}
{_SEARCH.get(optimizer, "")}

[bundle]
name = "found"
write = "found"
"""
