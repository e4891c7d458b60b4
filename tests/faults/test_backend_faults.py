"""Guards the reply when a backend fails: no partial 200, and no retry of a request that may have generated."""

import asyncio
import itertools
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest

from tests.faults.scripted import Received, Reply, ScriptedBackend, completion, completion_events, scripted_backend
from tests.proxy.serving import Serving, serving

Script = Callable[[Reply, Received], Awaitable[None]]
PATIENCE = {"connect_timeout": 1.0, "backend_timeout": 1.0, "health_interval": 60.0}
QUIET = {"health_interval": 60.0}  # a busy machine must not cause a time-out


def says(*parts: bytes, then: str = "close") -> Script:
    """Return a script that writes these bytes, and then closes, resets, or sends nothing more."""

    async def script(reply: Reply, request: Received) -> None:
        for part in parts:
            await reply.send(part)
            await asyncio.sleep(0.005)
        if then == "reset":
            reply.reset()
        elif then == "close":
            reply.writer.close()
        else:
            await asyncio.sleep(60)

    return script


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
WHOLE = orjson.dumps(completion("Yes."))
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
BEGUN = STREAM + b"".join(
    b"%x\r\n%s\r\n" % (len(event), event) for event in completion_events(["Be", "cause", " of"])[:2]
)

BEFORE_AN_ANSWER = {
    "closes before headers": (says(), 502),
    "resets before headers": (says(then="reset"), 502),
    "says nothing": (says(then="silent"), 504),
    "stops in a header": (says(b"HTTP/1.1 200 OK\r\nContent-Ty", then="silent"), 504),
    "closes in a header": (says(b"HTTP/1.1 200 OK\r\nContent-Ty"), 502),
    "is not HTTP": (says(b"SSH-2.0-OpenSSH_9.6\r\n"), 502),
    "has two lengths": (says(HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 502),
    "has a header of 20 KB": (says(HEAD + b"X-Long: " + b"x" * 20_000 + b"\r\nContent-Length: 2\r\n\r\n{}"), 502),
    "is shorter than its length": (says(HEAD + b"Content-Length: 4000\r\n\r\n" + WHOLE), 502),
    "is cut in a chunk": (says(CHUNKED + b"fff\r\n" + WHOLE), 502),
    "stalls in its body": (says(CHUNKED + b"2\r\n{}\r\n", then="silent"), 504),
    "redirects": (says(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n"), 502),
    "is compressed": (says(HEAD + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd"), 502),
    "is not JSON": (says(HEAD + b"Content-Length: 7\r\n\r\n<html/>"), 502),
    "is no completion": (says(HEAD + b"Content-Length: 2\r\n\r\n{}"), 502),
    "is switched to another protocol": (says(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n"), 502),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("fault", BEFORE_AN_ANSWER)
async def test_invalid_reply_becomes_one_error_and_is_not_retried(fault: str, *, stream: bool) -> None:
    script, status = BEFORE_AN_ANSWER[fault]
    patience = PATIENCE if status == 504 else QUIET
    async with scripted_backend(script) as backend, serving(backend.url, bundles={}, **patience) as proxy:
        got, headers, reply = await proxy.chat(stream=stream)
        assert (got, headers["Content-Type"].partition(";")[0]) == (status, "application/json")
        assert reply["error"]["code"].startswith("backend_")
        # A retry happens only if the idle connection of the health check was closed without a byte.
        assert len(backend.generating) == (2 if fault in WITHOUT_A_BYTE else 1)
        assert proxy.gateway.admission.in_flight == 0
        if status == 504:
            await _is_let_go(backend)


WITHOUT_A_BYTE = ("closes before headers", "resets before headers")

CUT = {
    "in the middle of an event": says(BEGUN + b'ff\r\ndata: {"choices"'),
    "between events, without [DONE]": says(BEGUN + b"0\r\n\r\n"),
    "by a reset": says(BEGUN, then="reset"),
    "by silence": says(BEGUN, then="silent"),
    "by a chunk that is none": says(BEGUN, b"zz\r\n"),
    "by an endless event": says(BEGUN, *[b"10000\r\n" + b"x" * 65536 + b"\r\n"] * 17, then="silent"),
}
SILENT = ("by silence", "by an endless event")


@pytest.mark.parametrize("kind", ["chat", "completion"])
@pytest.mark.parametrize("cut", CUT)
async def test_stream_that_is_cut_ends_in_one_error_event_without_done(cut: str, kind: str) -> None:
    patience = PATIENCE if cut in SILENT else QUIET
    async with scripted_backend(CUT[cut], kind=kind) as backend, serving(backend.url, **patience) as proxy:
        events = (await proxy.stream()).split(b"\n\n")
        assert events.pop() == b"", "the last event is not whole"
        payloads = [orjson.loads(event.removeprefix(b"data: ")) for event in events]
        assert ["error" in payload for payload in payloads] == [False] * (len(payloads) - 1) + [True]
        assert len(payloads) > 2
        assert 'outcome="truncated"' in await _metrics(proxy)
        assert len(backend.generating) == 1
        if cut in SILENT:
            await _is_let_go(backend)


@pytest.mark.parametrize("status", [400, 401, 404, 408, 422, 429, 500, 503, 529])
@pytest.mark.parametrize("kind", ["chat", "completion"])
async def test_error_reply_of_a_backend_is_relayed_unchanged_and_not_retried(status: int, kind: str) -> None:
    error_body = b'{"error": {"message": "in its own words",  "code": null}}'

    async def script(reply: Reply, request: Received) -> None:
        await reply.whole(
            error_body, f"{status} Whatever", Retry_After="7", X_RateLimit_Remaining="0", Set_Cookie="a=b"
        )

    async with scripted_backend(script, kind=kind) as backend, serving(backend.url, **QUIET) as proxy:
        for stream in (False, True):
            async with proxy.session.post("/v1/chat/completions", json=_chat(stream)) as response:
                assert (response.status, await response.read()) == (status, error_body)
                assert response.headers["Retry-After"] == "7"
                assert response.headers["X-RateLimit-Remaining"] == "0"
                assert "Set-Cookie" not in response.headers
        assert len(backend.generating) == 2


OTHER_FORMS = {
    "FastAPI": (b'{"detail": "too long"}', "too long"),
    "FastAPI's list": (
        b'{"detail": [{"loc": ["body", "n"], "msg": "too long", "input": "secret"}]}',
        "body.n: too long",
    ),
    "a message": (b'{"message": "too long"}', "too long"),
    "a string": (b'{"error": "too long"}', "too long"),
    "vLLM's older object": (b'{"object": "error", "message": "too long", "code": 400}', "too long"),
    "a nested object": (b'{"error": {"error": {"message": "too long"}}}', "too long"),
    "a list": (b'[{"message": "too long"}]', "too long"),
    "a JSON string": (b'"too long"', "too long"),
    "no reason": (b"{}", "reason"),
    "nginx": (b"<html><head><title>413 Request Entity Too Large</title></head>10.1.2.3 nginx/1.2</html>", "reason"),
    "an upper-case page": (b"  <HTML>http://10.1.2.3:8000/</HTML>", "reason"),
    "a page after a byte order mark": (b"\xef\xbb\xbf<html>10.1.2.3 nginx</html>", "reason"),
    "a page in JSON": (b'{"error": "<!DOCTYPE html><html>10.1.2.3 nginx</html>"}', "reason"),
    "a page in OpenAI's object": (b'{"error": {"message": "\\n<html>10.1.2.3 nginx</html>"}}', "reason"),
    "a route in JSON": (b'{"detail": "No route to http://10.1.2.3:8000/v1"}', "No route to [address]"),
    "a route in OpenAI's object": (
        b'{"error": {"message": "no route to 10.1.2.3:8000", "type": "x", "param": null, "code": null}}',
        "no route to [address]",
    ),
    "a route to a name": (b'{"message": "http://secret.default.svc:80/v1 is gone"}', "[address] is gone"),
    "a route to a short name": (b'{"message": "http://secret:80/v1 is gone"}', "[address] is gone"),
    "a page after a text": (
        b'{"error": {"message": "upstream said: <html lang=en><address>nginx at 10.1.2.3</address></html>"}}',
        "upstream said: [web page]",
    ),
    "a page after a text, in another form": (
        b'{"detail": "404: <!DOCTYPE HTML>\\n<h1>nginx secret</h1>"}',
        "404: [web page]",
    ),
    "a route to IPv6": (
        b'{"error": {"message": "no route to [fd00:10:1::3]:8000 (secret-1.local)"}}',
        "to [address] (",
    ),
    "nothing": (b"", "reason"),
    "not UTF-8": (b"\xff\xfe", ""),
}


@pytest.mark.parametrize("media_type", ["application/json", "text/html", "text/plain"])
@pytest.mark.parametrize("status", [400, 401, 404, 413, 502])
@pytest.mark.parametrize(("body", "reason"), OTHER_FORMS.values(), ids=OTHER_FORMS)
async def test_error_reply_of_another_form_becomes_openais(
    body: bytes, reason: str, status: int, media_type: str
) -> None:
    async def script(reply: Reply, _: Received) -> None:
        lines = [f"HTTP/1.1 {status} Whatever", f"Content-Type: {media_type}", f"Content-Length: {len(body)}", "", ""]
        await reply.send("\r\n".join(lines).encode() + body)

    async with scripted_backend(script) as backend, serving(backend.url, **QUIET) as proxy:
        got, headers, reply = await proxy.chat(stream=status < 500)
    assert (got, headers["Content-Type"]) == (status, "application/json")
    assert reply["error"].keys() == {"message", "type", "param", "code"}
    assert reason in reply["error"]["message"]
    assert not any(
        word in reply["error"]["message"] for word in ("10.1.2.3", "html", "HTML", "nginx", "secret", "fd00")
    )
    if reason == "reason":
        assert str(status) in reply["error"]["message"]


@pytest.mark.parametrize("given", [None, "7"])
async def test_503_of_a_backend_that_loads_has_retry_after(given: str | None) -> None:
    async def script(reply: Reply, _: Received) -> None:
        error = {"message": "Loading model", "type": "unavailable_error", "code": 503}
        await reply.whole({"error": error}, "503 Whatever", **({"Retry_After": given} if given else {}))

    async with scripted_backend(script) as backend, serving(backend.url, **QUIET) as proxy:
        status, headers, reply = await proxy.chat(stream=True)
    assert (status, headers["Retry-After"], reply["error"]["message"]) == (503, given or "5", "Loading model")


@pytest.mark.parametrize(
    "text",
    [
        "Could not fetch https://example.com:8080/cat.png",
        "messages:12345 is too long",
        "drpo 10.2.3 has no 1.10.2.3.4",
        "max_tokens is 10.5",
        "n must be at most 127",
        "stop: [::] and [f] are no lists, 1 < 2, <htmlx>",
    ],
)
async def test_error_about_the_request_of_a_client_stays_as_it_is(text: str) -> None:
    body = orjson.dumps({"error": {"message": text, "type": "BadRequestError", "param": None, "code": 400}})

    async def script(reply: Reply, _: Received) -> None:
        await reply.whole(body, "400 Whatever")

    async with scripted_backend(script) as backend, serving(backend.url) as proxy:
        async with proxy.session.post("/v1/chat/completions", json=_chat(stream=False)) as response:
            assert await response.read() == body


@pytest.mark.parametrize("status", [500, 502, 503])
async def test_addresses_in_an_error_of_a_router_do_not_reach_the_client(status: int) -> None:
    error_body = b"error sending request for url (http://10.1.2.3:8000/v1/completions)"

    async def script(reply: Reply, _: Received) -> None:
        await reply.whole(error_body, f"{status} Whatever", Content_Type="text/plain")

    async with scripted_backend(script) as backend, serving(backend.url, **QUIET) as proxy:
        async with proxy.session.post("/v1/chat/completions", json=_chat(stream=False)) as response:
            assert response.status == status
            assert response.content_type == "application/json"
            error = (await response.json())["error"]
            assert "10.1.2.3" not in error["message"]
            assert str(status) in error["message"]


async def test_backend_that_accepts_no_connection_is_504_at_the_connect_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        host, port = full.getsockname()
        # One connection fills the queue, so the kernel answers no further SYN.
        with socket.create_connection((host, port)):
            async with scripted_backend(says()) as backend, serving(backend.url, bundles={}, **PATIENCE) as proxy:
                proxy.gateway.pool.backends[0].url = f"http://{host}:{port}"
                status, _, reply = await proxy.chat()
    assert (status, reply["error"]["code"]) == (504, "backend_timeout")


async def test_refused_connection_moves_requests_until_the_backend_answers_again() -> None:
    async def script(reply: Reply, request: Received) -> None:
        await reply.whole(completion("Yes."))

    async with scripted_backend(script) as one, scripted_backend(script) as two:
        async with serving(one.url, two.url, bundles={}, health_interval=0.05) as proxy:
            broken = proxy.gateway.pool.backends[0]
            broken.url = "http://127.0.0.1:9"
            for number in range(4):
                assert (await proxy.chat(f"question {number}"))[0] == 200
            assert (len(one.generating), len(two.generating)) == (0, 4)
            broken.url = one.url
            async with asyncio.timeout(60):
                for number in itertools.count():
                    await proxy.chat(f"question {number}")
                    if one.generating:
                        break
                    await asyncio.sleep(0.02)


async def _is_let_go(backend: ScriptedBackend) -> None:
    """Wait until the proxy has closed the connection of a backend that sends nothing."""
    async with asyncio.timeout(60):
        await backend.aborted.wait()


async def _metrics(proxy: Serving) -> str:
    async with proxy.session.get("/metrics") as response:
        return await response.text()


def _chat(stream: bool) -> dict[str, Any]:
    return {"model": "scripted", "messages": [{"role": "user", "content": "hi"}], "stream": stream}
