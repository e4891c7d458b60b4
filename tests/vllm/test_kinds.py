"""Tests that a base model with a chat template in its folder is served as a base model, on real vLLM."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import openai
import pytest

from tests.vllm.models import BASE, CHAT
from tests.vllm.queries import asking
from tests.vllm.server import proxy_server, wide_terminal
from tools.steps import Say


def _checked(url: str, name: str) -> str:
    command = [sys.executable, "-m", "proxy", "check", "--backend", url, "--bundle", f"{name}=default"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env=wide_terminal())
    assert found.returncode == 0, found.stdout + found.stderr
    return next(line for line in found.stdout.splitlines() if line.startswith(f"{name} is a "))


def test_base_model_with_a_template_is_a_completion_model(few_blocks: str, figure: Callable[[str], None]) -> None:
    with openai.OpenAI(base_url=f"{few_blocks}/v1", api_key="none") as direct:
        reply = direct.chat.completions.create(model=BASE.name, messages=asking("Name a fruit."), max_tokens=1)
        assert reply.choices, "the server takes chat, because the model has a template"
    line = _checked(few_blocks, BASE.name)
    figure(line)
    assert line.startswith(f"{BASE.name} is a completion model: ")
    assert " short chat answers " in line


def test_base_model_with_a_template_gets_one_text_with_examples(
    few_blocks: str, tmp_path_factory: pytest.TempPathFactory, say: Say
) -> None:
    log: Path = tmp_path_factory.mktemp("proxy") / "proxy.log"
    with proxy_server(few_blocks, ["--bundle", "default", "--retrieval-timeout", "30"], log, say) as url:
        _wait_for_the_decision(log)
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            raw = client.chat.completions.with_raw_response.create(
                model=BASE.name, messages=asking("What is DNA?"), max_tokens=60, temperature=0
            )
    reply = raw.parse()
    assert raw.headers["x-drpo-examples"]
    assert reply.usage is not None
    assert reply.usage.prompt_tokens > 300
    assert reply.choices[0].message.content
    assert "<|im_" not in reply.choices[0].message.content


def _wait_for_the_decision(log: Path) -> None:
    """Wait until the proxy has decided the kind: on a slow machine, requests before that get 503 after 60 seconds."""
    end = time.monotonic() + 120
    while '"kind":"completion"' not in log.read_text(encoding="utf-8"):
        assert time.monotonic() < end, "the kind of the model is not decided"
        time.sleep(0.2)


def test_chat_model_is_a_chat_model(chat_url: str, figure: Callable[[str], None]) -> None:
    line = _checked(chat_url, CHAT.name)
    figure(line)
    assert line.startswith(f"{CHAT.name} is a chat model: ")
    assert " short chat answers " in line
