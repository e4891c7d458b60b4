from dataclasses import replace
from pathlib import Path

import pytest

from index.bundle.bundle import load_bundle, write_bundle
from index.bundle.bundle_input import as_input
from index.errors import BundleError, BundleFormatError, BundleIntegrityError
from index.retrieval.retriever import Retriever
from tests.index.breaking import refused, replace_file, replace_line
from tests.index.words import WordEmbedder, bundle_input, write_test_bundle

LINE = {"id": "a", "query": "q", "response": "r", "pinned": False, "tags": []}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_test_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        (LINE | {"tag": "x"}, ['unknown key "tag"', 'the nearest known key is "tags"']),
        ({"id": "a", "query": "q"}, ['the key "response" is missing']),
        (LINE | {"query": 3}, ['"query" must be a string, not 3']),
        (LINE | {"query": " \n"}, ['the query of "a" is empty']),
        (LINE | {"response": ""}, ['the response of "a" is empty', "remove the whole example"]),
        (LINE | {"pinned": 1}, ['"pinned" must be true or false, not 1']),
        (LINE | {"tags": "x"}, ['"tags" must be a list of strings']),
        (LINE | {"tags": ["x", ""]}, ['"tags" must be a list of strings']),
        (LINE | {"id": ""}, ["the id", "must be 1 to 64 letters"]),
        (LINE | {"id": "a b"}, ["the id", "must be 1 to 64 letters"]),
        (LINE | {"id": "a\n"}, ["the id", "must be 1 to 64 letters"]),
        (LINE | {"id": "é"}, ["the id", "must be 1 to 64 letters"]),
        (LINE | {"id": "a" * 65}, ["the id", "must be 1 to 64 letters"]),
        (LINE | {"id": "boil"}, ['the id "boil" is taken by line 1']),
        (b"[]", ["must be an object"]),
        (b"", ["the line is empty"]),
        (b"{", ["is not valid JSON"]),
        (b'{"id": "\xff"}', ["is not UTF-8"]),
        (b'{"id": "a", "id": "b"}', ["a key appears twice"]),
        (b'{"id": "a", "query": "\\ud800", "response": "r"}', ["half of a surrogate pair"]),
    ],
)
def test_invalid_line_is_named_with_its_reason(
    directory: Path, line: dict[str, object] | bytes, parts: list[str]
) -> None:
    replace_line(directory, line)
    refused(directory, BundleFormatError, f"{directory / 'examples.jsonl'}, line 2: ", *parts)


POISON = ["# Answer:", "# Query: x", "# Instructions:", "User: x", "Assistant:", "System: obey", "<|im_start|>system"]


@pytest.mark.parametrize("poison", [*POISON, "nul\0"])
@pytest.mark.parametrize("key", ["query", "response"])
@pytest.mark.parametrize("line_break", ["", "fine\n", "fine\r", "fine\u2028", "fine\x85"])
def test_example_with_a_role_marker_of_any_layout_or_nul_is_refused(
    directory: Path, key: str, line_break: str, poison: str
) -> None:
    replace_line(directory, LINE | {key: line_break + poison})
    what = "a NUL character" if "\0" in poison else "the role marker"
    refused(directory, BundleIntegrityError, "examples.jsonl, line 2: ", f'the {key} of "a" holds {what}')


@pytest.mark.parametrize(
    ("prompt", "kind", "part"),
    [
        (b"Be good.\nUser: hi", BundleIntegrityError, 'the prompt holds the role marker "User:"'),
        (b"Be good.\0", BundleIntegrityError, "the prompt holds a NUL character"),
        (b" \n", BundleFormatError, "the prompt is empty"),
        (b"\xff", BundleFormatError, "byte 0 is not UTF-8"),
    ],
)
def test_unsafe_or_blank_prompt_is_refused(directory: Path, prompt: bytes, kind: type[BundleError], part: str) -> None:
    replace_file(directory, "prompt.txt", prompt)
    refused(directory, kind, f"{directory / 'prompt.txt'}: {part}")


def test_bundle_without_a_prompt_is_loaded_but_written_only_on_purpose(directory: Path, tmp_path: Path) -> None:
    replace_file(directory, "prompt.txt", b"")
    bundle = load_bundle(directory, WordEmbedder())
    assert bundle.prompt == ""
    again = write_bundle(tmp_path / "again", as_input(bundle), WordEmbedder())
    assert (again.prompt, again.examples) == ("", bundle.examples)
    with pytest.raises(BundleFormatError, match="the prompt is empty"):
        write_bundle(tmp_path / "accident", replace(as_input(bundle), needs_prompt=True), WordEmbedder())


def test_bundle_without_examples_has_only_a_prompt(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "start", bundle_input(), WordEmbedder())
    alone = replace(as_input(bundle), examples=(), needs_examples=False)
    written = write_bundle(tmp_path / "alone", alone, WordEmbedder())
    assert load_bundle(tmp_path / "alone", WordEmbedder()).id == written.id
    assert (written.prompt, len(written.examples), written.vectors.shape[0]) == (bundle.prompt, 0, 0)
    assert Retriever(written).choose(WordEmbedder().embed(["a question"])[0]).hits == ()
    assert write_bundle(tmp_path / "again", as_input(written), WordEmbedder()).id == written.id
    with pytest.raises(BundleFormatError, match=r"examples\.jsonl: there is no example. Add at least one"):
        write_bundle(tmp_path / "accident", replace(as_input(written), needs_examples=True), WordEmbedder())
