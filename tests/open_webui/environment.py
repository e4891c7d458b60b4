"""The environment of Open WebUI: whether this machine can hold it, how it is built, and how its server is started.

It does not depend on the tests.
"""

import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.clients.environments import clean_environment
from tests.neutral import kept
from tests.vllm.server import free_port, serving
from tools.keep import cache_root, is_intact, key_of
from tools.packages import can_install, install, uv_command, uv_environment
from tools.steps import Say, run_step

_REQUIREMENTS: Final = Path(__file__).with_name("requirements.txt")
_VLLM: Final = Path(__file__).parents[1] / "vllm"
_CPU_TORCH: Final = _VLLM / "torch-cpu.txt"
_INDEX_TORCH: Final = _VLLM / "torch-index.txt"
_PYTHON: Final = "3.11"  # the +cpu build of torch is for this version
_MIN_FREE_DISK: Final = 5e9  # bytes: the environment has 2.4 GB, and uv's cache as much
_CREATE_TIMEOUT: Final = 120.0  # seconds

SETTINGS: Final = {
    "OPENAI_API_KEY": "any",
    "ENABLE_OLLAMA_API": "false",
    "ENABLE_FORWARD_USER_INFO_HEADERS": "true",
    "DEFAULT_MODEL_METADATA": '{"capabilities": {"builtin_tools": false}}',
}
"""The settings that docs/serving.md recommends."""
_OFFLINE: Final = {
    "OFFLINE_MODE": "true",
    "RAG_EMBEDDING_ENGINE": "openai",  # otherwise it looks for an embedding model at its start
    "DO_NOT_TRACK": "true",
    "ANONYMIZED_TELEMETRY": "false",
    "WEBUI_SECRET_KEY": "a-key-of-tests-with-more-than-32-characters",
}


def shortcoming() -> str | None:
    """Why this machine cannot hold the environment; None if it can."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return f"the pinned packages are for Linux on x86_64; this is {sys.platform} on {platform.machine()}"
    cache = cache_root()
    free = shutil.disk_usage(next(one for one in (cache, *cache.parents) if one.exists())).free
    if free < _MIN_FREE_DISK and not is_intact(_folder()):
        return f"{free / 1e9:.1f} GB free under {cache}; Open WebUI needs {_MIN_FREE_DISK / 1e9:.0f}"
    return None


def environment(say: Say) -> Path:
    """The environment's folder. It is built if it is missing or damaged.

    Raises:
        StepError: It could not be built.
    """
    return kept(_folder(), lambda place: _build(place, say), say)


def _folder() -> Path:
    return cache_root() / f"open-webui-{key_of(_REQUIREMENTS, _CPU_TORCH, _INDEX_TORCH, _PYTHON)}"


def _build(place: Path, say: Say) -> None:
    log = place.with_suffix(".log")
    command = [*uv_command(say), "venv", "--python", _PYTHON, str(place)]
    run_step("environment of Open WebUI", command, log, say, _CREATE_TIMEOUT, uv_environment())
    into = ["--python", str(place / "bin" / "python")]
    torch = _CPU_TORCH if can_install(_CPU_TORCH, into, say) else _INDEX_TORCH
    note = "2.4 GB" if torch == _CPU_TORCH else "no CPU build of torch found, so the CUDA one: 5 GB"
    install([_REQUIREMENTS, torch], into, log, say, f"packages of Open WebUI ({note}, once)")


@contextmanager
def open_webui(python: Path, base_url: str, folder: Path, say: Say) -> Iterator[str]:
    """Run Open WebUI with a new database, and yield its URL.

    Args:
        python: The interpreter of its environment.
        base_url: The base URL of the proxy, with /v1.
        folder: A folder for its data and its log.
        say: Receives lines of progress.

    Raises:
        StepError: It did not start.
    """
    url = f"http://127.0.0.1:{free_port()}"
    places = {"HOME": str(folder), "DATA_DIR": str(folder), "OPENAI_API_BASE_URL": base_url}
    start = f"from open_webui import app; app(['serve', '--host', '127.0.0.1', '--port', '{url.rpartition(':')[2]}'])"
    env = clean_environment(**SETTINGS, **_OFFLINE, **places)
    with serving("Open WebUI", [str(python), "-c", start], url, "/health", folder / "open-webui.log", say, env):
        yield url
