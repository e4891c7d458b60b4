"""Tests that no text of a shipped bundle shares eight consecutive words with the measurement data.

Answers of the measurement data may only be used to score, and are never shipped. The tests read all rows, including
sealed rows, but show none of them: a failure names only the file and the example.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from index.bundle.bundle import read_bundle
from index.bundle.shipped import SHIPPED
from index.measures.word_sequences import word_sequences
from tests.measurement import DATA, needs_data

LENGTH: Final = 8
BUNDLES: Final = sorted({path.parent for path in SHIPPED.glob("**/manifest.json")})
MEASURED: Final = (
    *("references.jsonl", "xstest_prompts.jsonl", "drpo_train_queries.jsonl", "llmbar.jsonl"),
    *("drpo", "urial"),
)


def texts_of(path: Path) -> Iterator[str]:
    """Yield the texts of a file, or of each file of a folder."""
    if path.is_dir():
        for file in sorted(path.iterdir()):
            yield from texts_of(file)
    elif path.suffix == ".jsonl":
        for line in path.read_text(encoding="utf-8").splitlines():
            yield from strings(json.loads(line))
    elif path.suffix == ".json":
        yield from strings(json.loads(path.read_text(encoding="utf-8")))
    elif path.suffix == ".txt":
        yield path.read_text(encoding="utf-8")


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from (key, *strings(one))
    elif isinstance(value, list):
        for one in value:
            yield from strings(one)


@pytest.fixture(scope="module")
def measured() -> Mapping[tuple[str, ...], str]:
    """Return the name of the file by each sequence of eight words in the measurement data."""
    return {one: name for name in MEASURED for text in texts_of(DATA / name) for one in word_sequences(text, LENGTH)}


@needs_data
@pytest.mark.parametrize("directory", BUNDLES, ids=lambda path: path.name)
def test_no_shipped_text_is_one_of_the_measurement_data(
    directory: Path, measured: Mapping[tuple[str, ...], str]
) -> None:
    bundle = read_bundle(directory)
    texts = {"the prompt": bundle.prompt} | {f"the prompt of set {one.name}": one.prompt or "" for one in bundle.sets}
    for example in bundle.examples:
        texts |= {f"the query of {example.id}": example.query, f"the answer of {example.id}": example.response}
    shared = {
        f"{what} shares words with {measured[one]}"
        for what, text in texts.items()
        for one in word_sequences(text, LENGTH) & measured.keys()
    }
    assert sorted(shared) == []


@needs_data
@pytest.mark.parametrize("directory", BUNDLES, ids=lambda path: path.name)
def test_no_record_of_how_a_bundle_was_made_has_text_of_the_measurement_data(
    directory: Path, measured: Mapping[tuple[str, ...], str]
) -> None:
    records = [path for name in ("provenance.json", "journal.json") if (path := directory / name).exists()]
    shared = {
        f"{path.name} shares words with {measured[one]}"
        for path in records
        for text in texts_of(path)
        for one in word_sequences(text, LENGTH) & measured.keys()
    }
    assert sorted(shared) == []


@needs_data
def test_copied_text_is_found(measured: Mapping[tuple[str, ...], str]) -> None:
    line = (DATA / "drpo_train_queries.jsonl").read_text(encoding="utf-8").splitlines()[1]
    assert word_sequences(json.loads(line)["query"], LENGTH) & measured.keys()
