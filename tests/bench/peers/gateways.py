"""Installs, configures and starts each gateway that is measured, on one core in front of a backend.

Each gateway is configured as its documentation recommends for production. This module does not depend on the load.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import sleep
from typing import Final

from proxy.api.auth import new_key
from tests.bench.peers.install import node_gateway, python_of
from tests.bench.peers.machine import SERVER_CORE, listens, running, write
from tests.bench.peers.source import MODEL
from tests.ports import free_port
from tools.steps import Say

_WORKERS_START: Final = 5.0  # seconds
ROOT: Final = Path(__file__).parents[3]


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway.

    Attributes:
        url: The base URL, without /v1.
        pid: The process; None if there is no gateway.
        model: The name of the model in requests.
        headers: The headers that requests need.
    """

    url: str
    pid: int | None
    model: str = MODEL
    headers: Mapping[str, str] = field(default_factory=dict)


Start = Callable[[str, Path], AbstractContextManager[Gateway]]
"""Starts a gateway, from the URL of a backend and a folder for files. Raises CannotRunError or StepError."""


@contextmanager
def no_proxy(backend: str, _folder: Path) -> Iterator[Gateway]:
    yield Gateway(backend, None)


@contextmanager
def bare_relay(backend: str, _folder: Path, *options: str) -> Iterator[Gateway]:
    """Start tests/bench/peers/relay.py, which receives and sends with aiohttp."""
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.peers.relay", str(port), backend, *options]
    with running(command, SERVER_CORE, listens(port)) as pid:
        yield Gateway(f"http://127.0.0.1:{port}", pid)


@contextmanager
def drpo(
    backend: str,
    folder: Path,
    *,
    kind: str = "chat",
    workers: int = 1,
    core: int | None = SERVER_CORE,
    more: Sequence[str] = (),
    tree: Path = ROOT,
) -> Iterator[Gateway]:
    """Run drpo-proxy with keys, admission, retrieval, injection, metrics and a JSON log line for each request.

    Args:
        backend: The URL of the backend.
        folder: The folder for files.
        kind: The kind of the model: chat or completion.
        workers: The number of workers.
        core: The core that it runs on; None for all cores.
        more: Further flags.
        tree: The checkout whose code runs.
    """
    port = free_port()
    key, line = new_key("bench")
    keys = write(folder, f"keys-{port}", line)
    model = ["--backend", backend, "--kind", f"{MODEL}={kind}", "--bundle", f"{MODEL}=default"]
    limits = ["--max-in-flight", "2048", "--api-keys-file", str(keys), "--log-format", "json"]
    command = [sys.executable, "-P", "-m", "proxy", "--port", str(port), "--workers", str(workers)]
    extra = {"PYTHONPATH": str(tree)}
    with running([*command, *model, *limits, *more], core, listens(port), extra) as pid:
        if workers > 1:
            sleep(_WORKERS_START)  # one worker listens; from outside nobody sees whether the others do
        yield Gateway(f"http://127.0.0.1:{port}", pid, headers={"Authorization": f"Bearer {key}"})


@contextmanager
def vllm_router(backend: str, _folder: Path, say: Say) -> Iterator[Gateway]:
    """Run vLLM's own router (Rust), with its cache-aware policy."""
    with router([backend], "cache_aware", SERVER_CORE, say) as gateway:
        yield gateway


@contextmanager
def router(backends: Sequence[str], policy: str, core: int | None, say: Say) -> Iterator[Gateway]:
    """Run vLLM's own router in front of several servers, on one core or (None) on all cores."""
    port, metrics = free_port(), free_port()
    command = [*_script("vllm-router", say), "--worker-urls", *backends, "--policy", policy]
    command += ["--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(metrics), "--log-level", "warning"]
    with running(command, core, listens(port)) as pid:
        yield Gateway(f"http://127.0.0.1:{port}", pid)


_TENSORZERO: Final = """
import os, sys, threading
from tensorzero.tensorzero import _start_http_gateway as start
gateway = start(config_file=sys.argv[1], clickhouse_url=None, postgres_url=None, valkey_url=None, async_setup=False)
with open(sys.argv[2] + ".new", "w") as file:
    file.write(gateway.base_url)
os.rename(sys.argv[2] + ".new", sys.argv[2])
threading.Event().wait()
"""


@contextmanager
def tensorzero(backend: str, folder: Path, say: Say) -> Iterator[Gateway]:
    """Run TensorZero's gateway (Rust) from its Python package, on a port that it chooses, without observability."""
    model = f'[models.{MODEL}]\nrouting = ["vllm"]\n[models.{MODEL}.providers.vllm]\ntype = "vllm"\n'
    model += f'api_base = "{backend}/v1/"\nmodel_name = "{MODEL}"\napi_key_location = "none"\n'
    config = write(folder, "tensorzero.toml", f"[gateway]\nobservability.enabled = false\n{model}")
    url_file = folder / "tensorzero.url"
    command = [str(python_of("tensorzero", say)), "-c", _TENSORZERO, str(config), str(url_file)]
    with running(command, SERVER_CORE, url_file.exists) as pid:
        url = url_file.read_text(encoding="utf-8").rstrip("/").removesuffix("/v1").removesuffix("/openai")
        yield Gateway(f"{url}/openai", pid, f"tensorzero::model_name::{MODEL}")


@contextmanager
def litellm(backend: str, folder: Path, say: Say) -> Iterator[Gateway]:
    """Run LiteLLM's proxy with one worker and a master key, without a database. It logs only errors."""
    port = free_port()
    settings = {
        "model_list": [
            {
                "model_name": MODEL,
                "litellm_params": {"model": f"hosted_vllm/{MODEL}", "api_base": f"{backend}/v1", "api_key": "none"},
            }
        ],
        "litellm_settings": {"set_verbose": False, "json_logs": True, "request_timeout": 600},
        "general_settings": {"master_key": "sk-bench"},
    }
    config = write(folder, "litellm.yaml", json.dumps(settings))  # JSON is YAML
    command = [*_script("litellm", say), "--config", str(config), "--host", "127.0.0.1"]
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION"}
    with running([*command, "--port", str(port), "--num_workers", "1"], SERVER_CORE, listens(port), quiet) as pid:
        yield Gateway(f"http://127.0.0.1:{port}", pid, headers={"Authorization": "Bearer sk-bench"})


@contextmanager
def portkey(backend: str, _folder: Path, say: Say) -> Iterator[Gateway]:
    """Run Portkey's gateway (Node), without its console."""
    port = free_port()
    command = ["node", str(node_gateway(say)), "--headless", f"--port={port}"]
    allowed = {"TRUSTED_CUSTOM_HOSTS": "127.0.0.1", "NODE_ENV": "production"}
    headers = {"x-portkey-provider": "openai", "x-portkey-custom-host": f"{backend}/v1", "Authorization": "Bearer x"}
    with running(command, SERVER_CORE, listens(port), allowed) as pid:
        yield Gateway(f"http://127.0.0.1:{port}", pid, headers=headers)


def gateways(say: Say) -> dict[str, Start]:
    """Return functions that start the gateways, by the gateways' names in the tables."""
    return {
        "no proxy": no_proxy,
        "bare aiohttp relay": bare_relay,
        "the same on uvloop": lambda backend, folder: bare_relay(backend, folder, "uvloop"),
        "drpo-proxy": drpo,
        "vllm-router": partial(vllm_router, say=say),
        "TensorZero": partial(tensorzero, say=say),
        "Portkey": partial(portkey, say=say),
        "LiteLLM": partial(litellm, say=say),
    }


def _script(name: str, say: Say) -> list[str]:
    """Return how to call a command: with its environment's Python, because its first line names a renamed folder."""
    python = python_of(name, say)
    return [str(python), str(python.with_name(name))]
