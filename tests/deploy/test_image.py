"""Tests of the image: hadolint checks the Dockerfile, and its steps run in a clean folder, without an engine."""

import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from proxy.api.auth import new_key
from tests.deploy.parts import DEPLOY, ROOT, environment
from tests.neutral import OUTSIDE
from tests.ports import free_port

DOCKERFILE = DEPLOY / "Dockerfile"
READ_ONLY = 'mount --bind /tmp /tmp && mount -o remount,bind,ro / && ! touch /written 2>/dev/null && exec "$@"'


@pytest.mark.deploy
@pytest.mark.slow
def test_hadolint_finds_nothing() -> None:
    said = subprocess.run([environment("tools") / "hadolint", DOCKERFILE], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout) == (0, "")


def copied() -> list[str]:
    """Return the paths that the Dockerfile copies from the repository."""
    lines = re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE)
    return [name for line in lines for name in line.split()[:-1]]


def test_dockerignore_allows_exactly_the_files_that_the_dockerfile_copies() -> None:
    let_in = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in let_in
    assert sorted(line[1:] for line in let_in if line.startswith("!")) == sorted(copied())
    assert all((ROOT / name).exists() for name in copied())


def test_image_is_not_root_and_has_a_health_check() -> None:
    text = DOCKERFILE.read_text(encoding="utf-8")
    for stage in re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]:
        if "ENTRYPOINT" in stage:
            assert re.search(r"^USER 65532:65532$", stage, re.MULTILINE)
    assert "HEALTHCHECK" in text
    assert "--require-hashes" in text


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin/ of a new environment, made by the steps of the stage `packages` from the copied files alone."""
    source = tmp_path_factory.mktemp("src")
    for name in copied():
        place, target = ROOT / name, source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(place, target, ignore=shutil.ignore_patterns("__pycache__")) if place.is_dir() else shutil.copy(
            place, target
        )
    built = source / "venv"
    venv.create(built, with_pip=False, symlinks=True)
    for step in _steps(built):
        done = subprocess.run(step, cwd=source, capture_output=True, text=True, check=False, env=_bare())
        assert done.returncode == 0, f"{step}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return built / "bin"


def _steps(built: Path) -> list[list[str]]:
    """Return the commands of the stage `packages`, with paths of this machine, and with uv in place of pip."""
    text = DOCKERFILE.read_text(encoding="utf-8").replace("\\\n", " ")
    stage = text.split("AS packages\n")[1].split("\nFROM ")[0]
    run = re.findall(r"^RUN (.+)$", stage, re.MULTILINE)
    pip = f"{sys.executable} -m uv pip install --python {built}/bin/python"
    one = " && ".join(run).replace("python -m venv /venv &&", "", 1).replace("/wheel", f"{built.parent}/wheel")
    one = re.sub("/venv/bin/python -m pip install|/venv/", lambda found: pip if "pip" in found[0] else f"{built}/", one)
    return [["sh", "-ec", part] for part in one.split(" && ")]


def _bare() -> dict[str, str]:
    kept = ("PATH", "HOME", "UV_", "PIP_", "SSL_", "REQUESTS_")
    return {name: value for name, value in OUTSIDE.items() if name.startswith(kept)}


@pytest.mark.deploy
@pytest.mark.slow
@pytest.mark.network
def test_image_steps_give_a_healthy_server_on_a_read_only_file_system(image: Path, tmp_path: Path) -> None:
    """The server is started as in the image, in a mount namespace in which only /tmp is writable."""
    port = free_port()
    keys = tmp_path / "keys"
    keys.write_text(new_key("someone")[1], encoding="utf-8")
    environment = {**_bare(), "DRPO_HOST": "0.0.0.0", "DRPO_PORT": str(port), "DRPO_API_KEYS_FILE": str(keys)}
    environment |= {"DRPO_BACKEND": "http://127.0.0.1:9/v1", "DRPO_WORKERS": "2", "PYTHONDONTWRITEBYTECODE": "1"}
    command = ["unshare", "--mount", "sh", "-c", READ_ONLY, "sh", str(image / "drpo-proxy")]
    if subprocess.run([*command[:-1], "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no mount namespaces here")
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout
        assert process.stdout.readline().startswith(b"Listening on ")
        (check,) = re.findall(r'CMD \["python", "-c", "(.+)"\]', DOCKERFILE.read_text(encoding="utf-8"))
        subprocess.run([image / "python", "-c", check], env=environment, check=True)
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0
