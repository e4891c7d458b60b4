"""The environment of Open WebUI, and how its server is started.

It does not depend on the tests.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.clients.environments import clean_environment
from tests.ports import free_port
from tests.torch_environment import TorchEnvironment
from tests.vllm.server import serving
from tools.steps import Say

_MIN_FREE_DISK: Final = 5e9  # bytes: the environment has 2.4 GB, and uv's cache as much
ENVIRONMENT: Final = TorchEnvironment(
    "open-webui",
    "Open WebUI",
    Path(__file__).with_name("requirements.txt"),
    _MIN_FREE_DISK,
    size="2.4 GB",
    cuda_size="5 GB",
)

SETTINGS: Final = {
    "OPENAI_API_KEY": "any",
    "ENABLE_OLLAMA_API": "false",
    "ENABLE_FORWARD_USER_INFO_HEADERS": "true",
    "DEFAULT_MODEL_METADATA": '{"capabilities": {"builtin_tools": false}}',
}
"""The settings that docs/clients.md recommends."""
_OFFLINE: Final = {
    "OFFLINE_MODE": "true",
    "RAG_EMBEDDING_ENGINE": "openai",  # otherwise it looks for an embedding model at its start
    "DO_NOT_TRACK": "true",
    "ANONYMIZED_TELEMETRY": "false",
    "WEBUI_SECRET_KEY": "a-key-of-tests-with-more-than-32-characters",
}


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
