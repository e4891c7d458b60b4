"""Guards a release: the same bytes twice, taken by twine, complete; installed, it serves."""

import re
import subprocess
import sys
import tarfile
import tomllib
import venv
from pathlib import Path

import pytest

from tests.deploy import release
from tests.deploy.bill import BILL
from tests.deploy.parts import ROOT
from tests.ports import free_port


def test_changelog_has_the_version_or_an_unreleased_section() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert re.fullmatch(r"\d+\.\d+\.\d+(rc\d+|\.dev\d+)?", project["version"])
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased" or headings[0].startswith(project["version"])


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist") / "dist"
    release.dist(folder)
    return folder


@pytest.mark.deploy
@pytest.mark.slow
@pytest.mark.network
def test_wheel_and_sdist_are_built_and_what_is_in_them_is_listed(dist: Path) -> None:
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
def test_sdist_holds_the_files_that_its_makefile_and_image_need(dist: Path) -> None:
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    needed = ("Makefile", "tools/environment.sh", "requirements/run.txt", "deploy/Dockerfile", ".dockerignore")
    assert {name for name in (*needed, "examples/README.md") if name not in inside} == set()
    assert not [name for name in inside if re.search(r"(^|/)(\.venv|\.git|__pycache__|keys)(/|$)", name)]


@pytest.mark.deploy
@pytest.mark.slow
@pytest.mark.network
def test_wheel_in_a_clean_environment_starts_the_server(dist: Path, tmp_path: Path) -> None:
    """What `pip install drpo-proxy` gives: the newest dependencies, no pins; uv stands in for pip, being faster."""
    venv.create(tmp_path / "venv", symlinks=True)
    python, wheel = tmp_path / "venv" / "bin" / "python", next(dist.glob("*.whl"))
    install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", str(python), str(wheel)]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    command = [python.with_name("drpo-proxy"), "--backend", "http://127.0.0.1:9/v1", "--bundle", "default"]
    process = subprocess.Popen([*command, "--port", str(free_port())], cwd=tmp_path, stdout=subprocess.PIPE)
    try:
        assert process.stdout
        assert process.stdout.readline().startswith(b"Listening on http://127.0.0.1:")
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0
