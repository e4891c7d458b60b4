from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from index.bundle.bundle import read_bundle
from index.errors import BundleError, BundleFormatError
from tests.index.breaking import edit_manifest, refused
from tests.index.words import write_test_bundle


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_test_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


def test_truncated_or_garbled_manifest_is_refused(directory: Path) -> None:
    data = (directory / "manifest.json").read_bytes()
    for broken in (data[:-3], b"", b"\xff", b"[" * 100_000, b'{"k": NaN}', b'{"k": 1e999}', b'{"k": 1, "k": 2}'):
        (directory / "manifest.json").write_bytes(broken)
        refused(directory, BundleFormatError, f"{directory / 'manifest.json'}: ")


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        ("NaN", "NaN is not a JSON number. Write"),
        ("-Infinity", "-Infinity is not"),
        ("1e999", "a number is too large"),
    ],
)
def test_nan_and_infinity_are_refused_in_free_form_values(directory: Path, number: str, reason: str) -> None:
    manifest = (directory / "manifest.json").read_text()
    (directory / "manifest.json").write_text(manifest.replace('"provenance": {', f'"provenance": {{"x": {number},'))
    refused(directory, BundleFormatError, f"{directory / 'manifest.json'}: is not valid JSON: {reason}")


def test_flipped_byte_of_the_manifest_is_refused_or_changes_the_bundle_id(directory: Path) -> None:
    data, made = (directory / "manifest.json").read_bytes(), read_bundle(directory).id
    for position in range(len(data)):
        (directory / "manifest.json").write_bytes(bytes([*data[:position], data[position] ^ 1, *data[position + 1 :]]))
        try:
            assert read_bundle(directory).id != made
        except BundleError as error:
            assert "\n" not in str(error)  # noqa: PT017 (either outcome is right)


def test_too_large_manifest_is_not_read(directory: Path) -> None:
    with (directory / "manifest.json").open("ab") as file:
        file.truncate(2**20 + 1)
    refused(directory, BundleFormatError, "larger than 1,048,576 bytes")


@pytest.mark.parametrize(
    ("edit", "parts"),
    [
        (lambda m: m.update(format=2), ["the format is not 1", "Update"]),
        (lambda m: m.update(format=True), ["the format is not 1"]),
        (lambda m: m.update(format="1"), ["the format is not 1"]),
        (lambda m: m.pop("format"), ['the key "format" is missing']),
        (lambda m: m.update(layuot="x"), ['unknown key "layuot"', 'nearest known key is "layout"']),
        (lambda m: m.pop("provenance"), ['the key "provenance" is missing']),
        (lambda m: m.update(name=""), ['"name" must be a string of one line']),
        (lambda m: m.update(model="a\nb"), ['"model" must be a string of one line']),
        (
            lambda m: m.update(layout="xml"),
            ['"layout" must be one of "query-answer", "user-assistant", "drpo", "urial", not "xml"'],
        ),
        (lambda m: m.update(retrieval=[]), ['"retrieval" must be an object']),
        (lambda m: m.update(provenance="me"), ['"provenance" must be an object']),
        (lambda m: m["retrieval"].update(kk=3), ["retrieval", 'unknown key "kk"', 'nearest known key is "k"']),
        (lambda m: m["retrieval"].update(k=-1), ['"k" must be an integer from 0 to 1000, not -1']),
        (lambda m: m["retrieval"].update(k=True), ['"k" must be an integer']),
        (lambda m: m["retrieval"].update(k=2.0), ['"k" must be an integer']),
        (
            lambda m: m["retrieval"].update(minimum_similarity=1.5),
            ['"minimum_similarity" must be a number from -1 to 1'],
        ),
        (lambda m: m["retrieval"].update(duplicate_similarity="1"), ['"duplicate_similarity" must be a number']),
        (lambda m: m["retrieval"].update(order="random"), ['"order" must be one of']),
        (lambda m: m["retrieval"].update(max_injected_tokens=0), ['"max_injected_tokens" must be an integer from 1']),
        (lambda m: m["retrieval"].update(policy="cached"), ['"policy" must be one of "nearest", "set"']),
        (lambda m: m["retrieval"].pop("policy"), ['the key "policy" is missing']),
        (lambda m: m["retrieval"].update(order="set"), ['"order" must be one of "similar_last", "similar_first"']),
        (lambda m: m["retrieval"].update(voters=0), ['"voters" must be an integer from 1 to 1000']),
        (lambda m: m["retrieval"].update(max_nearest_tokens=0), ['"max_nearest_tokens" must be an integer from 1']),
        (lambda m: m["retrieval"].update(similarity_floor=1.1), ['"similarity_floor" must be a number from -1 to 1']),
        (lambda m: m["retrieval"].update(similarity_floor=None), ['"similarity_floor" must be a number']),
        (lambda m: m["retrieval"].update(floor=0.1), ['unknown key "floor"', '"similarity_floor"']),
        (lambda m: m["retrieval"].update(neutral_set="a b"), ['"neutral_set" must be the name of a set']),
        (
            lambda m: m["retrieval"].update(policy="set", similarity_floor=0.2),
            ['"similarity_floor" needs "neutral_set"', 'Set "neutral_set" to a set of the kind other'],
        ),
        (lambda m: m["retrieval"].update(policy="set_and_nearest"), ['the key "sets.json" is missing']),
        (lambda m: m["retrieval"].update(neutral_set="other-1"), ['the key "sets.json" is missing']),
        (lambda m: m["sampling"].update(temprature=1), ["sampling", 'the nearest known key is "temperature"']),
        (lambda m: m["sampling"].update(messages=[]), ['unknown key "messages"']),
        (lambda m: m["sampling"].update(temperature=True), ['"temperature" must be a number from 0 to 2']),
        (lambda m: m["sampling"].update(temperature=-0.1), ['"temperature" must be a number from 0 to 2']),
        (lambda m: m["sampling"].update(max_tokens=0), ['"max_tokens" must be an integer from 1']),
        (lambda m: m["sampling"].update(max_tokens="9"), ['"max_tokens" must be an integer from 1']),
        (lambda m: m["sampling"].update(stop=[""]), ['"stop" must be a string or a list of strings']),
        (lambda m: m["sampling"].update(stop=4), ['"stop" must be a string or a list of strings']),
        (lambda m: m["embedder"].update(url="x"), ["embedder", 'unknown key "url"']),
        (lambda m: m["embedder"].update(dimension=0), ['"dimension" must be an integer from 1']),
        (lambda m: m["embedder"].pop("revision"), ['the key "revision" is missing']),
        (lambda m: m["files"].update({"../prompt.txt": {}}), ['unknown key "../prompt.txt"', '"prompt.txt"']),
        (lambda m: m["files"].update({"sub/vectors.npy": {}}), ['unknown key "sub/vectors.npy"', '"vectors.npy"']),
        (lambda m: m["files"].pop("prompt.txt"), ['the key "prompt.txt" is missing']),
        (lambda m: m["files"]["prompt.txt"].update(md5="x"), ["files, prompt.txt", 'unknown key "md5"']),
        (lambda m: m["files"]["prompt.txt"].update(size=-1), ['"size" must be an integer from 0']),
        (lambda m: m["files"]["prompt.txt"].update(sha256="A" * 64), ['"sha256" must be 64 digits']),
    ],
)
def test_manifest_with_an_unknown_key_or_a_value_out_of_range_is_refused(
    directory: Path, edit: Callable[[dict[str, Any]], object], parts: list[str]
) -> None:
    edit_manifest(directory, edit)
    refused(directory, BundleFormatError, str(directory / "manifest.json"), *parts)
