"""Tests of a chat model behind the proxy on real vLLM: detection, examples as turns, and unchanged tool calls."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.vllm.models import CHAT
from tests.vllm.queries import asking
from tests.vllm.server import wide_terminal

_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "strict": True,  # without it vLLM does not enforce the schema
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
_WEATHER: dict[str, Any] = {
    "model": CHAT.name,
    "messages": asking("What is the weather in Paris?"),
    "max_tokens": 80,
    "temperature": 0,
    "tools": [_TOOL],
    "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
}


@pytest.fixture
def chat_client(chat_proxy_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{chat_proxy_url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def chat_direct(chat_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{chat_url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_check_detects_a_model_with_template_as_chat(chat_url: str) -> None:
    command = [sys.executable, "-m", "proxy", "check", "--backend", chat_url, "--bundle", f"{CHAT.name}=default"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=wide_terminal())
    assert found.returncode == 0, found.stdout + found.stderr
    row = next(line for line in found.stdout.splitlines() if chat_url in line)
    assert "chat" in row


def test_chat_model_gets_examples_as_turns(chat_client: openai.OpenAI, chat_direct: openai.OpenAI) -> None:
    request: dict[str, Any] = {"model": CHAT.name, "messages": asking("Why do cats purr?"), "max_tokens": 24}
    raw = chat_client.chat.completions.with_raw_response.create(**request, temperature=0)
    aligned = raw.parse()
    bare = chat_direct.chat.completions.create(**request, temperature=0)
    assert raw.headers["x-drpo-examples"]
    assert aligned.choices[0].message.content
    assert aligned.usage.prompt_tokens > 3 * bare.usage.prompt_tokens
    stream = chat_client.chat.completions.create(**request, temperature=0, stream=True)
    assert "".join(choice.delta.content or "" for chunk in stream for choice in chunk.choices)


def test_raw_variant_equals_the_answer_of_the_backend(chat_client: openai.OpenAI, chat_direct: openai.OpenAI) -> None:
    request: dict[str, Any] = {"messages": asking("Why do cats purr?"), "max_tokens": 24, "temperature": 0}
    ours = chat_client.chat.completions.create(model=f"{CHAT.name}@raw", **request)
    own = chat_direct.chat.completions.create(model=CHAT.name, **request)
    assert ours.choices == own.choices
    assert ours.usage.prompt_tokens == own.usage.prompt_tokens


def test_reply_contains_the_tool_call(chat_client: openai.OpenAI) -> None:
    raw = chat_client.chat.completions.with_raw_response.create(**_WEATHER)
    calls = raw.parse().choices[0].message.tool_calls
    assert raw.headers["x-drpo-reduced"] == "tools"
    assert [call.function.name for call in calls] == ["get_weather"]
    assert json.loads(calls[0].function.arguments)["city"] in {"Paris", "Rome"}


def test_streamed_tool_call_equals_the_unstreamed_call(chat_client: openai.OpenAI) -> None:
    whole = chat_client.chat.completions.create(**_WEATHER).choices[0].message.tool_calls[0].function
    stream = chat_client.chat.completions.create(**_WEATHER, stream=True)
    parts = [call for chunk in stream for choice in chunk.choices for call in choice.delta.tool_calls or ()]
    assert [part.function.name for part in parts if part.function.name] == [whole.name]
    assert json.loads("".join(part.function.arguments or "" for part in parts)) == json.loads(whole.arguments)


def test_required_tool_call_has_its_finish_reason(chat_client: openai.OpenAI) -> None:
    choice = chat_client.chat.completions.create(**{**_WEATHER, "tool_choice": "required"}).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls[0].function.name == "get_weather"
