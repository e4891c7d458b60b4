"""Makes the surroundings of tests neutral: environment variables, the home folder, the time zone and the umask.

Tests, and the commands that they start, must not depend on how a user has set up the machine. tests/conftest.py calls
`apply` before the tests are collected. Set-up steps that download packages need the user's own settings, such as
proxies and the configuration of pip. They run in the context manager `outside`.

Tests start several hundred Python processes. If PYTHONDONTWRITEBYTECODE is set, as it is in many container images, each
of them would compile all its modules again. The byte code is then written to the cache folder, and not to the clone or
.venv.
"""

import atexit
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Final

from tools import keep
from tools.steps import Say

ROOT: Final = Path(__file__).parents[1]
_SAVED: Final = "DRPO_TESTS_OUTSIDE"  # passes the user's variables on to the processes of pytest-xdist
_MAX_TEMPORARY_LENGTH: Final = 60  # characters; a folder with a longer name leaves no room for the path of a socket

OUTSIDE: Final[Mapping[str, str]] = MappingProxyType(json.loads(os.environ.get(_SAVED, "null")) or dict(os.environ))
"""The environment variables that pytest was started with."""

# Variables that tests get although their names match _FOREIGN, and variables that tests do not get.
_KEPT: Final = re.compile(
    r"DRPO_(?:DATA|SEALED|QUALITY|QUALITY_REPORT)|PYTHON(?:DONTWRITEBYTECODE|PYCACHEPREFIX)|XDG_CACHE_HOME"
)
_FOREIGN: Final = re.compile(
    r"(?:DRPO|OPENAI|AZURE|ANTHROPIC|HF|HUGGING_?FACE\w*|TRANSFORMERS|LANGCHAIN|LANGSMITH|LLM|LITELLM|LLAMA|VLLM|OTEL"
    r"|PROMETHEUS|XDG|LC|GIT(?!_SSL)|MAKE|UVLOOP|AIOHTTP|RICH|TTY|CLICOLOR|GUNICORN)_.*"
    r"|(?:PG|PYTHON|MAKE|MFLAGS|GNUMAKE|LANG|BASH_FUNC).*"
    r"|(?:https?|ftp|all|no|ws|wss|socks)_proxy|(?:HTTPS?|FTP|ALL|NO|WS|WSS|SOCKS)_PROXY"
    r"|TZ|TZDIR|NO_COLOR|FORCE_COLOR|COLUMNS|LINES|NODE_OPTIONS|SOURCE_DATE_EPOCH|CDPATH|BASH_ENV|ENV|POSIXLY_CORRECT"
    r"|VIRTUAL_ENV|PORT|HOST|DATABASE_URL|DEBUG|WORKERS|ARGS"
)


def neutral_environment(outside: Mapping[str, str], home: Path) -> dict[str, str]:
    """Return the environment variables of tests.

    Args:
        outside: The user's variables.
        home: An empty folder, which replaces the user's home folder.
    """
    kept = {name: value for name, value in outside.items() if _KEPT.fullmatch(name) or not _FOREIGN.fullmatch(name)}
    if len(kept.get("TMPDIR", "")) > _MAX_TEMPORARY_LENGTH:
        del kept["TMPDIR"]
    if outside.get("PYTHONPATH", "").split(os.pathsep)[0] == str(ROOT):
        kept["PYTHONPATH"] = str(ROOT)
    # A proxy that a test starts without --port listens on a free port.
    fixed = {"HOME": str(home), "LC_ALL": "C.UTF-8", "TZ": "UTC", "DRPO_PORT": "0"}
    cache = outside.get("XDG_CACHE_HOME") or os.path.join(outside.get("HOME", "/"), ".cache")  # noqa: PTH118 - pure
    return {**kept, **fixed, "XDG_CACHE_HOME": cache, _SAVED: json.dumps(dict(outside))}


def apply() -> None:
    """Make the surroundings of this process, and of all processes that it starts, neutral."""
    home = Path(tempfile.mkdtemp(prefix="drpo-home-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    _replace(neutral_environment(OUTSIDE, home))
    if os.environ.get("PYTHONDONTWRITEBYTECODE"):
        _keep_byte_code()
    os.umask(0o022)
    time.tzset()
    tempfile.tempdir = None


def _keep_byte_code() -> None:
    """Let this process and its children write byte code to the cache folder, if that folder is writable."""
    with suppress(OSError):
        folder = keep.kept(keep.cache_root() / f"bytecode-{keep.key_of(str(ROOT))}", Path.mkdir, print)
        # The fingerprint of a kept folder leaves out what is in __pycache__.
        os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = str(folder / "__pycache__")
        del os.environ["PYTHONDONTWRITEBYTECODE"]
        sys.dont_write_bytecode = False


@contextmanager
def outside() -> Iterator[None]:
    """Restore the user's environment variables until the block ends, for a step that downloads packages."""
    inside = dict(os.environ)
    _replace(OUTSIDE)
    try:
        yield
    finally:
        _replace(inside)


def kept(folder: Path, build: Callable[[Path], None], say: Say) -> Path:
    """Build a folder in the cache with the user's environment variables, if it is missing (see `tools.keep.kept`)."""

    def build_outside(place: Path) -> None:
        with outside():
            build(place)

    return keep.kept(folder, build_outside, say)


def _replace(variables: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(variables)
