"""Tests of streams: their events, their order, and their end."""

import asyncio
import gc
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.api import admission, endpoints, handlers
from proxy.inference import plan
from proxy.openai import json_fields as fields
from proxy.openai.sse import event_data
from tests.faults.scripted import Received, Reply, completion, completion_events, scripted_backend
from tests.proxy.serving import served_bundle, serving, until

PIECES = ["Be", "cause", " of", " air.\n\n```py\n# Query:", "```"]


def streaming(events: list[bytes]) -> Callable[[Reply, Received], Awaitable[None]]:
    async def script(reply: Reply, request: Received) -> None:
        await reply.begin()
        for event in events:
            await reply.chunk(event)
        await reply.end()

    return script


def parsed(stream: bytes) -> list[Any]:
    """Return the payloads of a stream. Its last event must be [DONE]."""
    events = [event_data(event + b"\n\n") for event in stream.split(b"\n\n") if event]
    assert events[-1] == b"[DONE]"
    return [orjson.loads(event) for event in events[:-1]]


async def test_translated_stream_has_role_first_then_text_then_finish_reason() -> None:
    async with scripted_backend(streaming(completion_events(PIECES))) as backend, serving(backend.url) as proxy:
        chunks = parsed(await proxy.stream())
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas == [{"role": "assistant", "content": ""}, *({"content": piece} for piece in PIECES), {}]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert {chunk["id"] for chunk in chunks} == {"chatcmpl-1"}
    assert all("usage" not in chunk for chunk in chunks)


async def test_usage_is_always_requested_but_sent_only_to_clients_that_request_it() -> None:
    async with scripted_backend(streaming(completion_events(PIECES))) as backend, serving(backend.url) as proxy:
        chunks = parsed(await proxy.stream(stream_options={"include_usage": True}))
        assert (chunks[-1]["choices"], chunks[-1]["usage"]["completion_tokens"]) == ([], 5)
        await proxy.stream()
        assert [request.json["stream_options"] for request in backend.generating] == [{"include_usage": True}] * 2
        page = await (await proxy.session.get("/metrics")).text()
    assert 'drpo_tokens_total{type="completion",variant="aligned"} 10.0' in page


@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(
    st.text(max_size=60), st.lists(st.integers(0, 60), max_size=5), st.sampled_from(["query-answer", "user-assistant"])
)
def test_streamed_text_is_the_text_of_the_whole_reply(text: str, cuts: list[int], layout: str) -> None:
    bounds = [0, *sorted(cuts), len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(bounds)]

    async def script(reply: Reply, request: Received) -> None:
        if request.json.get("stream"):
            await streaming(completion_events(pieces))(reply, request)
        else:
            await reply.whole(completion(text))

    async def both() -> tuple[str, str]:
        bundles = {"scripted": served_bundle(layout)}
        async with scripted_backend(script) as backend, serving(backend.url, bundles=bundles) as proxy:
            chunks = parsed(await proxy.stream())
            _, _, reply = await proxy.chat()
        streamed = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
        return streamed, reply["choices"][0]["message"]["content"]

    streamed, whole = asyncio.run(both())
    assert streamed == whole == (text if layout == "query-answer" else text.lstrip())


async def test_each_token_is_passed_on_as_it_arrives() -> None:
    passed = asyncio.Event()

    async def script(reply: Reply, request: Received) -> None:
        first, *rest = completion_events(["one", "two"])
        await reply.begin()
        await reply.chunk(first)
        await passed.wait()  # the rest is sent only after the client has the first token
        for event in rest:
            await reply.chunk(event)
        await reply.end()

    async with scripted_backend(script) as backend, serving(backend.url) as proxy:
        body = {"model": "scripted", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
        async with proxy.session.post("/v1/chat/completions", json=body) as response:
            seen = b""
            while b"one" not in seen:
                seen += await response.content.readany()
            passed.set()
            seen += await response.content.read()
        assert seen.endswith(b"data: [DONE]\n\n")


async def test_events_of_a_chat_backend_arrive_unchanged() -> None:
    events = [
        b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}],  "x" : 1}\n\n',
        b": keep-alive\n\n",
        'event: odd\r\ndata: {"choices":[{"delta":{"content":"\u00e9"}}]}\r\n\r\n'.encode(),
        b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
        b"data: [DONE]\n\n",
    ]
    async with scripted_backend(streaming(events), kind="chat") as backend, serving(backend.url) as proxy:
        assert await proxy.stream() == b"".join(events)
        assert await proxy.stream(model="scripted@raw") == b"".join(events)


@pytest.mark.parametrize("kind", ["completion", "chat"])
@pytest.mark.parametrize("cut", [1, -3])
async def test_stream_that_ends_before_its_answer_ends_in_an_error_event(kind: str, cut: int) -> None:
    events = completion_events(PIECES)[:cut]

    async def script(reply: Reply, request: Received) -> None:
        await reply.begin()
        await reply.chunk(b"".join(events) + b'data: {"half')
        await reply.end()

    async with scripted_backend(script, kind=kind) as backend, serving(backend.url) as proxy:
        stream = await proxy.stream()
        page = await (await proxy.session.get("/metrics")).text()
    last = orjson.loads(event_data(stream.rstrip(b"\n").split(b"\n\n")[-1]))
    assert last["error"]["code"] == "backend_protocol"
    assert b"[DONE]" not in stream
    assert b"half" not in stream
    assert 'outcome="truncated"' in page


async def test_connection_reset_during_a_stream_ends_in_an_error_event() -> None:
    async def script(reply: Reply, request: Received) -> None:
        await reply.begin()
        await reply.chunk(completion_events(PIECES)[0])
        reply.reset()

    async with scripted_backend(script) as backend, serving(backend.url) as proxy:
        stream = await proxy.stream()
    assert b'"error"' in stream
    assert b"[DONE]" not in stream


@pytest.mark.parametrize("stream", [True, False])
async def test_client_disconnect_aborts_the_backend_request(*, stream: bool) -> None:
    async def script(reply: Reply, request: Received) -> None:
        if stream:
            await reply.begin()
            await reply.chunk(completion_events(PIECES)[0])
        await asyncio.sleep(60)

    async with scripted_backend(script) as backend, serving(backend.url) as proxy:
        request = asyncio.create_task(proxy.chat(stream=stream))
        await until(lambda: backend.generating)
        request.cancel()
        await until(backend.aborted.is_set)
        await until(lambda: not proxy.gateway.admission.in_flight)
        page = await (await proxy.session.get("/metrics")).text()
    assert 'outcome="client_gone"' in page
    assert 'status="499"' in page


async def test_backend_error_is_passed_on_unchanged() -> None:
    body = b'{"error": {"message":"too long",  "code": 400}}'

    async def script(reply: Reply, request: Received) -> None:
        await reply.whole(body, "429 Too Many Requests", Retry_After="7", Set_Cookie="a=b", X_RateLimit_Limit="9")

    async with scripted_backend(script) as backend, serving(backend.url) as proxy:
        payload = {"model": "scripted", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
        async with proxy.session.post("/v1/chat/completions", json=payload) as response:
            assert (response.status, await response.read()) == (429, body)
            assert (response.headers["Retry-After"], response.headers["X-RateLimit-Limit"]) == ("7", "9")
            assert "Set-Cookie" not in response.headers
        assert len(backend.generating) == 1


@pytest.mark.parametrize("kind", ["chat", "completion"])
async def test_stream_keeps_no_reference_to_the_request_body(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = []

    class Watched(bytes):
        def __del__(self) -> None:
            gone.append(bytes(self[:9]))

    async def read_body(*arguments: Any) -> bytes:
        return Watched(await admission.read_body(*arguments))

    async def script(reply: Reply, request: Received) -> None:
        await reply.begin()
        await reply.chunk(completion_events(["Be"])[0])
        await asked.wait()
        await reply.end()

    monkeypatch.setattr(handlers, "read_body", read_body)
    monkeypatch.setattr(endpoints, "parse_json", lambda request, data: admission.parse_json(request, bytes(data)))
    monkeypatch.setattr(plan, "encode", lambda body: Watched(fields.encode(body)))
    asked = asyncio.Event()
    body = {"model": "scripted", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    async with scripted_backend(script, kind=kind, keeps=False) as backend, serving(backend.url) as proxy:
        async with proxy.session.post("/v1/chat/completions", json=body) as response:
            await response.content.readany()
            gc.collect()
            assert len(gone) == 2, "of what the client sent, and of what was made of it"
            asked.set()
            await response.read()
