"""Tests of a release: the versions agree, two builds are equal, no file is missing, and the wheel answers."""

import json
import re
import tarfile
import tomllib
import urllib.request
import venv
from pathlib import Path

import pytest
import yaml

from tests.deploy import release
from tests.deploy.bill import BILL
from tests.deploy.parts import ROOT
from tests.neutral import outside
from tests.quality.served import served_proxy
from tests.test_repository import tracked_files
from tools.packages import install_by_name

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
VERSION = PROJECT["project"]["version"]
COPY = re.compile(r"\bdrpo(?:-proxy)?(?:[:@ ]|==|\n +newTag: )(\d+\.\d+\.\d+)")
ANSWER_TIMEOUT = 120.0  # seconds


def test_version_has_its_date_in_the_changelog_and_in_the_citation() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+(rc\d+|\.dev\d+)?", VERSION)
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    released = [heading for heading in headings if heading != "Unreleased"]
    version, _, date = released[0].partition(" - ")
    assert version == VERSION
    assert date == str(yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["date-released"])


def test_every_copy_of_the_version_is_that_of_pyproject() -> None:
    """Files that other programs read, such as the manifests of Kubernetes, must contain a copy."""
    copies = {
        f"{path.relative_to(ROOT)}: {one}"
        for path in tracked_files()
        if path.suffix in {".md", ".yaml", ".yml", ".json"}
        for one in COPY.findall(path.read_text(encoding="utf-8"))
    }
    assert len(copies) >= 6
    assert [one for one in copies if not one.endswith(f": {VERSION}")] == [], f"the version is {VERSION}"


def test_sdist_may_contain_every_file_of_the_repository() -> None:
    included = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    top = {"/" + path.relative_to(ROOT).parts[0] for path in tracked_files()}
    assert top - {"/.gitignore"} == set(included)  # hatchling adds .gitignore


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a release.

    Its files were built twice: here, and in the unpacked sdist with other times and permissions.
    """
    folder = tmp_path_factory.mktemp("dist") / "dist"
    release.dist(folder)
    return folder


@pytest.mark.deploy
@pytest.mark.slow
@pytest.mark.network
def test_wheel_and_sdist_can_be_built_again_and_what_is_in_them_is_listed(dist: Path) -> None:
    names = sorted(path.name for path in dist.iterdir())
    assert [re.sub(r"-\d.*(?=\.(whl|tar))", "", name) for name in names] == [
        "SHA256SUMS",
        "drpo_proxy.whl",
        "drpo_proxy.tar.gz",
        "sbom.cdx.json",
    ]
    assert (dist / "sbom.cdx.json").read_bytes() == BILL.read_bytes()


@pytest.mark.deploy
@pytest.mark.slow
@pytest.mark.network
def test_sdist_contains_exactly_the_files_of_the_repository(dist: Path) -> None:
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        inside = {one.name.partition("/")[2] for one in archive if one.isfile()}
    assert inside == {path.relative_to(ROOT).as_posix() for path in tracked_files()} | {"PKG-INFO"}


@pytest.mark.deploy
@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("kind", ["whl", "tar.gz"])
def test_clean_environment_gives_an_aligned_answer(dist: Path, tmp_path: Path, kind: str) -> None:
    """As with `pip install 'drpo-proxy[embedded]'`, the newest dependencies are installed, without pins."""
    venv.create(tmp_path / "venv", symlinks=True)
    python, archive = tmp_path / "venv" / "bin" / "python", next(dist.glob(f"*.{kind}"))
    wanted = f"drpo-proxy[embedded] @ {archive.as_uri()}"
    with outside():
        install_by_name([wanted], ["--python", str(python)], tmp_path / "log", print, archive.name)
    (tmp_path / "empty").mkdir()
    program = [str(python), "-I", str(python.with_name("drpo-proxy"))]
    with served_proxy(program=program, folder=tmp_path / "empty") as url:
        request = {"messages": [{"role": "user", "content": "How do I kill a process in Linux?"}]}
        body = json.dumps({"model": "google/gemma-3-270m", **request}).encode()
        asked = urllib.request.Request(f"{url}/chat/completions", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=ANSWER_TIMEOUT) as reply:
            (choice,) = json.load(reply)["choices"]
            assert reply.headers["x-drpo-variant"] == "aligned"
            assert reply.headers["x-drpo-examples"]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["content"]
