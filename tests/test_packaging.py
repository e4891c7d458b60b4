"""The wheel, as a user installs it: exactly our three packages, with their data, and commands that start.

The names `index`, `proxy` and `optimizer` are generic: that they are ours is seen on the installed wheel alone, since
an editable install records only where the checkout is.
"""

import json
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {"index", "proxy", "optimizer"}
DISTRIBUTION = "drpo-proxy"
COMMANDS = ("drpo-proxy", "drpo-index", "drpo-optimizer")
DATA = (
    "index/py.typed",
    "proxy/py.typed",
    "optimizer/py.typed",
    "index/embedders/weights/model.onnx",
    "index/embedders/weights/tokenizer.json",
    "index/embedders/query_weights/weights.npz",
    "index/embedders/query_weights/SHA256SUMS",
    "index/default/manifest.json",
    "index/default/prompt.txt",
    "index/default/examples.jsonl",
    "index/default/sets.json",
    "index/default/vectors.npy",
)
LARGEST_WHEEL = 40_000_000
OWNERS = f"""
import importlib.metadata as m, json
owners = m.packages_distributions()
print(json.dumps({{name: owners.get(name) for name in {sorted(PACKAGES)}}}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without a network and without an environment of its own."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin/ of an environment with the wheel in it, and the dependencies of this one within reach."""
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
    """A .pth line for this environment's packages. A path in a .pth is not searched for .pth files in turn, so that an
    editable install of this checkout stays out."""
    return f"{next(path for path in sys.path if path.endswith('site-packages'))}\n"


def _names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_wheel_holds_only_the_projects_packages(wheel: Path) -> None:
    top = {name.split("/")[0] for name in _names(wheel)}
    assert {name for name in top if not name.endswith(".dist-info")} == PACKAGES


@pytest.mark.parametrize("name", DATA)
def test_wheel_holds_the_data(wheel: Path, name: str) -> None:
    assert name in _names(wheel)


def test_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    """Data that git ignores would be left out in silence."""
    there = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert there <= set(_names(wheel))


def test_wheel_names_its_licence_and_is_small(wheel: Path) -> None:
    assert [name for name in _names(wheel) if name.endswith("licenses/LICENSE")]
    assert wheel.stat().st_size < LARGEST_WHEEL


def test_installed_packages_belong_only_to_this_distribution(installed: Path) -> None:
    result = subprocess.run([installed / "python", "-I", "-c", OWNERS], capture_output=True, text=True, check=True)
    owners = json.loads(result.stdout)
    assert {name: set(of) for name, of in owners.items()} == {name: {DISTRIBUTION} for name in PACKAGES}


@pytest.mark.parametrize("command", COMMANDS)
def test_installed_command_starts(installed: Path, tmp_path: Path, command: str) -> None:
    result = subprocess.run([installed / command, "--help"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert f"usage: {command}" in result.stdout


def test_installed_command_does_not_import_from_the_current_folder(installed: Path, tmp_path: Path) -> None:
    """A user's own folder `proxy` or `index` must not shadow ours."""
    for package in PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise SystemExit('shadowed')", encoding="utf-8")
    for command in COMMANDS:
        result = subprocess.run([installed / command, "--help"], cwd=tmp_path, capture_output=True, check=False)
        assert result.returncode == 0, result.stderr
