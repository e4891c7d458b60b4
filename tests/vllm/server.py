"""Starts and stops real servers: vLLM, and the proxy in front of it. It does not depend on the tests."""

import contextlib
import os
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.ports import free_port
from tests.vllm.models import SmallModel, model_folder, with_template
from tools.keep import cache_root
from tools.steps import Say, StepError, end_group, spawn, tail, wait_for

CONTEXT: Final = 4096  # tokens
# Tokens in a block of the prefix cache. With 128, the default on CPU, short conversations have few hits.
BLOCK: Final = 32
FEW_BLOCKS: Final = 60  # blocks of the prefix cache of the server `few_blocks`
_START_TIMEOUT: Final = 600.0  # seconds
_THREADS: Final = 4


@contextlib.contextmanager
def vllm_server(
    environment: Path, model: SmallModel, folder: Path, log: Path, say: Say, cores: Sequence[int] = ()
) -> Iterator[str]:
    """Run a vLLM server and yield its base URL, without /v1.

    Args:
        environment: The vLLM environment.
        model: The model's name and options.
        folder: The model's files.
        log: The file that receives the output.
        say: Receives lines of progress.
        cores: The cores that it computes on. The default is the first four.

    Raises:
        StepError: The server did not start.
    """
    port = free_port()
    command = [
        *(str(environment / "bin" / "python"), "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(folder), "--served-model-name", model.name, "--host", "127.0.0.1", "--port", str(port)),
        *("--dtype", "float32", "--enforce-eager", "--max-model-len", str(CONTEXT), "--max-num-seqs", "16"),
        *("--block-size", str(BLOCK), "--enable-prompt-tokens-details", *model.serving),
    ]
    title, at = f"vLLM with {model.name}", f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="drpo-") as scratch:
        env = _vllm_environment(environment, scratch, cores or sorted(os.sched_getaffinity(0))[:_THREADS])
        with serving(title, command, at, "/health", log, say, env) as url:
            yield url


@contextlib.contextmanager
def proxy_server(backend: str, arguments: Sequence[str], log: Path, say: Say) -> Iterator[str]:
    """Run the proxy in front of a backend and yield its base URL, without /v1.

    Raises:
        StepError: The proxy did not start.
    """
    port = free_port()
    command = [sys.executable, "-m", "proxy", "--backend", backend, "--port", str(port), *arguments]
    env = {name: value for name, value in os.environ.items() if not name.startswith("DRPO_")}
    with serving("proxy", command, f"http://127.0.0.1:{port}", "/health/ready", log, say, env) as url:
        yield url


@contextlib.contextmanager
def serving(
    title: str, command: Sequence[str], url: str, health: str, log: Path, say: Say, env: Mapping[str, str]
) -> Iterator[str]:
    """Run a command that serves `url`, and yield this URL as soon as its path `health` answers with 200.

    Raises:
        StepError: The command ended, or the path did not answer in time.
    """
    process = spawn(command, log, env)

    def ready() -> bool:
        if process.poll() is not None:
            raise StepError(f"{title} ended with {process.returncode} before it was ready\n{tail(log)}")
        return _answers(url + health)

    try:
        wait_for(f"{title} starting", ready, log, say, _START_TIMEOUT)
        yield url
    finally:
        end_group(process)


def _vllm_environment(environment: Path, scratch: str, cores: Sequence[int]) -> dict[str, str]:
    """Return the environment variables for vLLM on a CPU, offline, with its temporary files in `scratch`."""
    return {
        **os.environ,
        "TMPDIR": scratch,
        "LD_PRELOAD": str(environment / "lib" / "libiomp5.so"),
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CACHE_ROOT": str(cache_root() / "vllm-run"),
        "VLLM_CONFIG_ROOT": str(cache_root() / "vllm-run"),
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_SERVER_DEV_MODE": "1",  # POST /reset_prefix_cache
        "HF_HUB_OFFLINE": "1",
    }


def wide_terminal() -> dict[str, str]:
    """Return environment variables with which a command does not wrap its tables."""
    return {**os.environ, "COLUMNS": "300"}


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


class OneServer:
    """The vLLM server of a test session. It runs only one model at a time, to save memory."""

    def __init__(self, environment: Path, logs: Path, say: Say) -> None:
        self._environment = environment
        self._logs = logs
        self._say = say
        self._running = contextlib.ExitStack()
        self._model: SmallModel | None = None
        self._url = ""

    def url(self, model: SmallModel) -> str:
        """Return the base URL of a server of `model`. It replaces the server of another model.

        Raises:
            StepError: The server did not start.
        """
        if model != self._model:
            self.close()
            folder = model_folder(model, self._environment, self._say)
            if model.template:
                folder = with_template(folder, model.template, self._logs / f"{folder.name}-with-template")
            log = self._logs / f"vllm-{folder.name}.log"
            self._url = self._running.enter_context(vllm_server(self._environment, model, folder, log, self._say))
            self._model = model
        return self._url

    def close(self) -> None:
        """Stop the running server, if there is one."""
        self._running.close()
        self._model = None
