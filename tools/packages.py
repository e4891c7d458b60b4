"""Installs Python packages with uv, from the indexes and links of pip's configuration, and Node.js packages with npm.

This module does not depend on which packages are installed, or for what they are used. It needs only the standard
library, because it runs before this project is installed.
"""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tools.keep import cache_root, kept, key_of
from tools.steps import Say, StepError, run_step

_PINS: Final = Path(__file__).parents[1] / "requirements" / "dev.txt"
_INSTALL_TIMEOUT: Final = 900.0  # seconds
_NPM_TIMEOUT: Final = 600.0  # seconds


def install(packages: Sequence[Path], options: Sequence[str], log: Path, say: Say, title: str) -> None:
    """Install exactly what hashed requirements files list, with `uv pip install`.

    Args:
        packages: The requirements files.
        options: Further options of `uv pip install`, such as `--python`.
        log: The file that receives uv's output.
        say: Receives lines of progress.
        title: The name of the step in these lines.

    Raises:
        StepError: The installation failed or took too long.
    """
    files = [word for file in packages for word in ("--requirement", str(file))]
    install_by_name(["--no-deps", "--require-hashes", *files], options, log, say, title)


def install_by_name(packages: Sequence[str], options: Sequence[str], log: Path, say: Say, title: str) -> None:
    """Install packages with all that they depend on, with `uv pip install`.

    Args:
        packages: Requirements, or options of `uv pip install` that give them.
        options: As for `install`.
        log: As for `install`.
        say: As for `install`.
        title: As for `install`.

    Raises:
        StepError: The installation failed or took too long.
    """
    command = [*uv_command(say), "pip", "install", *packages, *_find_links_options(), *options]
    run_step(title, command, log, say, _INSTALL_TIMEOUT, uv_environment())


def install_npm(pins: Path, place: Path, say: Say, title: str, options: Sequence[str] = ()) -> None:
    """Install exactly what a file package-lock.json lists, with `npm ci`. No package runs an installation script.

    Args:
        pins: The folder with package.json and package-lock.json.
        place: The folder that is made for the packages. npm's output goes to the file beside it that ends in `.log`.
        say: As for `install`.
        title: As for `install`.
        options: Further options of `npm ci`, such as `--omit=optional`.

    Raises:
        StepError: The installation failed or took too long.
    """
    place.mkdir()
    for name in ("package.json", "package-lock.json"):
        shutil.copy(pins / name, place)
    command = ["npm", "ci", "--prefix", str(place), "--ignore-scripts", "--no-audit", "--no-fund", *options]
    run_step(title, command, place.with_suffix(".log"), say, _NPM_TIMEOUT, dict(os.environ))


def can_install(requirements: Path, options: Sequence[str], say: Say) -> bool:
    """Return whether uv finds every package of a requirements file. This is a dry run, which installs nothing."""
    command = [*uv_command(say), "pip", "install", "--dry-run", "--no-deps", "--requirement", str(requirements)]
    command += [*_find_links_options(), *options]
    return subprocess.run(command, env=uv_environment(), capture_output=True, check=False).returncode == 0


def uv_command(say: Say) -> list[str]:
    """Return the command that starts uv: from this Python's environment, or else the pinned uv in the cache folder."""
    if importlib.util.find_spec("uv"):
        return [sys.executable, "-m", "uv"]
    found = re.search(r"^uv==(?:.*\\\n)*.*\n", _PINS.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise StepError(f"{_PINS.name} does not pin uv")
    folder = cache_root() / f"uv-{key_of(found[0])}"
    return [str(kept(folder, lambda place: _install_uv(place, found[0]), say) / "bin" / "python"), "-m", "uv"]


def uv_environment() -> dict[str, str]:
    """Return environment variables for uv, with the indexes and the certificate of pip's configuration.

    uv does not read pip's configuration. With these variables, uv takes a package from any index that has it, as pip
    does. This is safe because the hash of the package is pinned.
    """
    ours = {"UV_INDEX_STRATEGY": "unsafe-best-match", **os.environ}
    for variable, setting in (("UV_DEFAULT_INDEX", "index-url"), ("SSL_CERT_FILE", "cert")):
        for value in _pip_settings(setting):
            ours.setdefault(variable, value)
    if extra := list(_pip_settings("extra-index-url")):
        ours.setdefault("UV_INDEX", " ".join(" ".join(extra).split()))
    return ours


def _install_uv(place: Path, pin: str) -> None:
    venv.create(place, symlinks=True, with_pip=True)
    (place / "uv.txt").write_text(pin, encoding="utf-8")
    command = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
    subprocess.run([*command, "--requirement", str(place / "uv.txt")], check=True)


def _find_links_options() -> list[str]:
    links = dict.fromkeys(link for value in _pip_settings("find-links") for link in value.split())
    return [word for link in links for word in ("--find-links", link)]


def _pip_settings(name: str) -> Iterator[str]:
    """Yield the values of a setting in pip's configuration. Values from environment variables come first."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listing = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    for line in sorted(listing.splitlines()):
        key, _, value = line.partition("=")
        if key.rpartition(".")[2] == name:
            yield ast.literal_eval(value)
