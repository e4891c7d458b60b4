"""Tests that max_tokens is lowered by what the proxy injected, and only if this is necessary."""

from typing import Any

import orjson
import pytest

from tests.faults.scripted import Received, Reply, ScriptedBackend, completion, scripted_backend
from tests.proxy.serving import served_bundle, serving

QUERY = "Why is the sky blue?"
USER = {"role": "user", "content": QUERY}
BOTH = pytest.mark.parametrize("kind", ["completion", "chat"])


def prompt_tokens(body: Any) -> int:
    """Count as the scripted backend does: the words of a text, or of the messages, and one more for each text."""
    texts = [body["prompt"]] if "prompt" in body else [message["content"] for message in messages_of(body)]
    return sum(len(text.split()) + 1 for text in texts if text)


def messages_of(body: Any) -> Any:
    given = body.get("messages") or body["input"]
    items = [{"content": given}] if isinstance(given, str) else given
    return [{"content": body.get("instructions") or ""}, *items]


class Strict(ScriptedBackend):
    """A backend that, like vLLM, rejects a request whose prompt and max_tokens exceed the context."""

    async def _tokenize(self, body: Any, reply: Reply) -> None:
        if self.kind == "chat" and "messages" in body and body["messages"][0]["content"] != "hi":
            await reply.whole({"count": prompt_tokens(body)})
        else:
            await super()._tokenize(body, reply)


async def answer(reply: Reply, request: Received) -> None:
    body = request.json
    limit = next((int(float(body[name])) for name in LIMITS if body.get(name) is not None), 1)
    if prompt_tokens(body) + limit > 1000:
        await reply.whole({"error": {"message": f"too long: {limit}", "type": "BadRequestError"}}, "400 Bad Request")
    else:
        await reply.whole(completion("Because of air."))


LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens")


async def asked(
    kind: str, path: str = "/v1/chat/completions", context: int | None = 1000, tokenize_reply: Any = None, **fields: Any
) -> tuple[int, Any, Any]:
    """Return the status, the headers, and the body that the backend received."""
    backend = Strict(answer, kind=kind, context=context, tokenize_reply=tokenize_reply)
    async with scripted_backend(backend), serving(backend.url) as proxy:
        body = {"model": "scripted", **fields}
        if path.endswith("chat/completions"):
            body.setdefault("messages", [USER])
        async with proxy.session.post(path, json=body) as response:
            return response.status, response.headers, backend.generating[-1].json


@BOTH
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("limit", [960, 985])
async def test_limit_is_lowered_by_no_more_than_necessary(kind: str, name: str, limit: int) -> None:
    status, headers, sent = await asked(kind, **{name: limit})
    lowered = 1000 - prompt_tokens(sent)
    assert status == 200
    assert headers["x-drpo-examples"].count(",") == 2, "no example is left out for a large max_tokens"
    assert sent.get(name, sent.get("max_tokens")) == lowered < limit
    assert headers["x-drpo-max-tokens"] == str(lowered)


@BOTH
async def test_limit_that_fits_stays_as_it_is(kind: str) -> None:
    for limit in (1, 100, 900):
        status, headers, sent = await asked(kind, max_tokens=limit)
        assert (status, sent["max_tokens"]) == (200, limit)
        assert "x-drpo-max-tokens" not in headers


@BOTH
async def test_request_that_does_not_fit_without_injection_gets_the_backends_error(kind: str) -> None:
    for limit in (1000, 4000, 10**9):
        status, headers, sent = await asked(kind, max_tokens=limit)
        assert (status, sent["max_tokens"]) == (400, limit)
        assert "x-drpo-max-tokens" not in headers


@BOTH
async def test_limit_is_never_lowered_if_the_context_is_unknown(kind: str) -> None:
    status, _, sent = await asked(kind, context=None, max_tokens=985)
    assert (status, sent["max_tokens"]) == (400, 985)


@BOTH
@pytest.mark.parametrize("tokenize_reply", [404, {"count": None}])
async def test_limit_is_lowered_by_all_that_was_injected_if_nobody_counts(kind: str, tokenize_reply: Any) -> None:
    status, headers, sent = await asked(kind, tokenize_reply=tokenize_reply, max_tokens=985)
    assert status == 200
    assert 700 < sent["max_tokens"] < 985
    assert headers["x-drpo-max-tokens"] == str(sent["max_tokens"])


@BOTH
@pytest.mark.parametrize("fields", [{"stream": True}, {"n": 3}, {"max_tokens": None}, {"min_tokens": 980}])
async def test_limit_is_lowered_whatever_the_other_fields_are(kind: str, fields: dict[str, Any]) -> None:
    status, _, sent = await asked(kind, **{"max_tokens": 985, **fields})
    limit = sent.get("max_tokens")
    assert status == 200
    assert limit is None or limit + prompt_tokens(sent) <= 1000
    assert sent.get("min_tokens", 0) <= (limit or 0)


@BOTH
async def test_limit_of_the_responses_api_is_lowered_too(kind: str) -> None:
    status, headers, sent = await asked(kind, "/v1/responses", input=QUERY, max_output_tokens=985)
    limit = sent.get("max_output_tokens", sent.get("max_tokens"))
    assert (status, headers["x-drpo-max-tokens"]) == (200, str(limit))
    assert limit == 1000 - prompt_tokens(sent)


async def test_limit_of_a_text_completion_is_lowered_too() -> None:
    status, headers, sent = await asked(
        "completion", "/v1/completions", model="scripted@aligned", prompt=QUERY, max_tokens=985
    )
    assert (status, sent["max_tokens"]) == (200, 1000 - prompt_tokens(sent))
    assert headers["x-drpo-max-tokens"] == str(sent["max_tokens"])


@BOTH
@pytest.mark.parametrize("limit", ["985", 985.0, "985.0", " 985 ", "+985"])
@pytest.mark.parametrize("name", LIMITS[:2])
async def test_limit_in_another_form_that_vllm_reads_as_a_number_is_lowered(kind: str, name: str, limit: Any) -> None:
    status, headers, sent = await asked(kind, **{name: limit, "min_tokens": limit})
    lowered = 1000 - prompt_tokens(sent)
    assert (status, sent.get(name, sent.get("max_tokens")), sent["min_tokens"]) == (200, lowered, lowered)
    assert headers["x-drpo-max-tokens"] == str(lowered)


@BOTH
async def test_limit_field_of_another_api_does_not_hide_the_limit(kind: str) -> None:
    status, _, sent = await asked(kind, max_tokens=985, max_output_tokens=10)
    assert (status, sent["max_tokens"]) == (200, 1000 - prompt_tokens(sent))


@BOTH
@pytest.mark.parametrize("limit", ["985", 0, -1, True, 1.5])
async def test_limit_that_is_no_positive_integer_is_left_to_the_backend(kind: str, limit: Any) -> None:
    async def whatever(reply: Reply, request: Received) -> None:
        await reply.whole(completion("Yes."))

    async with scripted_backend(whatever, kind=kind) as backend, serving(backend.url) as proxy:
        await proxy.chat(max_tokens=limit)
        assert backend.generating[-1].json["max_tokens"] == limit


@pytest.mark.parametrize("variant", ["aligned", "raw-matched"])
@BOTH
@pytest.mark.parametrize("words", [100, 850, 940, 960])
async def test_default_of_the_bundle_never_breaks_a_request(kind: str, variant: str, words: int) -> None:
    messages = [{"role": "user", "content": "word " * words}]
    status, headers, sent = await asked(kind, model=f"scripted@{variant}", messages=messages)
    assert status == 200
    assert sent.get("max_tokens", 1) <= 1000 - prompt_tokens(sent)
    assert sent.get("max_tokens", 1) == 100 or words > 850
    assert "x-drpo-max-tokens" not in headers


@pytest.mark.parametrize("words", [800, 930, 970, 985])
@BOTH
async def test_request_that_fits_is_served_with_any_conversation(kind: str, words: int) -> None:
    messages = [{"role": "user", "content": "word " * words}]
    status, _, sent = await asked(kind, messages=messages, max_tokens=1000 - words - 1)
    assert status == 200, sent


@BOTH
async def test_tools_and_images_do_not_hide_what_was_injected(kind: str) -> None:
    if kind == "completion":
        return
    tools = [{"type": "function", "function": {"name": "f", "description": "word " * 20}}]
    status, _, sent = await asked("chat", max_tokens=985, tools=tools)
    assert (status, sent["max_tokens"] < 985) == (200, True)
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    async with scripted_backend(Strict(_any, kind="chat")) as backend, serving(backend.url) as proxy:
        parts = [{"type": "text", "text": QUERY}, image]
        _, headers, _ = await proxy.chat(parts, max_tokens=4000)
        assert 3900 < int(headers["x-drpo-max-tokens"]) < 4000


async def _any(reply: Reply, request: Received) -> None:
    await reply.whole(completion("Yes."))


async def test_large_client_limit_costs_one_count() -> None:
    async with scripted_backend(answer, context=1000) as backend, serving(backend.url) as proxy:
        await proxy.chat(max_tokens=100)
        before = len(backend.received)
        await proxy.chat(max_tokens=100)
        assert len(backend.received) == before + 1, "a request that certainly fits is not counted"
        await proxy.chat(max_tokens=960)
        assert [one.path for one in backend.received[before + 1 :]] == ["/tokenize", "/v1/completions"]


async def test_bundle_without_a_default_leaves_the_limit_of_a_chat_model_to_its_server() -> None:
    bundles = {"scripted": served_bundle(sampling={})}
    async with scripted_backend(answer, kind="chat") as backend, serving(backend.url, bundles=bundles) as proxy:
        await proxy.chat()
        assert "max_tokens" not in orjson.loads(backend.generating[-1].body)
