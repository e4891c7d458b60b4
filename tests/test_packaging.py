"""Tests of the wheel as a user installs it: it contains our three packages with their data, and its commands start.

The names `index`, `proxy` and `optimizer` are generic. Only the installed wheel shows that they belong to this project,
because an editable install records nothing but the path of the repository.
"""

import email
import json
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {"index", "proxy", "optimizer"}
DISTRIBUTION = "drpo-proxy"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
COMMANDS = ("drpo-proxy", "drpo-index", "drpo-optimizer")
DATA = (
    "index/py.typed",
    "proxy/py.typed",
    "optimizer/py.typed",
    "index/embedders/multilingual_weights/network.onnx",
    "index/embedders/multilingual_weights/pieces.model",
    "index/embedders/multilingual_weights/words.bin",
    "index/embedders/multilingual_weights/NOTICE",
    "index/embedders/minilm_tokenizer/tokenizer.json",
    "index/embedders/minilm_tokenizer/NOTICE",
    *(
        f"index/shipped/hand-written/{name}"
        for name in ("manifest.json", "prompt.txt", "examples.jsonl", "sets.json", "vectors.npy", "provenance.json")
    ),
)
MAX_WHEEL_SIZE = 40_000_000  # bytes
OWNERS = f"""
import importlib.metadata as m, json
owners = m.packages_distributions()
print(json.dumps({{name: owners.get(name) for name in {sorted(PACKAGES)}}}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without network and without an isolated environment."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with the wheel and with access to the dependencies of this environment."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(python),
            "install",
            "--quiet",
            "--no-deps",
            "--no-index",
            str(wheel),
        ],
        check=True,
    )
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "dependencies.pth").write_text(_without_this_project(), encoding="utf-8")
    return python.parent


def _without_this_project() -> str:
    """Return a .pth line that adds the packages of this environment, but not the editable install of this repository.

    The editable install is itself a .pth file, and Python does not read the .pth files of a path that a .pth line adds.
    """
    return f"{next(path for path in sys.path if path.endswith('site-packages'))}\n"


def _names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_wheel_contains_only_our_packages(wheel: Path) -> None:
    top = {name.split("/")[0] for name in _names(wheel)}
    assert {name for name in top if not name.endswith(".dist-info")} == PACKAGES


@pytest.mark.parametrize("name", DATA)
def test_wheel_contains_the_data(wheel: Path, name: str) -> None:
    assert name in _names(wheel)


def test_wheel_contains_every_file_of_the_packages(wheel: Path) -> None:
    """The build leaves out files that git ignores, without a message."""
    expected = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert expected <= set(_names(wheel))


def test_wheel_has_a_licence_and_a_limited_size(wheel: Path) -> None:
    assert [name for name in _names(wheel) if name.endswith("licenses/LICENSE")]
    assert wheel.stat().st_size < MAX_WHEEL_SIZE


def test_wheel_describes_itself_on_a_page_outside_the_repository(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    assert (metadata["Version"], metadata["License-Expression"]) == (VERSION, "Apache-2.0")
    notices = [f"index/embedders/{name}/NOTICE" for name in ("minilm_tokenizer", "multilingual_weights")]
    assert metadata.get_all("License-File") == ["LICENSE", *notices]
    assert metadata["Description-Content-Type"] == "text/markdown"
    description = metadata.get_payload(decode=True).decode()
    assert description.startswith("# drpo\n")
    assert re.findall(r"\]\((?!https?://)[^)]*\)", description) == []


def test_installed_packages_belong_to_this_distribution_alone(installed: Path) -> None:
    result = subprocess.run([installed / "python", "-I", "-c", OWNERS], capture_output=True, text=True, check=True)
    owners = json.loads(result.stdout)
    assert {name: set(of) for name, of in owners.items()} == {name: {DISTRIBUTION} for name in PACKAGES}


@pytest.mark.parametrize("command", COMMANDS)
def test_installed_command_starts(installed: Path, tmp_path: Path, command: str) -> None:
    result = subprocess.run([installed / command, "--help"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert f"usage: {command}" in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_installed_command_prints_its_version(installed: Path, tmp_path: Path, command: str) -> None:
    called = [installed / command, "--version"]
    result = subprocess.run(called, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert re.fullmatch(rf"drpo {re.escape(VERSION)}, Python 3\.\d+\.\S+, \w+ \w+\n", result.stdout)


def test_installed_command_does_not_import_from_the_current_folder(installed: Path, tmp_path: Path) -> None:
    """A folder `proxy` or `index` of a user must not shadow our package."""
    for package in PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise SystemExit('shadowed')", encoding="utf-8")
    for command in COMMANDS:
        result = subprocess.run([installed / command, "--help"], cwd=tmp_path, capture_output=True, check=False)
        assert result.returncode == 0, result.stderr
