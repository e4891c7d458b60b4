"""Tests of requests in the form of Open WebUI 0.12. Its background requests get answers in the form that it reads."""

import json
from typing import Any, Final

import aiohttp
import pytest

from proxy.backends.embedded.model_file import MODEL_NAME
from tests.clients.answers import QUESTION, check_answer
from tests.proxy.openai.background_requests import BACKGROUND, user

_HEADERS: Final = {
    "X-OpenWebUI-User-Name": "Ann",
    "X-OpenWebUI-User-Id": "0a1b",
    "X-OpenWebUI-User-Email": "ann@example.org",
    "X-OpenWebUI-User-Role": "user",
    "X-OpenWebUI-Chat-Id": "2c3d",
}


async def _reply(base_url: str, body: dict[str, Any]) -> tuple[Any, bytes]:
    body = {"model": MODEL_NAME, **body}
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{base_url}/chat/completions", json=body, headers=_HEADERS) as reply:
            assert reply.status == 200, await reply.text()
            return reply.headers, await reply.read()


@pytest.mark.parametrize(
    ("client", "field", "more"),
    [
        ("open-webui-title", "title", {"max_tokens": 1000}),
        ("open-webui-early-title", "title", {"max_tokens": 1000}),
        ("open-webui-tags", "tags", {}),
        ("open-webui-follow-ups", "follow_ups", {}),
        ("open-webui-queries", "queries", {}),
    ],
)
async def test_background_request_is_answered_with_the_object_that_is_read(
    base_url: str, client: str, field: str, more: dict[str, Any]
) -> None:
    headers, reply = await _reply(base_url, {"messages": BACKGROUND[client], "stream": False, **more})
    assert headers["x-drpo-reduced"] == "background"
    assert headers["x-drpo-examples"] == ""
    found = json.loads(json.loads(reply)["choices"][0]["message"]["content"])
    assert list(found) == [field]
    assert found[field]


@pytest.mark.parametrize("more", [{}, {"stream_options": {"include_usage": True}}], ids=["default", "with-usage"])
async def test_chat_is_streamed_with_its_examples(base_url: str, more: dict[str, Any]) -> None:
    """Open WebUI asks for the usage only if the model's capabilities say that it is reported."""
    headers, reply = await _reply(base_url, {"messages": [user(QUESTION)], "stream": True, **more})
    assert headers["x-drpo-examples"]
    chunks = [json.loads(line[6:]) for line in reply.decode().split("\n\n") if line.startswith("data: {")]
    check_answer("".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"]))
    assert bool(chunks[-1].get("usage")) is bool(more)
    if more:
        assert chunks[-1]["usage"]["prompt_tokens"] > 100


async def test_tools_that_open_webui_offers_by_default_are_refused_with_the_capability_to_switch_off(
    base_url: str,
) -> None:
    tool = {"type": "function", "function": {"name": "get_current_timestamp", "parameters": {"type": "object"}}}
    body = {"model": MODEL_NAME, "messages": [user(QUESTION)], "stream": True, "tools": [tool]}
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{base_url}/chat/completions", json=body, headers=_HEADERS) as reply:
            assert reply.status == 400
            assert "Builtin Tools" in (await reply.json())["error"]["message"]
