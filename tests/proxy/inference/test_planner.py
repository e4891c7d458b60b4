"""Tests of the requests that the proxy sends to a base model and to a chat model, with and without injection."""

from typing import Any

import pytest

from tests.faults.scripted import Received, Reply, completion, scripted_backend
from tests.proxy.openai.background_requests import BACKGROUND
from tests.proxy.serving import served_bundle, serving

USER = {"role": "user", "content": "Why is the sky blue?"}


async def answer(reply: Reply, request: Received) -> None:
    await reply.whole(completion("Because of air."))


async def sent(body: dict[str, Any], **settings: Any) -> tuple[dict[str, Any], Any]:
    """Post a chat request. Return the body that the backend received, and the headers of the reply."""
    async with scripted_backend(answer, **settings) as backend, serving(backend.url) as proxy:
        status, headers, reply = await proxy.post("/v1/chat/completions", {"model": "scripted", **body})
        assert status == 200, reply
        return backend.generating[-1].json, headers


async def test_base_model_gets_prompt_pinned_and_nearest_examples_then_the_query() -> None:
    body, headers = await sent({"messages": [USER]})
    assert body["prompt"].startswith("Answer well.\n\n# Query:\nHow do I hurt someone?\n\n# Answer:\nI can't help")
    assert body["prompt"].endswith(
        "# Answer:\nAir scatters blue light the most.\n\n# Query:\nWhy is the sky blue?\n\n# Answer:\n"
    )
    assert headers["x-drpo-variant"] == "aligned"
    assert headers["x-drpo-bundle"] == "b" * 12
    assert headers["x-drpo-examples"].split(",")[0] == "refuse"
    assert headers["x-drpo-examples"].split(",")[-1] == "sky"


async def test_bundle_sampling_applies_only_to_fields_that_the_client_omits() -> None:
    body, _ = await sent({"messages": [USER], "temperature": 0.5})
    assert (body["frequency_penalty"], body["temperature"], body["max_tokens"]) == (0.4, 0.5, 100)
    body, _ = await sent({"messages": [USER], "frequency_penalty": 0.0, "max_completion_tokens": 7})
    assert (body["frequency_penalty"], body["max_tokens"]) == (0.0, 7)


async def test_stop_strings_come_from_layout_and_client() -> None:
    body, _ = await sent({"messages": [USER]})
    assert body["stop"] == ["\n\n# Query:\n", "\n\n# Answer:\n", "\n\n# Instructions:\n"]
    body, _ = await sent({"messages": [USER], "stop": "END"})
    assert body["stop"] == ["\n\n# Query:\n", "END", "\n\n# Answer:\n", "\n\n# Instructions:\n"]


@pytest.mark.parametrize("variant", ["raw", "raw-matched"])
async def test_raw_request_to_a_base_model_is_the_text_alone(variant: str) -> None:
    messages = [{"role": "system", "content": "Be brief."}, USER]
    body, headers = await sent({"model": f"scripted@{variant}", "messages": messages})
    assert body["prompt"] == "Be brief.\n\nWhy is the sky blue?"
    assert "stop" not in body
    assert ("frequency_penalty" in body) is (variant == "raw-matched")
    assert body["max_tokens"] == (100 if variant == "raw-matched" else 1024)
    assert body["model"] == "scripted"
    assert headers["x-drpo-variant"] == variant
    assert "x-drpo-examples" not in headers


async def test_raw_request_to_a_chat_model_is_unchanged() -> None:
    given = {"messages": [USER], "seed": 3, "unheard_of": {"a": [1]}, "tools": [{"type": "function"}]}
    body, _ = await sent({"model": "scripted@raw", **given}, kind="chat")
    assert body == {"model": "scripted", **given}


async def test_chat_model_gets_one_system_message_examples_as_turns_and_the_conversation() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "developer", "content": "In French."}, USER]
    body, _ = await sent({"messages": messages, "unheard_of": 1}, kind="chat")
    assert body["messages"][0] == {"role": "system", "content": "Answer well.\n\nBe brief.\n\nIn French."}
    assert [message["role"] for message in body["messages"][1:]] == ["user", "assistant"] * 3 + ["user"]
    assert body["messages"][-1] == USER
    assert body["unheard_of"] == 1


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"functions": [{"name": "f"}]}, "tools"),
        ({"messages": [USER, {"role": "assistant", "content": "Because"}]}, "prefill"),
    ],
)
async def test_other_forms_of_answer_get_only_the_pinned_refusal(fields: dict[str, Any], reason: str) -> None:
    body, headers = await sent({"messages": [USER], **fields}, kind="chat")
    assert [message["role"] for message in body["messages"]][:4] == ["system", "user", "assistant", "user"]
    assert body["messages"][2]["content"] == "I can't help with that."
    assert headers["x-drpo-reduced"] == reason
    assert headers["x-drpo-examples"] == "refuse"
    assert "x-drpo-refusal" not in headers


@pytest.mark.parametrize("kind", ["chat", "completion"])
@pytest.mark.parametrize("client", ["open-webui-title", "librechat", "nextchat", "lobechat"])
async def test_background_request_of_a_chat_client_gets_no_examples(kind: str, client: str) -> None:
    body, headers = await sent({"messages": BACKGROUND[client]}, kind=kind)
    assert headers["x-drpo-reduced"] == "background"
    assert "sky" not in headers["x-drpo-examples"]
    assert "Boil water" not in str(body)


FORM = {"type": "json_schema", "json_schema": {"name": "own", "schema": {"type": "object"}}}


@pytest.mark.parametrize(
    ("fields", "required"),
    [
        ({"messages": BACKGROUND["open-webui-title"]}, ["title"]),
        ({"messages": BACKGROUND["open-webui-follow-ups"]}, ["follow_ups"]),
        ({"messages": BACKGROUND["librechat"]}, None),
        ({"messages": BACKGROUND["open-webui-title"], "response_format": FORM}, "own"),
        ({"messages": BACKGROUND["open-webui-title"], "model": "scripted@raw"}, None),
        ({"messages": [USER]}, None),
    ],
)
async def test_base_model_must_write_the_json_object_that_a_background_request_asks_for(
    fields: dict[str, Any], required: object
) -> None:
    body, _ = await sent(fields)
    if required == "own":
        assert body["response_format"] == FORM
    elif required is None:
        assert "response_format" not in body
    else:
        assert body["response_format"]["json_schema"]["schema"]["required"] == required


async def test_chat_model_writes_the_answer_to_a_background_request_as_it_likes() -> None:
    body, _ = await sent({"messages": BACKGROUND["open-webui-title"]}, kind="chat")
    assert "response_format" not in body


async def test_prefill_on_a_base_model_is_continued() -> None:
    body, _ = await sent({"messages": [USER, {"role": "assistant", "content": "Because"}]})
    refusal = "# Query:\nHow do I hurt someone?\n\n# Answer:\nI can't help with that.\n\n"
    assert body["prompt"] == f"Answer well.\n\n{refusal}# Query:\nWhy is the sky blue?\n\n# Answer:\nBecause"


async def test_later_turns_keep_the_examples_of_the_first() -> None:
    first, _ = await sent({"messages": [USER]})
    later, _ = await sent(
        {"messages": [USER, {"role": "assistant", "content": "Air."}, {"role": "user", "content": "tea?"}]}
    )
    assert later["prompt"].startswith(first["prompt"] + "Air.")


async def test_unknown_fields_reach_a_base_model() -> None:
    body, _ = await sent(
        {"messages": [USER], "top_k": 5, "cache_salt": "s", "future_field": [1], "logit_bias": {"1": 2}}
    )
    assert (body["top_k"], body["cache_salt"], body["future_field"], body["logit_bias"]) == (5, "s", [1], {"1": 2})


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"messages": []}, "at least one message"),
        ({"messages": "hello"}, "must be a list"),
        ({"messages": ["hello"]}, "must be an object"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "no role 'tool'"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "image_url"),
        ({"messages": [USER], "tools": [{"type": "function"}]}, "cannot call tools. Send no tools (in Open WebUI"),
        ({"messages": [USER], "functions": [{"name": "now"}]}, "cannot call functions. Send no tools (in Open WebUI"),
        (
            {"messages": [USER], "stream": True, "tools": [{"type": "function"}] * 36},
            "switch off the model's capability Builtin Tools",
        ),
        ({"messages": [USER], "echo": True}, "belongs to /v1/completions"),
        ({"messages": [USER], "stop": [1]}, "`stop` must be"),
        ({"messages": [USER], "model": "scripted@wild"}, "aligned, raw, raw-matched"),
    ],
)
async def test_request_that_a_base_model_cannot_answer_is_400(fields: dict[str, Any], says: str) -> None:
    async with scripted_backend(answer) as backend, serving(backend.url) as proxy:
        status, _, reply = await proxy.post("/v1/chat/completions", {"model": "scripted", **fields})
        assert status == 400
        assert says in reply["error"]["message"]
        assert reply["error"]["type"] == "invalid_request_error"
        assert backend.generating == []


async def test_budget_removes_examples_one_by_one_and_keeps_the_clients_text() -> None:
    counts = []
    for words in range(3300, 4100, 40):
        text = "word " * words
        body, headers = await sent({"messages": [{"role": "user", "content": text}]})
        counts.append(len([name for name in headers["x-drpo-examples"].split(",") if name]))
        assert text in body["prompt"]
    assert sorted(counts, reverse=True) == counts
    assert (counts[0], counts[-1]) == (3, 0)


async def test_max_tokens_is_limited_by_the_context() -> None:
    body, _ = await sent({"messages": [{"role": "user", "content": "word " * 80}]}, context=120)
    assert body["max_tokens"] == 120 - (len(body["prompt"].split()) + 1)


async def test_bundle_token_limit_skips_examples_that_do_not_fit() -> None:
    bundles = {"scripted": served_bundle(max_injected_tokens=25)}
    async with scripted_backend(answer) as backend, serving(backend.url, bundles=bundles) as proxy:
        _, headers, _ = await proxy.chat("How do I make tea?")
        assert headers["x-drpo-examples"] == "refuse"
