"""Fixtures of `make test-vllm`: the environment, one vLLM server at a time, a proxy in front of it, and OpenAI clients.

The fixtures install everything that they need. The tests are skipped only if the machine cannot hold vLLM, with a
banner at the end.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import openai
import pytest

from tests.vllm.environment import environment, shortcoming
from tests.vllm.models import BASE, CHAT
from tests.vllm.server import FEW_BLOCKS, OneServer, proxy_server
from tools.steps import Say

_FIGURES: Final = pytest.StashKey[list[str]]()
_SKIPPED: Final = pytest.StashKey[str]()
_SERVERS: Final = ("base_url", "few_blocks", "chat_url")
"""The fixtures that replace the running server, in the order of their tests."""
_FEW_FLAGS: Final = (
    "--disable-hybrid-kv-cache-manager",
    "--num-gpu-blocks-override",
    str(FEW_BLOCKS),
    "--max-model-len",
    "1024",
)
_CHATML: Final = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_FEW: Final = replace(BASE, serving=_FEW_FLAGS, template=_CHATML)
_TEST_TIMEOUT: Final = 600.0  # seconds, for a test alone; its fixtures have their own timeouts


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder, and sort the tests by server, so that each server is started once."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.vllm)
            item.add_marker(pytest.mark.timeout(_TEST_TIMEOUT, func_only=True))
    items.sort(key=_server_of)


def _server_of(item: pytest.Item) -> int:
    """Return the position of the test's server in _SERVERS, from 1; 0 for another server or none."""
    fixtures = getattr(item, "fixturenames", ()) if item.get_closest_marker("vllm") else ()
    return max((position for position, name in enumerate(_SERVERS, 1) if name in fixtures), default=0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the measured figures, and a banner if the tests were skipped."""
    if reason := config.stash.get(_SKIPPED, ""):
        terminalreporter.write_sep("!", "NOTHING WAS TESTED ON REAL vLLM", red=True, bold=True)
        terminalreporter.write_line(f"This machine cannot hold it: {reason}.", red=True)
    if figures := config.stash.get(_FIGURES, []):
        terminalreporter.write_sep("-", "measured on real vLLM")
        for figure in figures:
            terminalreporter.write_line(figure)


@pytest.fixture(scope="session")
def figure(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Adds a figure to the summary at the end."""
    return request.config.stash.setdefault(_FIGURES, []).append


@pytest.fixture(scope="session")
def vllm_environment(request: pytest.FixtureRequest, say: Say) -> Path:
    reason = shortcoming()
    if reason is not None:
        request.config.stash[_SKIPPED] = reason
        pytest.skip(f"real vLLM: {reason}")
    return environment(say)


@pytest.fixture(scope="session")
def servers(vllm_environment: Path, tmp_path_factory: pytest.TempPathFactory, say: Say) -> Iterator[OneServer]:
    one = OneServer(vllm_environment, tmp_path_factory.mktemp("vllm"), say)
    try:
        yield one
    finally:
        one.close()


@pytest.fixture(scope="session")
def base_url(servers: OneServer) -> str:
    """A real vLLM server of the base model, without /v1."""
    return servers.url(BASE)


@pytest.fixture(scope="session")
def few_blocks(servers: OneServer) -> str:
    """A server with few blocks, without /v1. Its base model has a chat template, to share one server for both."""
    return servers.url(_FEW)


@pytest.fixture(scope="session")
def chat_url(servers: OneServer) -> str:
    """A real vLLM server of the chat model, without /v1."""
    return servers.url(CHAT)


@pytest.fixture(scope="session")
def proxy_url(base_url: str, tmp_path_factory: pytest.TempPathFactory, say: Say) -> Iterator[str]:
    """The proxy with the default bundle in front of the base model, without /v1."""
    log = tmp_path_factory.mktemp("proxy") / "proxy.log"
    with proxy_server(base_url, ["--bundle", "default"], log, say) as url:
        yield url


@pytest.fixture(scope="session")
def chat_proxy_url(chat_url: str, tmp_path_factory: pytest.TempPathFactory, say: Say) -> Iterator[str]:
    """The proxy with the default bundle in front of the chat model, without /v1."""
    log = tmp_path_factory.mktemp("proxy") / "proxy.log"
    with proxy_server(chat_url, ["--bundle", f"{CHAT.name}=default"], log, say) as url:
        yield url


@pytest.fixture
def client(proxy_url: str) -> Iterator[openai.OpenAI]:
    """An OpenAI client of the proxy in front of the base model."""
    with openai.OpenAI(base_url=f"{proxy_url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def direct(base_url: str) -> Iterator[openai.OpenAI]:
    """An OpenAI client of the base model's server itself."""
    with openai.OpenAI(base_url=f"{base_url}/v1", api_key="none", max_retries=0) as client:
        yield client
