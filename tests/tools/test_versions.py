"""Tests of `make versions`, and of what must agree with the versions of Python that the project supports."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.test_repository import tracked_files
from tools import versions
from tools.versions import PLATFORMS, PYTHONS, Platform, reason_of

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
BANNED: dict[str, dict[str, str]] = PROJECT["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"]
OLDEST = PYTHONS[0]
MESSAGE = """error: No solution found when resolving dependencies
  cause: Because onnx>=1.20.0,<=1.24.0.dev2 has no wheels with a matching Python ABI tag (e.g., `cp314`) and only the
             following versions of onnx are available:
             onnx<=1.24.0.dev2
         And because onnx>=1.24.1 has no wheels with a matching platform tag (e.g., `macosx_15_0_x86_64`) and because
         faiss-cpu==1.12.0 has no usable wheels, we can conclude that your requirements are unsatisfiable.
         And because all of: uvloop>=0.20 uvloop==0.22.0 have no wheels with a matching Python ABI tag (e.g., `cp314`)
hint: You require CPython 3.14
"""
COMPILATION = """
import sys
for name in sys.argv[1:]:
    with open(name, "rb") as file:
        compile(file.read(), name, "exec")
"""
IMPORTS = """
import pkgutil, sys, warnings
from importlib import import_module
root, packages = sys.argv[1], sys.argv[2:]
sys.path.insert(0, root)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for package in packages:
        for module in pkgutil.walk_packages([f"{root}/{package}"], f"{package}."):
            if not module.name.endswith("__main__"):
                import_module(module.name)
ours = [one for one in caught if one.filename.startswith(root) and "site-packages" not in one.filename]
sys.exit("\\n".join(f"{one.filename}:{one.lineno}: {one.message}" for one in ours) or 0)
"""


def resolver(gaps: dict[tuple[str, str, str], str], asked: list[Sequence[str]]) -> versions.Resolve:
    """Return a resolver that answers as uv would. `gaps` has the reason, by Python, target and first requirement."""

    def resolve(python: str, platform: Platform, requirements: Sequence[str]) -> str:
        asked.append(requirements)
        return gaps.get((python, platform.target, requirements[0]), "")

    return resolve


def test_supported_pairs_with_all_wheels_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[Sequence[str]] = []
    assert versions.main(["--supported"], resolver({}, asked)) == 0
    lines = capsys.readouterr().out.splitlines()
    supported = [one.name for one in PLATFORMS if one.is_supported]
    assert lines[0] == f"| Python | {' | '.join(supported)} |"
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:-1]] == list(PYTHONS)
    assert lines[-1] == "Each supported pair has all wheels."
    assert {words[0] for words in asked} == {
        "pyproject.toml",
        *(f"requirements/{n}.txt" for n in ("run", "serve", "dev")),
    }


def test_gap_of_a_supported_pair_fails_and_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    target = PLATFORMS[1].target
    gaps = {("3.12", target, "pyproject.toml"): "x has no wheel", ("3.13", target, "pyproject.toml"): "x has no wheel"}
    assert versions.main(["--supported"], resolver({**gaps, ("3.13", target, "requirements/dev.txt"): "y"}, [])) == 1
    text = capsys.readouterr().out
    assert "| 3.12 | yes | pins only | yes |" in text
    assert "| 3.13 | yes | no | yes |" in text
    assert f"\nx has no wheel (newest versions): {PLATFORMS[1].name} with Python 3.12, 3.13\n" in text
    assert f"\ny (pins): {PLATFORMS[1].name} with Python 3.13\n" in text
    assert "2 supported pairs lack wheels." in text


def test_gap_of_another_platform_or_of_the_next_python_is_shown_and_does_not_fail(
    capsys: pytest.CaptureFixture[str],
) -> None:
    gaps = {
        ("3.14", "x86_64-pc-windows-msvc", "pyproject.toml"): "uvloop has no wheel",
        (versions.NEXT_PYTHON, PLATFORMS[0].target, "requirements/run.txt"): "z",
    }
    assert versions.main([], resolver(gaps, [])) == 0
    text = capsys.readouterr().out
    assert "\nuvloop has no wheel (newest versions): Windows x86-64 with Python 3.14\n" in text
    assert f"| {versions.NEXT_PYTHON} | newest only |" in text


def test_message_of_uv_is_told_in_one_line() -> None:
    assert reason_of(MESSAGE) == "no wheel of onnx, faiss-cpu, uvloop"
    assert reason_of("error: no\n network") == "error: no network"


def test_every_optional_dependency_is_resolved_or_left_out_by_name() -> None:
    """The two large extras install torch, and are left out. `dev` is resolved by its pins."""
    extras = {word for word in versions.newest_arguments() if word in PROJECT["project"]["optional-dependencies"]}
    assert extras | {"dev", "sentence-transformers", "vllm"} == set(PROJECT["project"]["optional-dependencies"])


def test_supported_versions_are_the_same_everywhere() -> None:
    classifiers = [one.rpartition(" :: ")[2] for one in PROJECT["project"]["classifiers"] if " :: 3." in one]
    assert classifiers == list(PYTHONS)
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    assert workflow["jobs"]["versions"]["strategy"]["matrix"]["python"] == list(PYTHONS)
    page = (ROOT / "docs" / "versions.md").read_text(encoding="utf-8")
    assert [one for one in re.findall(r"^\| (3\.\d+) \|", page, re.MULTILINE) if one != versions.NEXT_PYTHON] == [
        *PYTHONS
    ]


def test_types_are_also_checked_for_the_newest_version_on_macos() -> None:
    """mypy then finds names that another system or a later version does not have."""
    assert f"mypy --platform darwin --python-version {PYTHONS[-1]} " in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_oldest_version_is_the_same_everywhere() -> None:
    tool = PROJECT["tool"]
    assert PROJECT["project"]["requires-python"] == f">={OLDEST}"
    assert (tool["ruff"]["target-version"], tool["mypy"]["python_version"]) == ("py" + OLDEST.replace(".", ""), OLDEST)
    assert f"--python-version {OLDEST} " in (ROOT / "Makefile").read_text(encoding="utf-8")
    candidates = " ".join(f"python{one}" for one in PYTHONS)
    assert f"for candidate in {candidates} " in (ROOT / "tools" / "environment.sh").read_text(encoding="utf-8")


def test_modules_compile_without_a_warning() -> None:
    """Later versions of Python refuse what earlier versions only warn about, such as unknown escape sequences."""
    files = [path for path in tracked_files() if path.suffix == ".py"]
    command = [sys.executable, "-W", "error", "-c", COMPILATION, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(files) > 700


def test_imports_of_all_modules_give_no_warning_about_our_code() -> None:
    command = [sys.executable, "-c", IMPORTS, str(ROOT), "index", "proxy", "optimizer", "tools"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", BANNED)
def test_name_that_the_lint_rule_bans_is_removed_from_the_version_that_it_names(name: str) -> None:
    """The test shows nothing on versions that still have the name.

    The hosted workflow runs it on the later versions.
    """
    removed = re.search(r"removed in Python 3\.(\d+)", BANNED[name]["msg"])
    if removed and sys.version_info >= (3, int(removed[1])):
        with pytest.raises((ImportError, AttributeError)):
            _find(name)


def _find(name: str) -> object:
    module, _, attribute = name.rpartition(".")
    if module == "pathlib.Path" or module == "zipimport.zipimporter":
        return getattr(_find(module), attribute)
    return getattr(import_module(module), attribute) if module else import_module(name)
