"""Makes the inputs of tests of the command improve: stores with feedback, a current bundle and a run.toml."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from optimizer.improve.rows import part_of
from proxy.experiments.store.dsn import dsn_of
from tests.optimizer.harvest.recorded import Recording
from tests.optimizer.scripted_models import write_run

LIKED = ("tea", "rum", "bees", "honey", "Bach", "rain", "iron", "chess")
SETTINGS = """
[reward]
weights = { judge = 1.0 }
trust = 0
[search]
depth = 3
first = 4
queries = 16
propose = ["writer"]
[tune]
k = [0, 1]
order = []
"""


def disliked_queries(count: int) -> Sequence[str]:
    return [f"Why is page {number} of the old book torn?" for number in range(count)]


def write_store(
    folder: Path,
    *,
    disliked: int = 60,
    logs_content: bool = True,
    commented: Mapping[str, str] | None = None,
    comments: Mapping[str, str] | None = None,
) -> str:
    """Write a store with liked and disliked answers, and return the value of --store.

    Args:
        folder: Where the store is written.
        disliked: Number of disliked answers. If 0, the store is empty.
        logs_content: Whether it holds texts.
        comments: Comments on answers, by the question.
        commented: Comments on a disliked answer to the question of a liked one, by the subject of the question.
    """
    recording = Recording(logs_content=logs_content)
    for subject in LIKED if disliked else ():
        recording.add(f"liker of {subject}", f"What is {subject}?", f"Something about {subject}.", vote=1.0)
    for number, query in enumerate(disliked_queries(disliked)):
        recording.add(f"user {number}", query, "Dunno.", vote=0.0)
    for subject, comment in (commented or {}).items():
        recording.add(f"critic of {subject}", f"What is {subject}?", "Dunno.", vote=0.0, comment=comment)
    for query, comment in (comments or {}).items():
        recording.add("critic", query, "Dunno.", comment=comment)
    recording.write(dsn_of(f"sqlite:{folder}/s.sqlite3"))
    return f"sqlite:{folder}/s.sqlite3"


def write_bundle_and_config(folder: Path, base_url: str, more: str = "") -> list[str]:
    """Write the current bundle and run.toml, and return the flags that name them."""
    write_run(folder, base_url)
    models = [
        f'[models.{role}]\nbase_url = "{base_url}"\nmodel = "{role}"\nkind = "chat"' for role in ("optimizer", "judge")
    ]
    (folder / "improve.toml").write_text("\n".join([*models, SETTINGS, more]))
    flags = ["--bundle", str(folder / "start"), "--config", str(folder / "improve.toml"), "--base-url", base_url]
    return [*flags, "--model", "task", "--kind", "chat"]


def queries_of(path: Path, part: str) -> list[str]:
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return [row["query"] for row in rows if row["split"] == part]


def expected_part(query: str) -> str:
    """Return the part of the rows to which the question of a disliked answer belongs."""
    return part_of(query) or "train"
