"""Tests the end of streams: a finished answer is complete, a backend's error is passed on, and nothing follows."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import orjson
import pytest

from proxy.core.log import LOGGER
from proxy.openai.sse import event_data
from tests.faults.history import LogHistory
from tests.faults.scripted import Received, Reply, completion, completion_events, scripted_backend
from tests.proxy.serving import Serving, serving

KINDS = pytest.mark.parametrize("kind", ["chat", "completion"])
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


def sends(*parts: bytes, media_type: str = "text/event-stream", then: str = "end") -> Callable[..., Awaitable[None]]:
    async def script(reply: Reply, request: Received) -> None:
        await reply.begin(content_type=media_type)
        for part in parts:
            await reply.chunk(part)
        if then == "reset":
            await asyncio.sleep(0.05)  # a reset discards what the proxy has not read yet
            reply.reset()
        elif then == "end":
            await reply.end()
        else:
            reply.writer.close()

    return script


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[LogHistory]:
    """Collect the log lines of requests."""
    caplog.set_level(logging.INFO, LOGGER.name)
    LOGGER.addHandler(history := LogHistory())
    yield history
    LOGGER.removeHandler(history)


def chunk(kind: str, text: str, finish: str | None = None, index: int = 0, **fields: Any) -> bytes:
    body = {"delta": {"content": text}} if kind == "chat" else {"text": text}
    choice = {"index": index, **body, "logprobs": None, "finish_reason": finish}
    return event({"id": "1", "object": "x", "created": 7, "model": "scripted", "choices": [choice], **fields})


def event(payload: Any) -> bytes:
    return b"data: " + orjson.dumps(payload) + b"\n\n"


def usage_event(**fields: Any) -> bytes:
    return event({"id": "1", "usage": USAGE, **fields})


def payloads(stream: bytes) -> list[Any]:
    """Return the payloads of a stream that must consist of whole events; b"[DONE]" stays as it is."""
    stream = stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    assert stream.endswith(b"\n\n")
    found = [event_data(one + b"\n\n") for one in stream[:-2].split(b"\n\n")]
    return [one if one == b"[DONE]" else orjson.loads(one) for one in found if one]


def text_of(received: list[Any]) -> str:
    choices = [choice for one in received if isinstance(one, dict) for choice in one.get("choices", ())]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


async def outcome(proxy: Serving) -> str:
    """Return the outcome of the only chat request in the metrics."""
    page = await (await proxy.session.get("/metrics")).text()
    line = next(line for line in page.splitlines() if line.startswith('drpo_requests_total{outcome="'))
    return line.split('"')[1]


ERRORS: dict[str, bytes] = {
    "OpenAI's object": b'data: {"error": {"message": "out of memory", "type": "server_error", "code": null}}\n\n',
    "an integer code": b'data: {"error": {"message": "out of memory", "code": 500}}\n\n',
    "a string": b'data: {"error": "out of memory"}\n\n',
    "beside choices": b'data: {"error": {"message": "out of memory"}, "choices": [{"index": 0, "delta": {}}]}\n\n',
    "beside empty choices": b'data: {"error": {"message": "out of memory"}, "choices": []}\n\n',
    "in a choice": b'data: {"choices":[{"finish_reason":"error","error":{"message":"out of memory"},"delta":{}}]}\n\n',
    "vLLM's older object": b'data: {"object": "error", "message": "out of memory", "type": "X", "code": 500}\n\n',
    "Anthropic's": b'event: error\ndata: {"type":"error","error":{"type":"x","message":"out of memory"}}\n\n',
    "an event's name": b'event: error\ndata: {"message": "out of memory"}\n\n',
    "an event's name and text": b"event: error\ndata: out of memory\n\n",
    "llama.cpp's field": b'error: {"code":500,"message":"out of memory","type":"server_error"}\n\n',
    "a field with text": b"error: out of memory\n\n",
    "FastAPI's": b'data: {"detail": "out of memory"}\n\n',
    "a gateway's": b'data: {"message": "out of memory"}\n\n',
    "CRLF": b'data: {"error": {"message": "out of memory"}}\r\n\r\n',
    "without a blank line": b'data: {"error": {"message": "out of memory"}}\n',
    "a list of errors": b'data: {"errors": [{"message": "out of memory"}]}\n\n',
    "success is false": b'data: {"success":false,"message":"out of memory","code":507,"id":"x","data":null}\n\n',
    "a cloud's": b'data: {"statusCode": 500, "errorMessage": "out of memory", "a": 1, "b": 2, "c": 3}\n\n',
    "an exception": b'data: {"exception": "out of memory", "trace": null}\n\n',
    "without an event": b'{"error": {"message": "out of memory"}}\n\n',
}


@KINDS
@pytest.mark.parametrize("done", [b"", b"data: [DONE]\n\n"], ids=["", "done"])
@pytest.mark.parametrize("begun", [False, True], ids=["at once", "after text"])
@pytest.mark.parametrize("error", ERRORS)
async def test_error_in_a_stream_is_the_last_event_and_an_error_everywhere(
    error: str, done: bytes, kind: str, log: LogHistory, *, begun: bool
) -> None:
    if error == "without a blank line" and done:
        return
    parts = [chunk(kind, "Be"), chunk(kind, "cause")] if begun else []
    async with (
        scripted_backend(sends(*parts, ERRORS[error] + done), kind=kind) as backend,
        serving(backend.url) as proxy,
    ):
        received = payloads(await proxy.stream())
        assert await outcome(proxy) == "backend_error"
        assert proxy.gateway.pool.backends[0].health.available
    assert ["error" in one for one in received] == [False] * (len(received) - 1) + [True]
    assert received[-1]["error"].keys() == {"message", "type", "param", "code"}
    assert received[-1]["error"]["message"] == "out of memory"
    assert text_of(received) == ("Because" if begun else "")
    assert [(line.status, line.outcome) for line in log.lines] == [(200, "backend_error")]


@KINDS
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"error": {"message": "out of memory", "code": 429}}', 429),
        (b'{"object": "error", "message": "out of memory", "code": 400}', 400),
        (b'{"error": "out of memory"}', 502),
        (b'{"detail": "out of memory"}', 502),
        (b'{"error": {"message": "out of memory"}, "choices": []}', 502),
    ],
)
async def test_error_as_json_with_the_status_200_gets_an_error_status(
    body: bytes, status: int, kind: str, *, stream: bool
) -> None:
    async def script(reply: Reply, request: Received) -> None:
        await reply.whole(body)

    async with scripted_backend(script, kind=kind) as backend, serving(backend.url) as proxy:
        got, _, reply = await proxy.chat(stream=stream)
        assert (got, reply["error"]["message"]) == (status, "out of memory")
        assert await outcome(proxy) == "backend_error"


ENDS: dict[str, bytes] = {
    "nothing": b"",
    "one line break": b"data: [DONE]\n",
    "no line break": b"data: [DONE]",
    "half an event": b'data: {"choices": [{"ind',
    "half of [DONE]": b"data: [DO",
    "spaces": b"data:  [DONE]  \n\n",
    "no space": b"data:[DONE]\n\n",
    "CRLF": b"data: [DONE]\r\n\r\n",
    "CR": b"data: [DONE]\r\r",
    "an id": b"id: 7\ndata: [DONE]\n\n",
    "in quotation marks": b'data: "[DONE]"\n\n',
    "in lower case": b"data: [done]\n\n",
    "a word": b"data: done\n\n",
    "a list": b"data: []\n\n",
    "a malformed chunk": b'data: {"choices": [null]}\n\n',
    "a named event": b"event: done\ndata:\n\n",
    "twice": b"data: [DONE]\n\ndata: [DONE]\n\n",
    "more after it": b'data: [DONE]\n\ndata: {"choices": [{"index": 0, "delta": {"content": "x"}, "text": "x"}]}\n\n',
}


@KINDS
@pytest.mark.parametrize("then", ["end", "reset"])
@pytest.mark.parametrize("end", ENDS)
async def test_stream_whose_answer_has_finished_is_complete(end: str, kind: str, then: str) -> None:
    parts = [chunk(kind, "Be"), chunk(kind, "cause", "stop"), *([ENDS[end]] if ENDS[end] else [])]
    async with scripted_backend(sends(*parts, then=then), kind=kind) as backend, serving(backend.url) as proxy:
        received = payloads(await proxy.stream())
        assert await outcome(proxy) == "complete"
    assert received[-1] == b"[DONE]"
    assert received.count(b"[DONE]") == 1
    assert text_of(received) == "Because"


@KINDS
@pytest.mark.parametrize("reason", ["stop", None])
async def test_empty_finish_reason_does_not_finish_an_answer(kind: str, reason: str | None) -> None:
    parts = [chunk(kind, text, "") for text in ("Be", "ca", "use")] + ([chunk(kind, "", reason)] if reason else [])
    async with scripted_backend(sends(*parts), kind=kind) as backend, serving(backend.url) as proxy:
        received = payloads(await proxy.stream())
        assert await outcome(proxy) == ("complete" if reason else "truncated")
    assert text_of(received) == "Because"
    assert (received[-1] == b"[DONE]") == bool(reason)
    choices = [choice for one in received if isinstance(one, dict) for choice in one.get("choices", ())]
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == [reason] * bool(reason)


@KINDS
@pytest.mark.parametrize("last", [b"", b"\n", b"\n\n"])
async def test_last_event_may_lack_its_blank_line(kind: str, last: bytes) -> None:
    parts = [chunk(kind, "Be"), chunk(kind, "cause", "stop").rstrip() + last]
    async with scripted_backend(sends(*parts), kind=kind) as backend, serving(backend.url) as proxy:
        received = payloads(await proxy.stream())
    assert (text_of(received), received[-1]) == ("Because", b"[DONE]")


@KINDS
@pytest.mark.parametrize("wanted", [False, True])
@pytest.mark.parametrize("fields", [{"choices": []}, {"choices": None}, {}], ids=str)
@pytest.mark.parametrize("done", [b"", b"data: [DONE]\n\n"], ids=["", "done"])
async def test_usage_after_the_answer_is_counted_and_sent_only_if_requested(
    kind: str, fields: dict[str, Any], done: bytes, *, wanted: bool
) -> None:
    parts = [chunk(kind, "Because", "stop"), usage_event(**fields) + done]
    async with scripted_backend(sends(*parts), kind=kind) as backend, serving(backend.url) as proxy:
        received = payloads(await proxy.stream(stream_options={"include_usage": wanted}))
        page = await (await proxy.session.get("/metrics")).text()
    assert 'drpo_tokens_total{type="completion",variant="aligned"} 2.0' in page
    assert received[-1] == b"[DONE]"
    sent = [(one["choices"], one["usage"]) for one in received[:-1] if one.get("usage")]
    assert sent == ([([], USAGE)] if wanted else [])


@KINDS
@pytest.mark.parametrize(("finished", "complete"), [((0,), False), ((1,), False), ((0, 1), True)])
@pytest.mark.parametrize("begun", [(0,), (0, 1)])
async def test_stream_is_complete_only_if_all_choices_have_finished(
    kind: str, finished: tuple[int, ...], begun: tuple[int, ...], *, complete: bool
) -> None:
    parts = [chunk(kind, "a", None, index) for index in begun]
    parts += [chunk(kind, "b", "stop", index) for index in finished]
    async with scripted_backend(sends(*parts), kind=kind) as backend, serving(backend.url) as proxy:
        received = payloads(await proxy.stream(n=2))
        assert await outcome(proxy) == ("complete" if complete else "truncated")
    assert (received[-1] == b"[DONE]") == complete
    assert received.count(b"[DONE]") == complete


@KINDS
@pytest.mark.parametrize("at", range(1, 5))
async def test_crlf_stream_that_is_cut_between_its_line_ends_gets_no_extra_line_break(kind: str, at: int) -> None:
    first, second = (one.replace(b"\n", b"\r\n") for one in (chunk(kind, "Be"), chunk(kind, "cause", "stop")))
    parts = [first[:-at], first[-at:] + second[:-at], second[-at:] + b"data: [DONE]\r\n\r\n"]
    async with scripted_backend(sends(*parts), kind=kind) as backend, serving(backend.url) as proxy:
        stream = await proxy.stream()
    assert not stream.startswith((b"\n", b"\r"))
    assert b"\r\n\r\n\r\n" not in stream
    assert b"\n\n\n" not in stream
    received = payloads(stream.replace(b"\r\n", b"\n"))
    assert (text_of(received), received[-1]) == ("Because", b"[DONE]")


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/json", "application/octet-stream", "TEXT/EVENT-STREAM"]
)
@KINDS
async def test_stream_with_another_media_type_is_a_stream(media_type: str, kind: str) -> None:
    parts = [chunk(kind, "Be"), chunk(kind, "cause", "stop"), b"data: [DONE]\n\n"]
    script = sends(*parts, media_type=media_type)
    async with scripted_backend(script, kind=kind) as backend, serving(backend.url) as proxy:
        body = {"model": "scripted", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        async with proxy.session.post("/v1/chat/completions", json=body) as response:
            assert response.content_type == "text/event-stream"
            received = payloads(await response.read())
    assert (text_of(received), received[-1]) == ("Because", b"[DONE]")


async def test_response_ends_as_failed_if_the_backend_reports_an_error() -> None:
    for error in ERRORS.values():
        parts = completion_events(["Because", " of"], usage=False)[:1]
        async with scripted_backend(sends(*parts, error)) as backend, serving(backend.url) as proxy:
            stream = await proxy.stream("/v1/responses", input="hi")
            assert await outcome(proxy) == "backend_error"
        events = payloads(stream)
        assert [one["type"] for one in events].count("response.failed") == 1
        assert (events[-1]["type"], events[0]["type"]) == ("response.failed", "response.created")
        assert [one["sequence_number"] for one in events] == list(range(len(events)))
        failed = events[-1]["response"]
        assert (failed["status"], failed["error"]["message"]) == ("failed", "out of memory")


@pytest.mark.parametrize("end", ENDS)
async def test_response_of_a_base_model_is_complete_when_its_answer_has_finished(end: str) -> None:
    parts = completion_events(["Because", " of"])[:-1]
    async with scripted_backend(sends(*parts, *([ENDS[end]] if ENDS[end] else []))) as backend:
        async with serving(backend.url) as proxy:
            events = payloads(await proxy.stream("/v1/responses", input="hi"))
    assert events[-1]["type"] == "response.completed"
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "Because of"


CREATED = event({"type": "response.created", "sequence_number": 0, "response": {"id": "r", "status": "in_progress"}})


@pytest.mark.parametrize(
    ("last", "word"),
    [
        (event({"type": "response.completed", "response": {"id": "r", "usage": None}}), "complete"),
        (event({"type": "response.incomplete", "response": {"id": "r"}}), "complete"),
        (event({"type": "response.failed", "response": {"id": "r", "error": {"message": "x"}}}), "backend_error"),
        (event({"type": "error", "code": "x", "message": "out of memory", "param": None}), "backend_error"),
        (event({"error": {"message": "out of memory"}}), "backend_error"),
        (b"", "truncated"),
        (b"data: [DONE]\n\n", "truncated"),
        (b"data: {\n\n", "truncated"),
    ],
)
async def test_relayed_response_has_one_last_event(last: bytes, word: str) -> None:
    parts = [CREATED, *([last] if last else [])]
    async with scripted_backend(sends(*parts), kind="chat") as backend, serving(backend.url) as proxy:
        events = payloads(await proxy.stream("/v1/responses", input="hi"))
        assert await outcome(proxy) == word
    ends = {"response.completed", "response.incomplete", "response.failed"}
    assert [one["type"] in ends for one in events] == [False, True]
    assert (events[-1]["type"] == "response.failed") == (word != "complete")
    assert events[-1]["response"]["id"] == "r"


NO_REASONS = pytest.mark.parametrize("none", ["", " ", "null", "None", None], ids=repr)


@KINDS
@NO_REASONS
async def test_stream_that_breaks_off_is_truncated_whatever_stands_for_no_finish_reason(
    kind: str, none: str | None
) -> None:
    parts = [chunk(kind, "Be", none), chunk(kind, "cause", none)]
    async with scripted_backend(sends(*parts), kind=kind) as backend, serving(backend.url) as proxy:
        received = payloads(await proxy.stream())
        assert await outcome(proxy) == "truncated"
    assert ["error" in one for one in received] == [False] * (len(received) - 1) + [True]


@NO_REASONS
@pytest.mark.parametrize("usage", [False, True], ids=["", "usage"])
@pytest.mark.parametrize("last", ["stop", "length", None])
async def test_translated_choice_has_one_finish_reason_at_its_end(
    none: str | None, last: str | None, *, usage: bool
) -> None:
    parts = [chunk("completion", text, none) for text in ("Be", "cause", "\n\n# Que", "stions")]
    parts += [chunk("completion", "\n", last)]  # it may be the beginning of a marker
    parts += [usage_event(choices=[])] if usage else []
    async with scripted_backend(sends(*parts, b"data: [DONE]\n\n")) as backend, serving(backend.url) as proxy:
        received = payloads(await proxy.stream(stream_options={"include_usage": usage}))
        assert await outcome(proxy) == "complete"
    assert text_of(received) == "Because\n\n# Questions\n"
    assert received.pop() == b"[DONE]"
    if usage:
        assert received.pop()["usage"] == USAGE
    reasons = [one["choices"][0]["finish_reason"] for one in received]
    assert reasons == [None] * (len(reasons) - 1) + [last or "stop"]


@NO_REASONS
async def test_marker_is_removed_although_each_chunk_has_an_empty_finish_reason(none: str | None) -> None:
    parts = [chunk("completion", text, none) for text in ("Yes.", "\n\n# Que", "ry:\nWhat?")]
    async with scripted_backend(sends(*parts, b"data: [DONE]\n\n")) as backend, serving(backend.url) as proxy:
        received = payloads(await proxy.stream())
    assert text_of(received) == "Yes."
    assert [one["choices"][0]["finish_reason"] for one in received[:-1]][-1] == "stop"


@NO_REASONS
@pytest.mark.parametrize("last", ["\n\n# Query:", "\n\n# Ans"])
async def test_end_without_a_finish_reason_releases_what_is_no_marker(none: str | None, last: str) -> None:
    parts = [chunk("completion", "Yes.", none), chunk("completion", last, none)]
    async with scripted_backend(sends(*parts, b"data: [DONE]\n\n")) as backend, serving(backend.url) as proxy:
        received = payloads(await proxy.stream())
    assert text_of(received) == ("Yes." if last.endswith(":") else "Yes." + last)
    assert received[-2]["choices"][0]["finish_reason"] == "stop"


@NO_REASONS
async def test_translated_whole_answer_has_a_finish_reason(none: str | None) -> None:
    async def script(reply: Reply, request: Received) -> None:
        await reply.whole(completion("Yes.", none))

    async with scripted_backend(script) as backend, serving(backend.url) as proxy:
        _, _, reply = await proxy.chat()
    assert reply["choices"][0]["finish_reason"] == "stop"
