"""Guards that no reply of a backend, whatever its bytes, becomes a 500, a stream without end, or a malformed answer."""

import asyncio
import gzip
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.core.log import LOGGER
from tests.faults.history import LogHistory
from tests.faults.scripted import Received, Reply, completion, scripted_backend
from tests.faults.test_stream_ends import KINDS, payloads
from tests.proxy.serving import Serving, serving
from tests.random_examples import examples

ERROR_FIELDS: Final = {"message", "type", "param", "code"}


def whole(kind: str) -> dict[str, Any]:
    if kind == "completion":
        return completion("Yes.")
    choice = {"index": 0, "message": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop"}
    return {**completion(""), "object": "chat.completion", "choices": [choice]}


def chunk(kind: str, finish: str | None = None) -> dict[str, Any]:
    body = {"delta": {"content": "Yes"}} if kind == "chat" else {"text": "Yes", "stop_reason": None}
    choice = {"index": 0, **body, "logprobs": None, "finish_reason": finish}
    return {"id": "1", "object": "x", "created": 7, "model": "scripted", "choices": [choice]}


def with_choice(payload: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {**payload, "choices": [{**payload["choices"][0], **fields}]}


def odd(payload: dict[str, Any], kind: str, holder: str) -> Iterator[tuple[str, bytes]]:
    """Yield names and bodies that are malformed, each in another way."""
    for value in (None, [None], {}, "x", 5, ["x"], [[]], True, False, [{"index": []}], [{"index": "0"}]):
        yield f"choices {value!r}", orjson.dumps({**payload, "choices": value})
    yield "no choices", orjson.dumps({name: value for name, value in payload.items() if name != "choices"})
    for value in (None, "x", 5, [], [1]) if kind == "chat" else (5, [], {}, True):
        yield f"{holder} {value!r}", orjson.dumps(with_choice(payload, **{holder: value}))
    if kind == "chat":
        for value in (5, True, {}):
            yield f"content {value!r}", orjson.dumps(with_choice(payload, **{holder: {"content": value}}))
    yield "finish_reason 5", orjson.dumps(with_choice(payload, finish_reason=5))
    text = orjson.dumps(payload)
    yield "a list", b"[" + text + b"]"
    yield "a string", b'"text"'
    yield "a number", b"5"
    yield "null", b"null"
    yield "not a number", text.replace(b'"created":7', b'"created":NaN')
    yield "not UTF-8", text.replace(b"Yes", b"Yes\xff")
    yield "UTF-16", text.decode().encode("utf-16")
    yield "a control character", text.replace(b"Yes", b"Y\x01s")
    yield "half", text[: len(text) // 2]
    yield "two objects", text + text
    yield "nested too deep", text.replace(b'"created":7', b'"created":' + b"[" * 2000 + b"]" * 2000)
    yield "a page", b"<!DOCTYPE html><html><body>http://10.1.2.3:8000/</body></html>"


ODD_REPLIES: Final = [
    *((f"{kind}: {name}", kind, body) for kind, holder in (("chat", "message"), ("completion", "text"))
      for name, body in [*odd(whole(kind), kind, holder), ("empty", b""), ("blank", b" \n")]),
]  # fmt: skip
ODD_CHUNKS: Final = [
    *((f"{kind}: {name}", kind, body) for kind, holder in (("chat", "delta"), ("completion", "text"))
      for name, body in odd(chunk(kind), kind, holder)),
]  # fmt: skip


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("kind", "body"), [one[1:] for one in ODD_REPLIES], ids=[one[0] for one in ODD_REPLIES])
async def test_malformed_reply_is_502_and_names_the_cause(kind: str, body: bytes, *, stream: bool) -> None:
    async def script(reply: Reply, request: Received) -> None:
        await reply.whole(body)

    async with scripted_backend(script, kind=kind) as backend, serving(backend.url) as proxy:
        status, headers, reply = await proxy.chat(stream=stream)
    assert (status, headers["Content-Type"]) == (502, "application/json")
    error = reply["error"]
    assert (error.keys(), error["code"], error["type"]) == (ERROR_FIELDS, "backend_protocol", "backend_error")
    assert error["message"].startswith("The backend's reply ")
    assert "Yes" not in error["message"]
    assert "10.1.2.3" not in error["message"]


@pytest.mark.parametrize(("kind", "body"), [one[1:] for one in ODD_CHUNKS], ids=[one[0] for one in ODD_CHUNKS])
async def test_malformed_chunk_is_one_error_event(kind: str, body: bytes) -> None:
    good = b"data: " + orjson.dumps(chunk(kind)) + b"\n\n"

    async def script(reply: Reply, request: Received) -> None:
        await reply.begin()
        await reply.chunk(good + good)
        await reply.chunk(b"data: " + body + b"\n\n" + good)
        await reply.chunk(good + b"data: [DONE]\n\n")
        await reply.end()

    async with scripted_backend(script, kind=kind) as backend, serving(backend.url) as proxy:
        received = payloads(await proxy.stream())
    assert ["error" in one for one in received] == [False] * (len(received) - 1) + [True]
    assert received[-1]["error"].keys() == ERROR_FIELDS
    assert received[-1]["error"]["code"] == "backend_protocol"
    texts = [one["choices"][0]["delta"].get("content") for one in received[:-1]]
    assert [text for text in texts if text] == ["Yes", "Yes"]


HARMLESS: Final[Mapping[str, Any]] = {
    "usage of a wrong type": {"usage": "many"},
    "usage with wrong counts": {"usage": {"prompt_tokens": "x", "completion_tokens": -1, "total_tokens": None}},
    "usage with wrong details": {"usage": {"prompt_tokens_details": [1], "completion_tokens": 1e300}},
    "no id": {"id": None},
    "an id that is a list": {"id": [1]},
    "another model": {"model": None, "created": "yesterday", "object": []},
}


@KINDS
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
@pytest.mark.parametrize("fields", HARMLESS.values(), ids=HARMLESS)
async def test_odd_field_beside_the_choices_does_not_cost_the_answer(
    fields: dict[str, Any], path: str, kind: str
) -> None:
    async def script(reply: Reply, request: Received) -> None:
        if not request.json.get("stream"):
            return await reply.whole({**whole(kind), **fields})
        await reply.begin()
        for finish in (None, None, "stop"):
            await reply.chunk(b"data: " + orjson.dumps({**chunk(kind, finish), **fields}) + b"\n\n")
        return await reply.end()

    if (path, kind) == ("/v1/responses", "chat"):
        return
    async with scripted_backend(script, kind=kind) as backend, serving(backend.url) as proxy:
        body = {"model": "scripted", "messages": [{"role": "user", "content": "hi"}], "input": "hi"}
        status, _, reply = await proxy.post(path, body)
        assert status == 200, reply
        stream = await proxy.stream(path, input="hi", stream_options={"include_usage": True})
    assert b"YesYes" in stream.replace(b'"}}', b"").replace(b'","logprobs', b"") or stream.count(b'"Yes"') >= 3
    assert stream.endswith(b"[DONE]\n\n") or b"response.completed" in stream
    if path == "/v1/chat/completions" and kind == "completion":
        ids = {one["id"] for one in payloads(stream) if one != b"[DONE]"}
        assert len(ids) == 1
        assert all(name.startswith("chatcmpl-") and "None" not in name for name in ids)


async def test_half_a_surrogate_pair_and_a_byte_order_mark_do_not_cost_the_answer() -> None:
    for body in (b"\xef\xbb\xbf" + orjson.dumps(completion("Yes.")), json.dumps(completion("Yes.\ud83d")).encode()):

        async def script(reply: Reply, request: Received, body: bytes = body) -> None:
            await reply.whole(body)

        async with scripted_backend(script) as backend, serving(backend.url) as proxy:
            status, _, reply = await proxy.chat()
        assert status == 200
        assert reply["choices"][0]["message"]["content"].removesuffix("\ufffd") == "Yes."


HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
FRAMES: Final[Mapping[str, tuple[bytes, str]]] = {
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", "is empty"),
    "301": (b"HTTP/1.1 301 Moved\r\nLocation: http://10.1.2.3/\r\nContent-Length: 0\r\n\r\n", "301"),
    "304": (b"HTTP/1.1 304 Not Modified\r\n\r\n", "304"),
    "307": (b"HTTP/1.1 307 Temporary\r\nLocation: /v1/\r\nContent-Length: 2\r\n\r\n{}", "307"),
    "gzip": (HEAD + b"Content-Encoding: gzip\r\nContent-Length: 22\r\n\r\n" + gzip.compress(b"{}"), "compressed"),
    "br": (HEAD + b"Content-Encoding: br\r\nContent-Length: 2\r\n\r\n{}", "compressed"),
    "deflate, in capitals": (HEAD + b"Content-Encoding: DEFLATE\r\nContent-Length: 2\r\n\r\n{}", "compressed"),
    "two lengths": (HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ", "broke off"),
    "negative length": (HEAD + b"Content-Length: -2\r\n\r\n{}", "HTTP"),
    "a stream that was not requested": (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 14\r\n\r\ndata: [DONE]\n\n",
        "stream of events",
    ),
}


@pytest.mark.parametrize(("frame", "cause"), FRAMES.values(), ids=FRAMES)
async def test_reply_with_another_status_or_encoding_is_502_and_names_the_cause(frame: bytes, cause: str) -> None:
    async def script(reply: Reply, request: Received) -> None:
        await reply.send(frame)
        await asyncio.sleep(0.01)
        reply.writer.close()

    async with scripted_backend(script) as backend, serving(backend.url) as proxy:
        status, _, reply = await proxy.chat()
    assert (status, reply["error"].keys()) == (502, ERROR_FIELDS)
    assert "10.1.2.3" not in reply["error"]["message"]
    if cause not in ("broke off", "HTTP"):
        assert cause in reply["error"]["message"]


@KINDS
@pytest.mark.parametrize("head", ["Content-Encoding: Identity", "Content-Encoding: ", "X-RateLimit-Odd: \xff\xfe"])
async def test_harmless_header_does_not_cost_the_answer(head: str, kind: str) -> None:
    async def script(reply: Reply, request: Received) -> None:
        body = orjson.dumps(whole(kind))
        await reply.send(HEAD + head.encode("latin-1") + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    async with scripted_backend(script, kind=kind) as backend, serving(backend.url) as proxy:
        assert (await proxy.chat())[0] == 200


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3) | st.just("error"), inner, max_size=2)
    ),
    max_leaves=4,
)
NAMES = ("error", "object", "type", "choices", "usage", "id", "message", "delta", "text", "logprobs", "index")
LOGPROBS = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("tokens", "token_logprobs", "top_logprobs", "content"), VALUES)
)


@st.composite
def mutated(draw: st.DrawFn, payload: Any) -> bytes:
    """Return a payload in which one or two places have another value, or have none."""
    copy = orjson.loads(orjson.dumps(payload))
    for _ in range(draw(st.integers(1, 2))):
        places = list(_places(copy))
        parent, name = draw(st.sampled_from(places))
        if draw(st.booleans()) and isinstance(parent, dict):
            parent[draw(st.sampled_from(NAMES))] = draw(VALUES | LOGPROBS)
        elif name in parent if isinstance(parent, dict) else name < len(parent):
            parent[name] = draw(VALUES | LOGPROBS)
    text = json.dumps(copy, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    at = draw(st.integers(0, len(text)))
    return draw(st.sampled_from([text, text, text, text[:at] + draw(st.binary(max_size=3)) + text[at:], text[:at]]))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        yield value, name
        yield from _places(inner)


LOGGED = {"tokens": ["Yes"], "token_logprobs": [-1.0], "top_logprobs": [{"Yes": -1.0}]}
STATUS = st.sampled_from(
    [200] * 8 + [201, 204, 206, 299, 302, 400, 401, 404, 413, 422, 429, 500, 502, 503, 504, 599, 600, 999]
)
MEDIA_TYPE = st.sampled_from(
    ["application/json"] * 3 + ["text/event-stream"] * 3 + ["text/html", "text/plain", "", "\xff", "a/b; c"]
)
ANYTHING = st.binary(max_size=30) | VALUES.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass"))


def bodies(kind: str) -> st.SearchStrategy[bytes]:
    return mutated(with_choice(whole(kind), logprobs=LOGGED)) | mutated(whole(kind)) | ANYTHING


def streams(kind: str) -> st.SearchStrategy[bytes]:
    usual = [*[orjson.dumps(chunk(kind))] * 2, orjson.dumps(chunk(kind, "stop")), b"[DONE]"]
    strange = mutated(chunk(kind)) | mutated(with_choice(chunk(kind), logprobs=LOGGED)) | ANYTHING
    parts = st.lists(strange | st.sampled_from(usual), min_size=1, max_size=5)
    prefix = st.sampled_from(["data: "] * 6 + ["data:", "", "event: error\ndata: ", "error: ", ": ", "id: 1\ndata: "])
    end = st.sampled_from(["\n\n"] * 6 + ["\r\n\r\n", "\r\r", "\n", ""])
    return st.lists(st.tuples(prefix, parts.map(lambda some: some[0]), end), max_size=6).map(
        lambda some: b"".join(one.encode() + data + last.encode() for one, data, last in some)
    )


@contextmanager
def asking(kind: str) -> Iterator[Any]:
    """Start a proxy and a backend. Yield a function that sends a request to get a given reply of the backend."""
    history = LogHistory()

    async def script(reply: Reply, request: Received) -> None:
        head = f"HTTP/1.1 {scripted[0]} Whatever\r\nContent-Type: {scripted[1]}\r\nConnection: close\r\n\r\n"
        await reply.send(head.encode("latin-1") + scripted[2])
        reply.writer.close()

    @asynccontextmanager
    async def both() -> Any:
        async with scripted_backend(script, kind=kind, keeps=False) as backend, serving(backend.url) as proxy:
            yield backend, proxy

    async def post(proxy: Serving, path: str, *, stream: bool) -> tuple[int, str, bytes]:
        body = {"model": "scripted", "stream": stream, "messages": [{"role": "user", "content": "hi"}], "input": "hi"}
        async with proxy.session.post(path, json={**body, "logprobs": True, "top_logprobs": 1}) as response:
            return response.status, response.content_type, await response.read()

    scripted: tuple[int, str, bytes] = (200, "", b"")
    with asyncio.Runner() as runner:
        manager = both()
        _, proxy = runner.run(manager.__aenter__())
        LOGGER.setLevel(logging.INFO)
        LOGGER.addHandler(history)

        def ask(path: str, *, stream: bool, reply: tuple[int, str, bytes]) -> tuple[int, str, bytes]:
            nonlocal scripted
            scripted = reply
            proxy.gateway.pool.backends[0].health.record_success()
            got = runner.run(post(proxy, path, stream=stream))
            assert history.defects == []
            return got

        try:
            yield ask
        finally:
            LOGGER.removeHandler(history)
            runner.run(manager.__aexit__(None, None, None))


PATHS: Final = {"chat": ["/v1/chat/completions"], "completion": ["/v1/chat/completions", "/v1/responses"]}


@examples(80, more=300)
@pytest.mark.parametrize(("kind", "path"), [(kind, path) for kind, paths in PATHS.items() for path in paths])
def test_no_reply_becomes_a_500_or_an_answer_without_a_proper_end(kind: str, path: str, number: int) -> None:
    with asking(kind) as ask:

        @settings(max_examples=number, suppress_health_check=list(HealthCheck))
        @given(st.data(), st.booleans(), STATUS, MEDIA_TYPE)
        def check(data: st.DataObject, stream: bool, status: int, media_type: str) -> None:
            body = data.draw(streams(kind) | bodies(kind) if stream else bodies(kind))
            got, got_type, got_body = ask(path, stream=stream, reply=(status, media_type, body))
            if got_type == "text/event-stream":
                _check_stream(path, got, got_body)
            else:
                _check_whole(path, got, got_type, got_body)

        check()


def _check_whole(path: str, status: int, media_type: str, body: bytes) -> None:
    assert media_type == "application/json"
    payload = json.loads(body)
    if status != 200:
        assert 400 <= status <= 599
        assert isinstance(payload["error"]["message"], str)
        assert not payload["error"]["message"].startswith("Internal error")
    elif path == "/v1/responses":
        assert payload["status"] in ("completed", "incomplete")
    else:
        assert all(isinstance(choice["message"], dict) for choice in payload["choices"])


def _check_stream(path: str, status: int, body: bytes) -> None:
    assert status == 200
    events = payloads(body)
    if path == "/v1/responses":
        ends = [one["type"] in ("response.completed", "response.incomplete", "response.failed") for one in events]
    else:
        ends = [one == b"[DONE]" or bool(one.get("error")) for one in events]
    assert ends == [False] * (len(ends) - 1) + [True]
    assert b"Internal error" not in body
