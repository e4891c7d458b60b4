"""Finds a Chromium for the tests: the machine's own, or one that is installed from npm into the cache folder."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from tests.neutral import kept
from tools.keep import cache_root, key_of
from tools.packages import install_npm
from tools.steps import Say

_NODE: Final = Path(__file__).parent / "node"
_NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_UNPACK: Final = "import('@sparticuz/chromium').then(async found => console.log(await found.default.executablePath()))"


def chromium(say: Say) -> Path:
    """Return the path of Chromium. Raises StepError, or CalledProcessError if the package of npm cannot be unpacked."""
    for name in _NAMES:
        if found := shutil.which(name):
            return Path(found)
    return _kept(say) / "chromium"


def _kept(say: Say) -> Path:
    def build(place: Path) -> None:
        install_npm(_NODE, place, say, "Chromium (once)")
        unpacked = subprocess.run(
            ["node", "--eval", _UNPACK],
            cwd=place,
            env={**os.environ, "TMPDIR": str(place)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        if Path(unpacked) != place / "chromium":
            shutil.copy(unpacked, place / "chromium")

    return kept(cache_root() / f"chromium-{key_of(_NODE / 'package-lock.json')}", build, say)
