"""Guards the proxy against clients that stall, send slowly, disconnect, send malformed requests, or never read."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from proxy.core.log import log_lines
from tests.faults.client import chat_request, raw_client
from tests.faults.scripted import Received, Reply, completion, completion_events, scripted_backend
from tests.proxy.serving import Serving, serving

CANARY = "canary-5f3a"
EVENT = completion_events(["word "])[0]


async def answer(reply: Reply, request: Received) -> None:
    await reply.whole(completion("Yes."))


async def never(reply: Reply, request: Received) -> None:
    await asyncio.sleep(60)


async def begins_and_hangs(reply: Reply, request: Received) -> None:
    await reply.begin()
    await reply.chunk(EVENT)
    await asyncio.sleep(60)


async def endless(reply: Reply, request: Received) -> None:
    await reply.begin()
    while True:
        await reply.chunk(EVENT * 100)


async def begins_a_whole_reply(reply: Reply, request: Received) -> None:
    await reply.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{")
    await asyncio.sleep(60)


@pytest.mark.parametrize(
    ("script", "stream"), [(never, False), (never, True), (begins_a_whole_reply, False), (begins_and_hangs, True)]
)
@pytest.mark.parametrize("way", ["closes", "resets"])
async def test_client_that_disconnects_stops_the_work_of_the_backend(
    script: Callable[[Reply, Received], Awaitable[None]], way: str, *, stream: bool
) -> None:
    async with scripted_backend(script) as backend, serving(backend.url) as proxy, raw_client(proxy.url) as client:
        await client.send(chat_request(stream=stream))
        if script is begins_and_hangs:
            await client.some(b"word ")
        while not backend.generating:
            await asyncio.sleep(0.005)
        client.vanish() if way == "resets" else client.writer.close()
        async with asyncio.timeout(60):
            await backend.aborted.wait()
        await _settled(proxy)
        assert 'outcome="client_gone",route="/v1/chat/completions",status="499"' in await _metrics(proxy)


async def test_client_that_disconnects_before_its_body_is_complete_reaches_no_backend(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with scripted_backend(answer) as backend, serving(backend.url) as proxy:
        for part in (b"POST /v1/ch", chat_request()[:-5]):
            async with raw_client(proxy.url) as client:
                await client.send(part)
                await asyncio.sleep(0.02)
                client.vanish()
        await _settled(proxy)
        assert backend.generating == []
        assert [line.message for line in caplog.records if line.levelno > logging.INFO] == [], "no defect of ours"
        assert (await proxy.chat())[0] == 200


async def test_slow_headers_are_408_and_an_idle_connection_is_closed_without_a_reply() -> None:
    async with scripted_backend(answer) as backend, serving(backend.url, read_timeout=0.3) as proxy:
        async with raw_client(proxy.url) as client, raw_client(proxy.url) as idle:
            await client.send(b"POST /v1/chat/completions HTTP/1.1\r\nHo")
            for letter in b"st: ":  # sending it slowly does not help
                await asyncio.sleep(0.05)
                await client.send(bytes([letter]))
            reply = await client.reply()
            assert reply.startswith(b"HTTP/1.1 408 ")
            assert b"The headers did not arrive within 0.3 s." in reply
            assert await idle.reply() == b""


async def test_deadline_is_for_the_first_headers_and_not_for_the_connection() -> None:
    async with scripted_backend(answer) as backend, serving(backend.url, read_timeout=1.0) as proxy:
        async with raw_client(proxy.url) as client:
            await client.send(chat_request())
            await client.some(b"Yes.")
            await asyncio.sleep(1.2)
            await client.send(chat_request())
            await client.some(b"Yes.")


async def test_body_that_arrives_too_slowly_is_408() -> None:
    async with scripted_backend(answer) as backend, serving(backend.url, read_timeout=0.3) as proxy:
        async with raw_client(proxy.url) as client:
            request = chat_request()
            await client.send(request[:-10])
            for letter in request[-10:-1]:
                await asyncio.sleep(0.05)
                await client.send(bytes([letter]))
            assert (await client.some(b"\r\n")).startswith(b"HTTP/1.1 408 ")
        assert backend.generating == []


async def test_client_that_does_not_read_is_disconnected_and_takes_little_memory() -> None:
    async with scripted_backend(endless) as backend, serving(backend.url, write_timeout=0.5) as proxy:
        async with raw_client(proxy.url, receive_buffer=4096) as client:
            client.reader._transport.pause_reading()
            before = _resident()
            await client.send(chat_request(stream=True))
            while not backend.generating:
                await asyncio.sleep(0.005)
            await _settled(proxy)
            assert _resident() - before < 64 * 2**20
        assert 'outcome="client_gone"' in await _metrics(proxy)


POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n"
GET = b"GET /health/live HTTP/1.1\r\nHost: a\r\n"
SMUGGLED = b"0\r\n\r\nGET /v1/load_lora_adapter HTTP/1.1\r\nHost: x\r\n\r\n"
MALFORMED = {
    "both lengths": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + SMUGGLED,
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "a length that is none": POST + b"Content-Length: +5\r\n\r\nhello",
    "obscured chunking": POST + b"Transfer-Encoding: xchunked\r\n\r\n" + SMUGGLED,
    "space before the colon": b"POST /v1/chat/completions HTTP/1.1\r\nHost : a\r\n\r\n",
    "a folded header": GET + b"X-A: b\r\n c\r\n\r\n",
    "a bare line feed in a header": GET + b"X-A: b\nX-C: d\r\n\r\n",
    "NUL in a header": GET + b"Authorization: Bearer " + CANARY.encode() + b"\x00\r\n\r\n",
    "a header of 20 KB": GET + b"X-A: " + b"a" * 20_000 + b"\r\n\r\n",
    "a length of letters": POST + b"Content-Length: abc\r\n\r\n" + CANARY.encode(),
    "a chunk whose length is none": POST
    + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a control character in a key": GET + b"Authorization: Bearer " + CANARY.encode() + b"\x01\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64 + b"\r\n\r\n",
    "a path with a space": b"GET /health /live HTTP/1.1\r\nHost: a\r\n\r\n",
}


@pytest.mark.parametrize("wrong", MALFORMED)
async def test_malformed_request_is_400_and_is_not_logged(wrong: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with scripted_backend(answer) as backend, serving(backend.url) as proxy, raw_client(proxy.url) as client:
        await client.send(MALFORMED[wrong])
        reply = await client.reply()
        assert reply.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 ")), reply
        assert b'"type":"invalid_request_error"' in reply
        assert reply.count(b"HTTP/1.") == 1, "one reply for one request"
        assert b"aiohttp" not in reply
        assert backend.generating == []
    assert CANARY not in caplog.text
    assert CANARY.encode() not in reply


async def test_malformed_chunk_in_a_body_is_answered_at_once() -> None:
    async with scripted_backend(answer) as backend, serving(backend.url) as proxy, raw_client(proxy.url) as client:
        await client.send(POST + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{  \r\n")
        await asyncio.sleep(0.1)
        await client.send(b"zz\r\n")
        reply = await client.reply()
        assert reply.startswith(b"HTTP/1.1 400 "), reply
        assert b'"type":"invalid_request_error"' in reply
        assert backend.generating == []


async def test_chunked_body_is_read_and_the_next_request_is_served() -> None:
    head = POST + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b'{"model":"scripted","messages":[{"role":"user","content":"hi"}]}'
    async with scripted_backend(answer) as backend, serving(backend.url) as proxy, raw_client(proxy.url) as client:
        await client.send(head + b"3\r\n" + body[:3] + b"\r\n")
        await asyncio.sleep(0.1)
        await client.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body) - 3, body[3:]) + GET + b"Connection: close\r\n\r\n")
        assert (await client.reply()).count(b"HTTP/1.1 200 ") == 2


UNSERVED = {
    "absolute": "http://127.0.0.1:9/v1/chat/completions",
    "authority": "//127.0.0.1:9/v1/chat/completions",
    "dots": "/v1/../v1/load_lora_adapter",
    "encoded dots": "/v1/%2e%2e/load_lora_adapter",
    "encoded slash": "/v1%2fload_lora_adapter",
    "lora": "/v1/load_lora_adapter",
    "backslash": "/v1\\chat\\completions",
}


@pytest.mark.parametrize("target", UNSERVED)
async def test_request_target_does_not_choose_a_path_or_a_backend(target: str) -> None:
    async with scripted_backend(answer) as backend, serving(backend.url) as proxy:
        asked = len(backend.received)
        async with raw_client(proxy.url) as client:
            await client.send(chat_request(path=UNSERVED[target], headers="Connection: close\r\n"))
            reply = await client.reply()
        assert reply.split(b" ")[1] in (b"400", b"404", b"200"), reply
        later = backend.received[asked:]
        if target == "absolute":  # RFC 9112, 3.2.2: an origin server takes its path and ignores the authority
            assert {one.path for one in later} <= {"/v1/completions", "/tokenize"}
        else:
            assert later == []


@pytest.mark.parametrize("field", ["api_base", "base_url", "backend", "model_list", "api_key", "url"])
async def test_request_field_does_not_choose_a_backend(field: str) -> None:
    async with scripted_backend(answer) as backend, scripted_backend(answer) as other, serving(backend.url) as proxy:
        assert (await proxy.chat(**{field: other.url}))[0] == 200
        status, _, reply = await proxy.chat(model=other.url)
        assert (status, reply["error"]["code"]) == (404, "model_not_found")
        assert other.received == []


async def test_secrets_are_in_no_log_error_metric_or_forwarded_header(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)  # also capture what aiohttp and asyncio log
    with (tmp_path / "log").open("w") as log, log_lines("json", log):
        await _send_secrets()
    lines = (tmp_path / "log").read_text(encoding="utf-8")
    assert lines.count('"event":"request"') == 4
    assert CANARY not in lines + caplog.text


async def _send_secrets() -> None:
    secret = {name: f"{CANARY}-{name}" for name in ("Authorization", "Cookie", "X-Api-Key", "Proxy-Authorization")}

    async def fails(reply: Reply, request: Received) -> None:
        reply.reset()

    async with scripted_backend(fails) as backend, serving(backend.url) as proxy:
        for body in ({"content": CANARY}, {"content": [{"type": CANARY}]}, {"content": CANARY, "stop": {CANARY: 1}}):
            _, _, reply = await proxy.chat(**body, headers=secret)
            assert CANARY not in str(reply).replace(f"a part of type '{CANARY}'", "")
        await proxy.chat(CANARY, headers={**secret, "x-drpo-variant": "raw"})
        assert not [name for one in backend.received for name, value in one.headers.items() if CANARY in value]
        page = await _metrics(proxy)
        async with proxy.session.get("/openapi.json") as response:
            page += await response.text()
    assert backend.generating
    assert CANARY not in page


async def test_overload_is_refused_at_once_and_admitted_requests_are_served() -> None:
    inside = asyncio.Event()

    async def slow(reply: Reply, request: Received) -> None:
        await inside.wait()
        await reply.whole(completion("Yes."))

    async with (
        scripted_backend(slow) as backend,
        serving(backend.url, bundles={}, max_in_flight=4, max_queue=0) as proxy,
    ):
        tasks = [asyncio.create_task(proxy.chat()) for _ in range(16)]
        async with asyncio.timeout(60):
            while sum(task.done() for task in tasks) < 12:
                await asyncio.sleep(0.005)
        inside.set()
        replies = [await task for task in tasks]
        assert sorted(status for status, _, _ in replies) == [200] * 4 + [503] * 12
        assert all(headers["Retry-After"] == "1" for status, headers, _ in replies if status == 503)
        assert len(backend.generating) == 4


async def _settled(proxy: Serving, within: float = 60.0) -> None:
    async with asyncio.timeout(within):
        while proxy.gateway.admission.in_flight:
            await asyncio.sleep(0.005)


async def _metrics(proxy: Serving) -> str:
    async with proxy.session.get("/metrics") as response:
        return await response.text()


def _resident() -> int:
    """Return the resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096
