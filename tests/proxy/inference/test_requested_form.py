"""Tests that a field that asks for nothing has no effect: a base model answers, and a chat model gets examples."""

from typing import Any

import pytest

from tests.faults.scripted import Received, Reply, completion, scripted_backend
from tests.proxy.serving import serving

USER = {"role": "user", "content": "Why is the sky blue?"}
TOOLS = [{"type": "function", "function": {"name": "f"}}]
NOTHING: tuple[dict[str, Any], ...] = (
    {"tools": TOOLS, "tool_choice": "none"},
    {"tools": TOOLS, "tool_choice": {"type": "none"}},
    {"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}},
    {"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}},
    {"tools": [], "tool_choice": "auto"},
    {"tools": None, "tool_choice": None, "parallel_tool_calls": False},
    {"functions": [{"name": "f"}], "function_call": "none"},
    {"functions": [], "function_call": "auto"},
    {"response_format": {"type": "text"}},
    {"response_format": None},
    {"response_format": {}},
    {"structured_outputs": {}},
    {"structured_outputs": None},
    {"structured_outputs": {"json": None, "disable_any_whitespace": True}},
    {"structured_outputs": {"json_object": False, "choice": []}},
    {"guided_json": None, "guided_regex": "", "guided_choice": [], "grammar": None},
    {"logprobs": False, "top_logprobs": None},
    {"stream": False, "stream_options": None},
    {"stream": None, "stream_options": {"include_usage": True}},
    {"modalities": ["text"], "audio": {"voice": "alloy", "format": "wav"}},
    {"modalities": [], "audio": None},
    {"echo": False, "suffix": "", "prompt": None, "prompt_embeds": None},
    {"stop": "", "n": 1, "logit_bias": {}, "user": None},
    {"stop": [""], "metadata": {}, "store": False},
)
DROPPED = {"response_format", "structured_outputs", "stream_options", "suffix", "echo", "tools", "functions", "stop"}


async def answer(reply: Reply, request: Received) -> None:
    await reply.whole(completion("Because of air."))


@pytest.mark.parametrize("fields", NOTHING)
@pytest.mark.parametrize("kind", ["completion", "chat"])
async def test_field_that_asks_for_nothing_leaves_the_examples(kind: str, fields: dict[str, Any]) -> None:
    async with scripted_backend(answer, kind=kind) as backend, serving(backend.url) as proxy:
        status, headers, reply = await proxy.chat(**fields)
        sent = backend.generating[-1].json
    assert status == 200, reply
    assert headers["x-drpo-examples"].split(",")[-1] == "sky"
    assert "x-drpo-reduced" not in headers
    if kind == "completion":
        assert sent["stop"][0] != ""
        assert not (sent.keys() & DROPPED - {"stop"})


@pytest.mark.parametrize("fields", [{"tools": TOOLS, "tool_choice": "none"}, {"text": {"format": {"type": "text"}}}])
@pytest.mark.parametrize("kind", ["completion", "chat"])
async def test_field_of_the_responses_api_that_asks_for_nothing_leaves_the_examples(
    kind: str, fields: dict[str, Any]
) -> None:
    async with scripted_backend(answer, kind=kind) as backend, serving(backend.url) as proxy:
        body = {"model": "scripted", "input": "Why is the sky blue?", **fields}
        status, headers, reply = await proxy.post("/v1/responses", body)
    assert status == 200, reply
    assert headers["x-drpo-examples"].split(",")[-1] == "sky"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"tools": TOOLS}, "tools"),
        ({"tools": TOOLS, "tool_choice": "required"}, "tools"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "f"}}}, "tools"),
        ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": TOOLS}}, "tools"),
        ({"functions": [{"name": "f"}]}, "tools"),
        ({"structured_outputs": {"json": {}}}, "structured_outputs"),
        ({"structured_outputs": {"unheard_of": "x"}}, "structured_outputs"),
        ({"guided_json": {}}, "structured_outputs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"response_format": {"type": "structural_tag"}}, "response_format"),
    ],
)
async def test_field_that_asks_for_another_form_removes_the_examples(fields: dict[str, Any], reason: str) -> None:
    async with scripted_backend(answer, kind="chat") as backend, serving(backend.url) as proxy:
        _, headers, _ = await proxy.chat(**fields)
        shown = "refuse" if reason == "tools" else ""
        assert (headers["x-drpo-examples"], headers["x-drpo-reduced"]) == (shown, reason)
        assert {name: backend.generating[-1].json[name] for name in fields} == fields
