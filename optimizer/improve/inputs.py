"""Makes the inputs of the run: rows.jsonl, pool.jsonl, preferences.jsonl and run.toml, in one folder.

run.toml is the user's file, with the rows, the examples and the preference pairs of the harvest, and with the current
bundle as the start. If the user has no run.toml, it contains only these and what the flags say.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import orjson

from index.bundle.input_files import parse_toml
from index.bundle.shipped import DEFAULT_BUNDLE
from index.embedders.registry import LOCAL_EMBEDDERS, open_embedder
from index.errors import BundleFormatError
from index.types import Example, Manifest
from optimizer.core.config import parse_config
from optimizer.core.config_tables import FOUND, DataTable
from optimizer.core.errors import ConfigError, DataError
from optimizer.data.dataset import Row, read_rows
from optimizer.data.preferences import Preferences, read_preferences
from optimizer.data.split import SEALED, SEEDS, SPLITS, TRAIN, VALIDATION, read_parts
from optimizer.harvest.files import EXAMPLES, PREFERENCES, ROWS
from optimizer.improve.folder import ImproveFolder, write_file
from optimizer.improve.rows import Parts, divide, part_of, row_json
from optimizer.improve.toml_text import toml_text
from optimizer.rewards.registry import check_rewards
from optimizer.stages.proposers.example_pool import read_pool
from optimizer.stages.run import RUN_FILE

DEFAULT_CALLS: Final = 5_000
"""The budget of calls if run.toml sets none."""
_DEFAULT_WEIGHTS: Final = {"rules": 0.25, "reference": 0.25, "taste": 0.5}
_ALPHA: Final = 0.05
"""The setting `alpha` of [search] if run.toml sets none. Feedback gives a few dozen rows, and only some of them show
the taste. With the usual value, a race often ends before these rows tell the candidates apart."""
POOL: Final = "pool.jsonl"
_FILES_OF_DATA: Final = (*SPLITS, "preferences")


@dataclass(frozen=True, slots=True)
class Start:
    """What an improvement begins with.

    Attributes:
        document: The tables of the user's run.toml, and the tables that flags set. The harvested rows and the current
            bundle are not in it.
        folder: The folder at which the relative paths of the document start.
        bundle: The current bundle: a path, or the name of a bundle of drpo.
        manifest: The manifest of the current bundle.
        name: The name of the new bundle.
    """

    document: Mapping[str, Any]
    folder: Path
    bundle: str
    manifest: Manifest
    name: str


def read_document(path: Path | None) -> dict[str, Any]:
    """Read a run.toml in which every table is optional. Without a file, return no tables. Raises ConfigError."""
    if path is None:
        return {}
    try:
        document = parse_toml(path.read_bytes(), str(path))
    except OSError as error:
        raise ConfigError(f"--config {path} cannot be read: {error.strerror}") from None
    except BundleFormatError as error:
        raise ConfigError(f"--config {error}") from None
    for name, table in document.items():
        if not isinstance(table, dict):
            raise ConfigError(f"--config {path}: {name} must be a table: [{name}]")
    return document


def check_start(start: Start) -> None:
    """Check the tables and the rows of the user, and the rewards, before anything is harvested.

    Raises:
        ConfigError: A table is wrong.
        DataError: A file of the user's rows cannot be used.
        EmbedderError: The embedder of the reward `reference` cannot be opened.
    """
    config = parse_config(run_document(start, has_validation=True, has_preferences=True), start.folder)
    check_rewards(config)
    if "reference" in config.reward.all_names:
        open_embedder(config.reward.embedder)
    if data := _own_data(start):
        read_parts(data)


def write_inputs(start: Start, folder: ImproveFolder) -> Parts:
    """Write the inputs of the run. run.toml is written last: without it, the inputs are not complete.

    Raises:
        ConfigError: A table of the user's run.toml is wrong.
        DataError: A file cannot be read or written, or there are too few rows.
    """
    data = _own_data(start)
    own = _own_rows(data) if data else ()
    accepted = _examples(folder.harvest / EXAMPLES)
    harvested = _preferences(folder.harvest / PREFERENCES, _sealed_comments(folder.harvest / ROWS), data)
    parts = divide(accepted, _rows(folder.harvest / ROWS), harvested, own)
    pool = _pool(start, parts.examples)
    _write_lines(folder.inputs / ROWS, [row_json(row) for row in parts.rows])
    _write_lines(folder.inputs / POOL, [_example_json(one) for one in pool])
    _write_lines(folder.inputs / PREFERENCES, parts.preferences.as_json)
    has_validation, has_seeds = VALIDATION in parts.counts, SEEDS in parts.counts
    has_preferences = bool(parts.preferences.as_json)
    document = run_document(start, has_validation=has_validation, has_preferences=has_preferences, seeds=has_seeds)
    check_rewards(parse_config(document, folder.inputs))
    write_file(folder.inputs / RUN_FILE, toml_text(document).encode())
    return parts


def run_document(start: Start, *, has_validation: bool, has_preferences: bool, seeds: bool = False) -> dict[str, Any]:
    """Return run.toml with the rows, the examples and the pairs of the harvest, and the current bundle as the start."""
    document = start.document
    kept = {key: value for key, value in document.get("data", {}).items() if key not in _FILES_OF_DATA}
    files = {TRAIN: ROWS, SEALED: ROWS}
    files |= {VALIDATION: ROWS} if has_validation else {}
    files |= {"preferences": PREFERENCES} if has_preferences else {}
    files |= {SEEDS: ROWS} if seeds else {}
    embedder = start.manifest.embedder.name
    bundle = {"name": start.name, "start": start.bundle}
    bundle |= {"embedder": embedder} if embedder in LOCAL_EMBEDDERS else {}
    return {
        **document,
        "data": files | kept,
        "reward": document.get("reward", {"weights": _weights(start, has_preferences=has_preferences)}),
        "budget": document.get("budget", {"calls": DEFAULT_CALLS}),
        "search": {"alpha": _ALPHA, **document.get("search", {})},
        "examples": {**document.get("examples", {}), "pool": POOL},
        "bundle": {**bundle, **document.get("bundle", {}), "start": start.bundle},
    }


def _weights(start: Start, *, has_preferences: bool) -> Mapping[str, float]:
    """Return the weights of the rewards if run.toml names none. Only rows of the user have references."""
    usable = {"rules": True, "reference": TRAIN in start.document.get("data", {}), "taste": has_preferences}
    return {name: weight for name, weight in _DEFAULT_WEIGHTS.items() if usable[name]}


def _own_data(start: Start) -> DataTable | None:
    """Return the table [data] of the user; None if the user has no rows."""
    table = start.document.get("data", {})
    if TRAIN not in table:
        if any(key in table for key in _FILES_OF_DATA):
            raise ConfigError("[data] train is missing. Name your training rows, or leave out the other files.")
        return None
    document = run_document(start, has_validation=False, has_preferences=False)
    document["data"] = table
    document["bundle"] = {**document["bundle"], "write": FOUND}  # sealed rows may come from the harvest alone
    return parse_config(document, start.folder).data


def _own_rows(data: DataTable) -> tuple[Row, ...]:
    return tuple(replace(row, split=part) for part, rows in read_parts(data).items() for row in rows)


def _rows(path: Path) -> Sequence[Row]:
    return read_rows(path) if path.stat().st_size else ()


def _sealed_comments(path: Path) -> set[str]:
    """Return the comments that users wrote only about answers to sealed questions."""
    comments: dict[bool, set[str]] = {True: set(), False: set()}
    for line in path.read_bytes().splitlines():
        row = orjson.loads(line)
        comments[part_of(row["query"]) == SEALED].update(row["comments"])
    return comments[True] - comments[False]


def _preferences(path: Path, left_out: Collection[str], data: DataTable | None) -> Preferences:
    """Return the harvested and the user's own preferences, without the harvested comments in `left_out`."""
    found, own = read_preferences(path), Preferences()
    if data and data.preferences:
        own = read_preferences(data.preferences)
    comments = (one for one in found.comments if one not in left_out)
    return Preferences((*found.pairs, *own.pairs), (*comments, *own.comments), (*found.ratings, *own.ratings))


def _examples(path: Path) -> Sequence[Example]:
    try:
        lines = [orjson.loads(line) for line in path.read_bytes().splitlines()]
        return [Example("", one["query"], one["response"], tags=tuple(one["tags"])) for one in lines]
    except (OSError, orjson.JSONDecodeError, KeyError):
        raise DataError(f"{path} cannot be read. Name a new folder with --out.") from None


def _pool(start: Start, liked: Sequence[Example]) -> Sequence[Example]:
    """Return the liked answers, and then the examples of the user's pool that answer other questions."""
    pool = start.document.get("examples", {}).get("pool", DEFAULT_BUNDLE)
    known = [one.query for one in liked]
    return (*liked, *read_pool(pool if pool == DEFAULT_BUNDLE else str(start.folder / pool), known))


def _example_json(example: Example) -> Mapping[str, Any]:
    return {"query": example.query, "response": example.response, "tags": list(example.tags)}


def _write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    write_file(path, b"".join(orjson.dumps(row) + b"\n" for row in rows))
