"""Each gateway that is measured: how it is installed, configured as its documentation recommends for production, and
started on one core in front of a backend. Knows no load.
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
from tests.bench.peers.machine import SERVER_CORE, free_port, listens, running, write
from tests.bench.peers.source import MODEL
from tools.steps import Say

_OTHERS_WITHIN: Final = 5.0  # seconds
ROOT: Final = Path(__file__).parents[3]


@dataclass(frozen=True, slots=True)
class Gateway:
    """One that runs. pid: None for what is no process of ours (no proxy at all); model: what a client asks it for."""

    url: str
    pid: int | None
    model: str = MODEL
    headers: Mapping[str, str] = field(default_factory=dict)


Start = Callable[[str, Path], AbstractContextManager[Gateway]]
"""Of a backend's URL and a folder for files: the gateway, while it runs. Raises CannotRunError, StepError."""


@contextmanager
def no_proxy(backend: str, _folder: Path) -> Iterator[Gateway]:
    yield Gateway(backend, None)


@contextmanager
def bare_relay(backend: str, _folder: Path, *options: str) -> Iterator[Gateway]:
    """tests/bench/peers/relay.py: aiohttp in, aiohttp out."""
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
) -> Iterator[Gateway]:
    """Everything on: keys, admission, retrieval, injection, metrics, a JSON log line for each request. core: None for
    all of them; more: further flags."""
    port = free_port()
    key, line = new_key("bench")
    keys = write(folder, f"keys-{port}", line)
    told = ["--backend", backend, "--kind", f"{MODEL}={kind}", "--bundle", f"{MODEL}=default"]
    limits = ["--max-in-flight", "2048", "--api-keys-file", str(keys), "--log-format", "json"]
    command = [sys.executable, "-m", "proxy", "--port", str(port), "--workers", str(workers), *told, *limits, *more]
    with running(command, core, listens(port)) as pid:
        if workers > 1:
            sleep(_OTHERS_WITHIN)  # one listens: the others cannot be told apart from outside
        yield Gateway(f"http://127.0.0.1:{port}", pid, headers={"Authorization": f"Bearer {key}"})


@contextmanager
def vllm_router(backend: str, _folder: Path, say: Say) -> Iterator[Gateway]:
    """vLLM's own router (Rust), with its cache-aware policy."""
    with router([backend], "cache_aware", SERVER_CORE, say) as gateway:
        yield gateway


@contextmanager
def router(backends: Sequence[str], policy: str, core: int | None, say: Say) -> Iterator[Gateway]:
    """vLLM's own router in front of servers; core: see `running`."""
    port, metrics = free_port(), free_port()
    command = [*_script("vllm-router", say), "--worker-urls", *backends, "--policy", policy]
    command += ["--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(metrics), "--log-level", "warning"]
    with running(command, core, listens(port)) as pid:
        yield Gateway(f"http://127.0.0.1:{port}", pid)


_TENSORZERO: Final = """
import os, sys, threading
from tensorzero.tensorzero import _start_http_gateway as start
gateway = start(config_file=sys.argv[1], clickhouse_url=None, postgres_url=None, valkey_url=None, async_setup=False)
with open(sys.argv[2] + ".new", "w") as told:
    told.write(gateway.base_url)
os.rename(sys.argv[2] + ".new", sys.argv[2])
threading.Event().wait()
"""


@contextmanager
def tensorzero(backend: str, folder: Path, say: Say) -> Iterator[Gateway]:
    """TensorZero (Rust): the gateway that its Python package embeds, which chooses its own port; observability off."""
    model = f'[models.{MODEL}]\nrouting = ["vllm"]\n[models.{MODEL}.providers.vllm]\ntype = "vllm"\n'
    model += f'api_base = "{backend}/v1/"\nmodel_name = "{MODEL}"\napi_key_location = "none"\n'
    config = write(folder, "tensorzero.toml", f"[gateway]\nobservability.enabled = false\n{model}")
    told = folder / "tensorzero.url"
    command = [str(python_of("tensorzero", say)), "-c", _TENSORZERO, str(config), str(told)]
    with running(command, SERVER_CORE, told.exists) as pid:
        url = told.read_text(encoding="utf-8").rstrip("/").removesuffix("/v1").removesuffix("/openai")
        yield Gateway(f"{url}/openai", pid, f"tensorzero::model_name::{MODEL}")


@contextmanager
def litellm(backend: str, folder: Path, say: Say) -> Iterator[Gateway]:
    """LiteLLM's proxy: one worker, a master key, logs of errors alone, no database."""
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
    told = write(folder, "litellm.yaml", json.dumps(settings))  # JSON is YAML
    command = [*_script("litellm", say), "--config", str(told), "--host", "127.0.0.1"]
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION"}
    with running([*command, "--port", str(port), "--num_workers", "1"], SERVER_CORE, listens(port), quiet) as pid:
        yield Gateway(f"http://127.0.0.1:{port}", pid, headers={"Authorization": "Bearer sk-bench"})


@contextmanager
def portkey(backend: str, _folder: Path, say: Say) -> Iterator[Gateway]:
    """Portkey's gateway (Node), without its console."""
    port = free_port()
    command = ["node", str(node_gateway(say)), "--headless", f"--port={port}"]
    allowed = {"TRUSTED_CUSTOM_HOSTS": "127.0.0.1", "NODE_ENV": "production"}
    headers = {"x-portkey-provider": "openai", "x-portkey-custom-host": f"{backend}/v1", "Authorization": "Bearer x"}
    with running(command, SERVER_CORE, listens(port), allowed) as pid:
        yield Gateway(f"http://127.0.0.1:{port}", pid, headers=headers)


def gateways(say: Say) -> dict[str, Start]:
    """By the name that the tables show."""
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
    """How a command of an environment is called: its first line names the folder that it was built in, now renamed."""
    python = python_of(name, say)
    return [str(python), str(python.with_name(name))]
