"""Refuses to continue a run whose inputs changed after it began, and says what changed.

A resumed run works through all its stages again, and takes the replies that it has from the journal. With other rows or
settings, the journal would mix the results of two different runs. Hashes of all inputs are therefore written to the
journal when a run starts. Settings that change no result, such as budget, addresses and concurrency, may change.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from difflib import SequenceMatcher
from importlib import resources
from typing import Any, Final

import orjson

from optimizer.core.candidate import Candidate
from optimizer.core.config_tables import RunConfig
from optimizer.core.errors import ChangedInputsError
from optimizer.core.journal import STOPPED, Journal
from optimizer.data.dataset import Row
from optimizer.data.preferences import read_preferences
from optimizer.data.split import read_parts
from optimizer.rewards.function import module_file
from optimizer.stages.prompt_stage import proposer_names
from optimizer.stages.proposers.base import EXAMPLES
from optimizer.stages.proposers.example_pool import read_pool

INPUTS: Final = "inputs"
"""The name of the note with the hashes of the inputs."""
_MODEL_KEYS: Final = ("model", "kind")
"""The keys of [models.ROLE] that change the results of a run."""
_FREE_TABLES: Final = ("models", "budget")
_FREE_FILES: Final = (
    *("[data] train", "[data] validation", "[data] sealed", "[data] preferences"),
    *("[bundle] start", "[examples] pool"),
)
"""Keys that name files. The contents of the files are compared, and not their paths, so that the files may move."""
_FREE_KEYS: Final = ("[data] unusable", "[reward] trust", "[bundle] model")
_MAX_NAMED_LINES: Final = 10
Hashed = Mapping[str, Any]


async def check_inputs(config: RunConfig, baseline: Candidate, journal: Journal) -> None:
    """Compare the inputs with those in the journal. If the journal has none, write them to it.

    If the run stopped because too many rows could not be used, the user's reward functions may have changed since then.

    Raises:
        ChangedInputsError: An input changed. The message says what changed.
        JournalError: The journal cannot be written.
    """
    inputs = hash_inputs(config, baseline)
    notes = [event for event in journal.events if event.get("note") in (INPUTS, STOPPED)]
    earlier = next((event for event in reversed(notes) if event["note"] == INPUTS), None)
    if earlier is not None:
        is_after_a_stop = notes[-1]["note"] == STOPPED
        changes = [change for change in _changes(earlier, inputs) if not (is_after_a_stop and "[reward]" in change)]
        if changes:
            raise ChangedInputsError(
                f"the run cannot be resumed, because its inputs changed since it began: {'; '.join(changes)}. Undo the "
                "changes, or begin a new run with another --out"
            )
    await journal.note(INPUTS, **inputs)


def hash_inputs(config: RunConfig, baseline: Candidate) -> dict[str, Any]:
    """Return the inputs of a run as values that can be compared and written to the journal.

    Returns:
        A mapping with these keys. `rows` holds line and hash of each row, by part. `settings` holds the settings of
        run.toml that change results. `bundle` is the key of the starting bundle. `rewards` holds a hash of the file of
        each reward function. `templates` is a hash of the optimizer's own texts. `pool` is a hash of the pool of
        examples; it is empty if the search adds no examples. `preferences` is a hash of the pairs; it is empty if there
        are none.
    """
    return {
        "rows": {part: [[row.line, _row_hash(row)] for row in rows] for part, rows in read_parts(config.data).items()},
        "settings": orjson.loads(orjson.dumps(dict(_settings(config)), default=str)),
        "bundle": baseline.key,
        "rewards": dict(_reward_files(config)),
        "templates": _templates_hash(),
        "pool": _pool_hash(config),
        "preferences": _preferences_hash(config),
    }


def _row_hash(row: Row) -> str:
    history = [[message.role, message.text] for message in row.history]
    return hashlib.sha256(orjson.dumps([row.query, row.kind, row.reference, history, row.language])).hexdigest()[:12]


def _settings(config: RunConfig) -> Iterator[tuple[str, object]]:
    """Yield the name and the value of each setting that changes results."""
    for role, table in config.models.items():
        yield from ((f"[models.{role}] {key}", getattr(table, key)) for key in _MODEL_KEYS)
    for name, table in asdict(config).items():
        if name not in _FREE_TABLES:
            found = ((f"[{name}] {key}", value) for key, value in table.items())
            yield from ((key, value) for key, value in found if key not in (*_FREE_FILES, *_FREE_KEYS))


def _reward_files(config: RunConfig) -> Iterator[tuple[str, str]]:
    for name in sorted(config.reward.all_names):
        file = module_file(name) if ":" in name else None
        if file is not None:
            yield name, hashlib.sha256(file.read_bytes()).hexdigest()[:12]


def _pool_hash(config: RunConfig) -> str:
    if EXAMPLES not in proposer_names(config):
        return ""
    content = orjson.dumps([[one.id, one.query, one.response] for one in read_pool(config.examples.pool)])
    return hashlib.sha256(content).hexdigest()[:12]


def _preferences_hash(config: RunConfig) -> str:
    if config.data.preferences is None:
        return ""
    content = orjson.dumps(read_preferences(config.data.preferences).as_json)
    return hashlib.sha256(content).hexdigest()[:12]


def _templates_hash() -> str:
    files = sorted(resources.files("optimizer.templates").iterdir(), key=lambda file: file.name)
    texts = [file.read_bytes() for file in files if file.name.endswith((".txt", ".toml"))]
    return hashlib.sha256(b"\0".join(texts)).hexdigest()[:12]


def _changes(earlier: Hashed, inputs: Hashed) -> Iterator[str]:
    """Yield a description of each change. It names lines and settings, and contains no text of a row."""
    for part in dict.fromkeys((*earlier["rows"], *inputs["rows"])):
        yield from _row_changes(part, earlier["rows"].get(part, []), inputs["rows"].get(part, []))
    before, after = earlier["settings"], inputs["settings"]
    for key in dict.fromkeys((*before, *after)):
        if before.get(key) != after.get(key):
            yield f"{key} in run.toml was {_value_text(before.get(key))} and is {_value_text(after.get(key))}"
    if earlier["bundle"] != inputs["bundle"]:
        yield "the starting bundle is another one"
    for name in dict.fromkeys((*earlier["rewards"], *inputs["rewards"])):
        if earlier["rewards"].get(name) != inputs["rewards"].get(name):
            yield f"the file of [reward] {name} was edited"
    if earlier["templates"] != inputs["templates"]:
        yield "this version of drpo-optimizer has other templates"
    if earlier.get("pool", "") != inputs["pool"]:
        yield "the file of [examples] pool was edited"
    if earlier.get("preferences", "") != inputs["preferences"]:
        yield "the file of [data] preferences was edited"


def _row_changes(part: str, before: Sequence[Sequence[Any]], after: Sequence[Sequence[Any]]) -> Iterator[str]:
    old, new = [row[1] for row in before], [row[1] for row in after]
    edited: list[int] = []
    added: list[int] = []
    removed: list[int] = []
    for _, old_start, old_end, new_start, new_end in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if old[old_start:old_end] == new[new_start:new_end]:
            continue
        shared = min(old_end - old_start, new_end - new_start)
        edited += [row[0] for row in after[new_start : new_start + shared]]
        added += [row[0] for row in after[new_start + shared : new_end]]
        removed += [row[0] for row in before[old_start + shared : old_end]]
    for what, lines in (("edited", edited), ("added", added), ("removed", removed)):
        if lines:
            of = " of the earlier file" if lines is removed else ""
            yield f"rows of {part}: {len(lines)} {what} ({_lines_text(lines)}{of})"


def _lines_text(lines: Sequence[int]) -> str:
    named = ", ".join(str(line) for line in lines[:_MAX_NAMED_LINES])
    more = f" and {len(lines) - _MAX_NAMED_LINES} more" if len(lines) > _MAX_NAMED_LINES else ""
    return f"line {named}{more}"


def _value_text(value: object) -> str:
    return "not set" if value is None else orjson.dumps(value).decode()
