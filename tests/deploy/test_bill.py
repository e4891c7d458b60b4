"""Tests of the bill of materials: it agrees with the pins, and all weights by others are pinned, checked and listed."""

import json
import re
import subprocess
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

import pytest

from tests.deploy import bill
from tests.deploy.parts import ROOT, environment
from tests.test_repository import tracked_files

STRONG = re.compile(r"\bA?GPL|SSPL|BUSL|not known|UNKNOWN", re.IGNORECASE)
WEIGHTS = pytest.mark.parametrize("entry", bill.weights(), ids=lambda entry: entry["name"])
DIGEST = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
WEIGHT_FILE = re.compile(r"\.(gguf|onnx|safetensors|npz|pt|pth|ckpt|tflite|bin|model)$")
OTHER_HASHES = {
    "proxy/api/auth.py",  # of an example of a key
    "proxy/backends/dialects/llama_cpp.py",  # of a chat template
}
VALIDATION = """
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
with open(sys.argv[1], encoding="utf-8") as file:
    fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(file.read())
sys.exit(str(fault) if fault else 0)
"""


def test_every_pin_that_runs_has_its_licence_listed_and_none_is_one_that_binds_what_it_is_linked_with() -> None:
    listed = bill.listed_licences()
    assert {name: versions for name, (versions, _) in listed.items()} == bill.pins(), "run `make sbom`"
    assert not {name: licence for name, (_, licence) in listed.items() if STRONG.search(licence)}


def test_licences_of_installed_packages_are_those_listed() -> None:
    """Packages of an extra that is not installed here, and those of another version, are left out."""
    found = bill.licences([None])
    here = {name: one for name, one in bill.listed_licences().items() if name in found and version(name) in one[0]}
    assert len(here) > 45
    assert {name: found[name] for name in here} == {name: licence for name, (_, licence) in here.items()}


def test_bill_of_materials_is_that_of_the_pins_the_licences_and_the_weights() -> None:
    assert bill.BILL.read_text(encoding="utf-8") == bill.bill(), "run `make sbom`"


def test_bill_of_materials_lists_packages_and_weights_and_each_once() -> None:
    components = json.loads(bill.bill())["components"]
    names = [component["bom-ref"] for component in components]
    assert len(set(names)) == len(names)
    libraries = {one["name"] for one in components if one["type"] == "library"}
    models = {one["name"] for one in components if one["type"] == "machine-learning-model"}
    assert {"aiohttp", "faiss-cpu", "onnxruntime", "opentelemetry-sdk", "xllamacpp"} <= libraries
    assert models == {"gemma-3-270m", "Universal Sentence Encoder multilingual v3", "all-MiniLM-L6-v2, int8"}


def test_page_has_the_table_of_the_weights() -> None:
    page = bill.SUPPLY_CHAIN.read_text(encoding="utf-8")
    assert page == bill.with_table(page), "run `make sbom`"


@WEIGHTS
def test_packages_of_weights_are_pinned_by_hash(entry: dict[str, Any]) -> None:
    for file in entry["pins"]:
        text = re.sub(r"\\\n", " ", (ROOT / file).read_text(encoding="utf-8"))
        hashed = set(re.findall(r"^([a-z0-9.-]+)==[^\n]*--hash=sha256:", text, re.MULTILINE))
        assert set(entry["packages"]) <= hashed, file


@WEIGHTS
def test_content_of_weights_is_checked_by_its_hash(entry: dict[str, Any]) -> None:
    sources = [(ROOT / file).read_text(encoding="utf-8") for file in entry["checked"]]
    assert [source for source in sources if not DIGEST.search(source)] == []
    assert [digest for digest in entry["files"].values() if not any(digest in source for source in sources)] == []


def test_every_hash_of_a_file_in_the_code_is_that_of_listed_weights() -> None:
    """New weights need an entry: their origin, their licence and their pins."""
    listed = {digest for entry in bill.weights() for digest in entry["files"].values()}
    found = {
        (path.relative_to(ROOT).as_posix(), digest)
        for path in tracked_files()
        if path.suffix == ".py"
        for digest in DIGEST.findall(path.read_text(encoding="utf-8"))
    }
    assert {one for one in found if one[1] not in listed and one[0] not in OTHER_HASHES} == set()


def test_every_weight_file_of_the_repository_is_listed() -> None:
    listed = {name for entry in bill.weights() if entry["scope"] == "wheel" for name in entry["files"]}
    shipped = {path.name for path in tracked_files() if WEIGHT_FILE.search(path.name)}
    assert shipped <= listed
    assert len(shipped) == 3


@WEIGHTS
def test_licence_that_a_package_of_weights_names_is_the_one_of_the_entry(entry: dict[str, Any]) -> None:
    """For the two packages that name no licence, or only that of their code, `evidence` says so."""
    for name in entry["packages"]:
        try:
            said = bill.licence_of(distribution(name))
        except PackageNotFoundError:
            continue
        same = "Apache" in said and entry["licence"] == "Apache-2.0"
        assert same or "metadata name" in entry["evidence"], f"{name} says {said}"


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ("License-Expression: MIT\nClassifier: License :: OSI Approved :: BSD License", "MIT"),
        ("License: a text\nClassifier: License :: OSI Approved :: BSD License", "BSD License"),
        ("Classifier: License :: OSI Approved :: B\nClassifier: License :: OSI Approved :: A", "B; A"),
        ("License: Apache 2.0\n        with a long text", "Apache 2.0"),
        ("Summary: none", "not known"),
    ],
)
def test_licence_is_read_from_metadata(tmp_path: Path, metadata: str, licence: str) -> None:
    (tmp_path / "x_y-1.dist-info").mkdir()
    text = f"Metadata-Version: 2.4\nName: X.y\nVersion: 1\n{metadata}\n"
    (tmp_path / "x_y-1.dist-info" / "METADATA").write_text(text, encoding="utf-8")
    assert bill.licences([tmp_path]) == {"x-y": licence}


@pytest.mark.deploy
@pytest.mark.slow
@pytest.mark.network
def test_bill_of_materials_has_the_form_of_cyclonedx() -> None:
    command = [environment("release") / "python", "-c", VALIDATION, str(bill.BILL)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
