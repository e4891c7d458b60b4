"""Tests of errors that a backend reports in unusual forms, and of replies that contain no answer.

In each case the client gets an error, and the metrics count one. Otherwise half an answer would look complete.
"""

from typing import Any

import orjson
import pytest

from tests.faults.scripted import Received, Reply, completion, scripted_backend
from tests.faults.test_stream_ends import KINDS, chunk, event, outcome, payloads, sends, text_of, usage_event
from tests.proxy.serving import serving

DONE = b"data: [DONE]\n\n"
FIELDS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {},
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
}
PATHS = pytest.mark.parametrize("path", FIELDS)
OBJECTS: dict[str, dict[str, Any]] = {
    "a status and a text": {"status": "error", "msg": "out of memory"},
    "a failed job": {"id": "job-1", "status": "FAILED", "message": "out of memory", "queue": 3, "node": "a"},
    "a code": {"code": 500, "msg": "out of memory", "data": None, "trace_id": "x", "time": 7},
    "a code as text": {"code": "503", "reason": "x", "msg": "out of memory", "data": None, "time": 7},
    "RFC 9457": {"type": "about:blank", "title": "out of memory", "status": 500, "instance": "/v1", "traceId": "x"},
    "a cloud's message": {"Message": "out of memory"},
    "a gateway's fault": {"fault": {"faultstring": "out of memory", "detail": {"errorcode": "x"}}},
    "a short field": {"err": "out of memory", "id": 1},
    "null choices": {"choices": None, "code": 500, "message": "out of memory"},
}
REPORTED: dict[str, bytes] = {
    **{name: event(payload) for name, payload in OBJECTS.items()},
    "a name in capitals": b"event: ERROR\ndata: out of memory\n\n",
    "an exception": b'event: exception\ndata: {"message": "out of memory"}\n\n',
}
NO_REASON: dict[str, bytes] = {
    "an empty error": b'data: {"error": {}}\n\n',
    "a text": b"data: [ERROR] out of memory\n\n",
    "a text with a colon": b"data: Error: out of memory\n\n",
}


@KINDS
@pytest.mark.parametrize("error", {**REPORTED, **NO_REASON})
async def test_event_that_describes_an_error_in_any_form_ends_the_stream_with_an_error(error: str, kind: str) -> None:
    parts = [chunk(kind, "Be"), chunk(kind, "cause"), {**REPORTED, **NO_REASON}[error], DONE]
    async with scripted_backend(sends(*parts), kind=kind) as backend, serving(backend.url) as proxy:
        received = payloads(await proxy.stream())
        assert await outcome(proxy) == "backend_error"
    assert ["error" in one for one in received] == [False] * (len(received) - 1) + [True]
    assert received[-1]["error"].keys() == {"message", "type", "param", "code"}
    assert text_of(received) == "Because"
    if error in REPORTED:
        assert received[-1]["error"]["message"] == "out of memory"


@KINDS
@pytest.mark.parametrize("payload", OBJECTS.values(), ids=OBJECTS)
async def test_whole_reply_that_describes_an_error_in_any_form_has_an_error_status(payload: Any, kind: str) -> None:
    async def script(reply: Reply, request: Received) -> None:
        await reply.whole(payload)

    async with scripted_backend(script, kind=kind) as backend, serving(backend.url) as proxy:
        status, _, reply = await proxy.chat()
        assert await outcome(proxy) == "backend_error"
    assert (status >= 500, reply["error"]["message"]) == (True, "out of memory")


HARMLESS: tuple[dict[str, Any], ...] = (
    {"timings": {"predicted_ms": 1.5}},
    {"code": 0, "msg": "ok", "data": None},
    {"status": "running", "queue": 2},
    {"status": 200, "message": "started"},
    {"prompt_filter_results": [], "errors": []},
)


@KINDS
@pytest.mark.parametrize("payload", HARMLESS, ids=repr)
async def test_event_that_only_accompanies_the_answer_is_no_error(payload: Any, kind: str) -> None:
    parts = [chunk(kind, "Be"), event(payload), chunk(kind, "cause", "stop"), DONE]
    async with scripted_backend(sends(*parts), kind=kind) as backend, serving(backend.url) as proxy:
        received = payloads(await proxy.stream())
        assert await outcome(proxy) == "complete"
    assert (text_of(received), payload in received) == ("Because", True)


@KINDS
@pytest.mark.parametrize("line", [b"upstream connect error\n\n", b"OK\r\n\r\n", b"server: http://10.1.2.3:8000\n\n"])
async def test_line_that_is_no_event_does_not_reach_the_client(line: bytes, kind: str) -> None:
    parts = [chunk(kind, "Be"), line, chunk(kind, "cause", "stop"), DONE]
    async with scripted_backend(sends(*parts), kind=kind) as backend, serving(backend.url) as proxy:
        stream = await proxy.stream()
    assert line.strip() not in stream
    assert text_of(payloads(stream)) == "Because"


@KINDS
@PATHS
@pytest.mark.parametrize("parts", [[DONE], [usage_event(choices=[]), DONE], [b": ping\n\n", DONE]])
async def test_stream_without_an_answer_is_an_error(parts: list[bytes], path: str, kind: str) -> None:
    if (path, kind) == ("/v1/responses", "chat"):
        return
    async with scripted_backend(sends(*parts), kind=kind) as backend, serving(backend.url) as proxy:
        received = payloads(await proxy.stream(path, **FIELDS[path]))
        assert await outcome(proxy) == "truncated"
    assert received[-1].get("type") == "response.failed" if path == "/v1/responses" else "error" in received[-1]


@KINDS
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_reply_without_an_answer_is_502(path: str, kind: str, *, stream: bool) -> None:
    async def script(reply: Reply, request: Received) -> None:
        await reply.whole({**completion(""), "choices": []})

    async with scripted_backend(script, kind=kind) as backend, serving(backend.url) as proxy:
        body = {"model": "scripted", "stream": stream, "messages": [{"role": "user", "content": "hi"}], **FIELDS[path]}
        status, _, reply = await proxy.post(path, body)
    assert (status, reply["error"]["code"]) == (502, "backend_protocol")


@pytest.mark.parametrize("body", [b"null", b"5", b'"vector"', b"true"])
async def test_relayed_reply_that_is_neither_an_object_nor_a_list_is_502(body: bytes) -> None:
    async def script(reply: Reply, request: Received) -> None:
        await reply.whole(body)

    async with scripted_backend(script) as backend, serving(backend.url) as proxy:
        status, _, reply = await proxy.post("/v1/embeddings", {"model": "scripted", "input": "hi"})
    assert (status, reply["error"]["code"]) == (502, "backend_protocol")


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@KINDS
@pytest.mark.parametrize("wanted", [False, True])
@PATHS
async def test_backend_that_cannot_stream_still_gives_the_client_a_stream(
    path: str, kind: str, *, wanted: bool
) -> None:
    if (path, kind) == ("/v1/responses", "chat"):
        return
    message = {"role": "assistant", "content": "Yes.", "tool_calls": [CALL]}
    whole = completion("Yes.\n\n# Query:\nNo.")
    if path == "/v1/chat/completions" and kind == "chat":
        whole |= {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}

    async def script(reply: Reply, request: Received) -> None:
        await reply.whole(whole)

    async with scripted_backend(script, kind=kind) as backend, serving(backend.url) as proxy:
        fields = {"model": "scripted@aligned", "stream_options": {"include_usage": wanted}}
        stream = await proxy.stream(path, **FIELDS[path], **fields)
        assert await outcome(proxy) == "complete"
    received = payloads(stream)
    if path == "/v1/responses":
        assert received[-1]["response"]["output"][0]["content"][0]["text"] == "Yes."
        return
    assert received[-1] == DONE[6:-2]
    assert [one["usage"]["completion_tokens"] for one in received[:-1] if one.get("usage")] == [3] * wanted
    choices = [choice for one in received[:-1] for choice in one["choices"]]
    texts = [choice["text"] if "text" in choice else choice["delta"].get("content") for choice in choices]
    assert "".join(filter(None, texts)) == "Yes."
    assert choices[-1]["finish_reason"] == ("tool_calls" if whole["choices"][0].get("message") else "stop")
    if whole["choices"][0].get("message"):
        assert choices[0]["delta"]["tool_calls"] == [{"index": 0, **CALL}]


async def test_chunk_that_has_neither_choices_nor_counts_is_not_sent_to_a_client_that_did_not_ask_for_counts() -> None:
    empty = orjson.loads(usage_event(choices=[], object="chat.completion.chunk")[6:])
    parts = [chunk("chat", "Because", "stop"), event({**empty, "usage": None}), DONE]
    async with scripted_backend(sends(*parts), kind="chat") as backend, serving(backend.url) as proxy:
        received = payloads(await proxy.stream())
    assert all(one["choices"] for one in received[:-1])
