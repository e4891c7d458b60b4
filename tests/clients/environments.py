"""Builds the environments of the clients from pinned packages, and keeps them in the cache folder.

Each client has an environment of its own, because its dependencies differ from ours and from those of other clients.
This module does not depend on the commands of clients.
"""

import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.neutral import kept
from tools.keep import cache_root, key_of
from tools.packages import install, install_npm
from tools.steps import Say

HERE: Final = Path(__file__).parent
_OLDEST_NODE: Final = 20
_FOREIGN: Final = re.compile(
    r"(OPENAI|DRPO|INSPECT|PROMPTFOO|LANGCHAIN|LANGSMITH|LLM|LM_?EVAL|HF|AI_SDK|PYTHON|NODE_OPTIONS|VIRTUAL_ENV)"
)


def python_of(name: str, say: Say) -> Path:
    """Return the interpreter of the environment that requirements/`name`.txt pins. Raises StepError."""
    requirements = HERE / "requirements" / f"{name}.txt"

    def build(place: Path) -> None:
        venv.create(place, symlinks=True)
        into = ["--python", str(place / "bin" / "python")]
        install([requirements], into, place.with_suffix(".log"), say, f"{name}'s environment (once)")

    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return _kept(name, key_of(requirements, version), build, say) / "bin" / "python"


def node_packages(say: Say, name: str = "node", *options: str) -> Path:
    """Return the folder node_modules that `name`/package-lock.json pins. `options` are for npm. Raises StepError."""
    pins = HERE / name

    def build(place: Path) -> None:
        install_npm(pins, place, say, f"npm packages of {name} (once)", options)

    return _kept(name, key_of(pins / "package-lock.json", *options), build, say) / "node_modules"


def node_shortcoming() -> str | None:
    """Return why JavaScript clients cannot run on this machine; None if they can."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            return f"`{program}` is not installed: install Node.js {_OLDEST_NODE} or newer, with npm"
    said = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False).stdout
    version = re.match(r"v(\d+)", said)
    if version is None or int(version[1]) < _OLDEST_NODE:
        return f"`node --version` says {said.strip()!r}: install Node.js {_OLDEST_NODE} or newer"
    return None


def clean_environment(**added: str) -> dict[str, str]:
    """Return this process's variables without those that configure a client, so that only the test configures it."""
    ours = {name: value for name, value in os.environ.items() if not _FOREIGN.match(name)}
    return {**ours, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", **added}


def _kept(name: str, key: str, build: Callable[[Path], None], say: Say) -> Path:
    return kept(cache_root() / "clients" / f"{name}-{key}", build, say)
