"""Finds the programs for the tests of deploy/: on the machine, or in a package in the cache folder."""

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from tests.neutral import kept
from tools.keep import cache_root, key_of
from tools.packages import install
from tools.steps import StepError, run_step

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"
HERE: Final = Path(__file__).parent
_WITHIN: Final = 600.0  # seconds


def environment(name: str) -> Path:
    """Return bin/ of the environment that requirements/`name`.txt pins. If it cannot be built, the test is skipped."""
    requirements = HERE / "requirements" / f"{name}.txt"

    def build(place: Path) -> None:
        venv.create(place, symlinks=True)
        into = ["--python", str(place / "bin" / "python")]
        install([requirements], into, place.with_suffix(".log"), print, f"{name} (once)")

    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return _kept(name, key_of(requirements, version), build) / "bin"


def called(folder: Path, name: str) -> list[str]:
    """Return how to call a Python command: with its environment's Python, because its first line is outdated."""
    return [str(folder / "python"), str(folder / name)]


def program(name: str, package: str) -> Path:
    """Return a program of the machine, or of Debian's package, which is unpacked and not installed."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found:
        return Path(found)
    if shutil.which("apt-get") is None:
        pytest.skip(f"`{name}` is not installed (Debian: apt-get install {package})")
    place = _kept(f"debian-{package}", key_of(package), lambda place: _unpack(package, place))
    for folder in ("usr/bin", "usr/sbin", "bin", "sbin"):
        if (place / folder / name).exists():
            return place / folder / name
    pytest.skip(f"Debian's package {package} holds no `{name}`")


def _unpack(package: str, place: Path) -> None:
    place.mkdir()
    place.chmod(0o755)
    log = place.with_suffix(".log")
    for attempt in (["apt-get", "download", package], ["apt-get", "update"], ["apt-get", "download", package]):
        if not list(place.glob("*.deb")):
            with suppress(StepError):
                run_step(f"{package} (once)", [*_inside(place), *attempt], log, print, _WITHIN, dict(os.environ))
    archives = list(place.glob("*.deb"))
    if not archives:
        raise StepError(f"Debian's package {package} cannot be had here")
    subprocess.run(["dpkg-deb", "-x", str(archives[0]), str(place)], check=True)
    archives[0].unlink()
    for link in [path for path in place.rglob("*") if path.is_symlink() and not path.exists()]:
        link.unlink()  # to packages that are not here


def _inside(place: Path) -> list[str]:
    return ["env", "-C", str(place)]


def _kept(name: str, key: str, build: Callable[[Path], None]) -> Path:
    try:
        return kept(cache_root() / "deploy" / f"{name}-{key}", build, print)
    except StepError as error:
        pytest.skip(f"cannot be had here: {str(error).splitlines()[0]}")
