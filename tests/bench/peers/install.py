"""Installs each gateway into its own environment in the cache folder, pinned by hash."""

import shutil
import sys
import venv
from pathlib import Path
from typing import Final

from tests.bench.peers.machine import CannotRunError
from tests.neutral import kept
from tools.keep import cache_root, key_of
from tools.packages import install, install_npm
from tools.steps import Say

HERE: Final = Path(__file__).parent
_NODE: Final = HERE / "node"


def python_of(name: str, say: Say) -> Path:
    """Return the interpreter of the environment that requirements/`name`.txt pins.

    Raises:
        StepError: The installation failed.
    """
    requirements = HERE / "requirements" / f"{name}.txt"

    def build(place: Path) -> None:
        venv.create(place, symlinks=True)
        into = ["--python", str(place / "bin" / "python")]
        install([requirements], into, place.with_suffix(".log"), say, f"{name} (once)")

    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return kept(_folder(name, requirements, version), build, say) / "bin" / "python"


def node_gateway(say: Say) -> Path:
    """Return the path of Portkey's server script, in the version that node/package-lock.json pins.

    Raises:
        CannotRunError: npm is missing.
        StepError: The installation failed.
    """
    if shutil.which("npm") is None:
        raise CannotRunError("`npm` is not installed")

    place = _folder("portkey", _NODE / "package-lock.json")
    place = kept(place, lambda place: install_npm(_NODE, place, say, "Portkey (once)"), say)
    return place / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"


def _folder(name: str, *sources: Path | str) -> Path:
    return cache_root() / "peers" / f"{name}-{key_of(*sources)}"
