"""Guards the HTTP client: a reply does not depend on how the network splits it, and leaves no byte for the next one."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.backends.connection import MAX_HEAD_BYTES, Connection
from proxy.backends.load_balancing import RetryBudget
from proxy.backends.response import BackendResponse
from proxy.backends.transport import _IDLE_TIMEOUT, BackendRequest, Transport, parse_root_url, request_head
from proxy.core.errors import BackendProtocolError, BackendTimeoutError, ProxyError
from proxy.core.metrics import create_metrics
from tests.clock import MovedClock
from tests.proxy.serving import until

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


class Pipe(asyncio.Transport):
    """A transport without a socket. It records what the connection does to it."""

    def __init__(self) -> None:
        super().__init__()
        self.aborted = False
        self.paused = False

    def writelines(self, data: object) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


class Exchange:
    """One connection over a pipe; the test feeds the reply."""

    def __init__(self, silence: float = 60.0) -> None:
        self.kept: list[Connection] = []
        self.pipe = Pipe()
        self.connection = Connection(silence, self.kept.append, lambda _: None)
        self.connection.connection_made(self.pipe)

    async def reply(self, *parts: bytes, ended: bool = False) -> BackendResponse:
        asking = asyncio.create_task(self.connection.exchange([b"request"]))
        await asyncio.sleep(0)
        for part in parts:
            if not self.connection.closed:
                self.connection.data_received(part)
        if ended:
            self.connection.connection_lost(None)
        return await asking


GOOD = {
    "with a length": (OK + b"Content-Length: 5\r\n\r\nhello", b"hello", True),
    "in chunks": (CHUNKED + b"2\r\nhe\r\n3;note=1\r\nllo\r\n0\r\nX-Trailer: t\r\n\r\n", b"hello", True),
    "after interim replies": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nContent-Type: a/b\r\n\r\n"
        + OK
        + b"Content-Length: 5\r\n\r\nhello",
        b"hello",
        True,
    ),
    "that closes": (OK + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello", b"hello", False),
    "of HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello", b"hello", False),
    "without a body": (OK + b"Content-Length: 0\r\n\r\n", b"", True),
}


@pytest.mark.parametrize("kind", GOOD)
@given(cuts=st.lists(st.integers(1, 200), max_size=6))
def test_reply_does_not_depend_on_how_the_network_splits_it(kind: str, cuts: list[int]) -> None:
    data, body, reusable = GOOD[kind]
    places = [0, *sorted({cut for cut in cuts if cut < len(data)}), len(data)]

    async def run() -> None:
        exchange = Exchange()
        reply = await exchange.reply(*[data[a:b] for a, b in itertools.pairwise(places)])
        assert (reply.status, reply.content_type, await reply.read()) == (200, "text/plain", body)
        reply.close()
        assert (exchange.kept == [exchange.connection], exchange.pipe.aborted) == (reusable, not reusable)

    asyncio.run(run())


async def test_end_of_connection_completes_only_a_body_without_a_length() -> None:
    reply = await Exchange().reply(OK + b"\r\n", b"hel", b"lo", ended=True)
    assert await reply.read() == b"hello"
    for cut in (OK + b"Content-Length: 9\r\n\r\nhello", CHUNKED + b"5\r\nhello\r\n", CHUNKED + b"9\r\nhello"):
        reply = await Exchange().reply(cut, ended=True)
        assert await reply.read_part() == b"hello"
        with pytest.raises(BackendProtocolError):
            await reply.read_part()
        assert not reply.fully_read


@pytest.mark.parametrize(
    "data",
    [
        OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        OK + b"Transfer-Encoding: chunked, gzip\r\n\r\n",
        OK + b"Transfer-Encoding: gzip\r\n\r\n",
        OK + b"X-Folded: a\r\n b\r\nContent-Length: 0\r\n\r\n",
        OK + b"X: " + b"x" * MAX_HEAD_BYTES + b"\r\nContent-Length: 0\r\n\r\n",
        OK + b"X: " + b"x" * 2 * MAX_HEAD_BYTES,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000,
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x16\x03\x01\x02\x00",
    ],
)
async def test_invalid_reply_is_an_error_of_the_exchange(data: bytes) -> None:
    exchange = Exchange()
    with pytest.raises(BackendProtocolError):
        await exchange.reply(*[data[n : n + 4096] for n in range(0, len(data), 4096)])
    assert exchange.pipe.aborted


@pytest.mark.parametrize("more", [b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"])
async def test_extra_bytes_after_a_reply_close_the_connection(more: bytes) -> None:
    whole = OK + b"Content-Length: 5\r\n\r\nhello"
    for parts in ((whole + more,), (whole, more)):
        exchange = Exchange()
        reply = await exchange.reply(*parts)
        assert await reply.read() == b"hello"
        reply.close()
        assert (exchange.kept, exchange.pipe.aborted) == ([], True)
    exchange = Exchange()
    reply = await exchange.reply(whole)
    await reply.read()
    reply.close()
    exchange.connection.data_received(more)
    assert exchange.connection.closed


async def test_unread_reply_closes_its_connection() -> None:
    exchange = Exchange()
    reply = await exchange.reply(OK + b"Content-Length: 5\r\n\r\nhello")
    reply.close()
    assert (exchange.kept, exchange.pipe.aborted) == ([], True)


async def test_slow_reader_pauses_the_backend_and_loses_no_byte() -> None:
    clock, exchange = MovedClock(), Exchange(silence=60.0)
    reply = await exchange.reply(OK + b"Content-Length: 300000\r\n\r\n", b"a" * 200_000)
    assert exchange.pipe.paused
    await clock.forward(180.0)  # longer than the timeout: a slow reader is not a silent backend
    assert await reply.read_part() == b"a" * 200_000
    assert not exchange.pipe.paused
    exchange.connection.data_received(b"b" * 100_000)
    assert await reply.read() == b"b" * 100_000


async def test_parts_are_taken_at_the_moment_when_they_arrive() -> None:
    exchange = Exchange()
    reply = await exchange.reply(CHUNKED, b"1\r\na\r\n")
    taken: list[bytes] = []
    passing = asyncio.create_task(reply.pass_on(lambda data: not taken.append(data)))
    await asyncio.sleep(0)
    for data, expected in ((b"1\r\nb\r\n1\r\nc\r\n", b"bc"), (b"1\r\nd\r\n0\r\n\r\n", b"d")):
        exchange.connection.data_received(data)
        assert taken[-1] == expected
    assert not await passing
    assert (taken, reply.fully_read) == ([b"a", b"bc", b"d"], True)


async def test_parts_that_are_not_taken_stay_for_the_next_reader() -> None:
    exchange = Exchange()
    reply = await exchange.reply(CHUNKED)
    taken: list[bytes] = []
    passing = asyncio.create_task(reply.pass_on(lambda data: bool(taken.append(data))))
    await asyncio.sleep(0)
    exchange.connection.data_received(b"1\r\na\r\n")
    exchange.connection.data_received(b"1\r\nb\r\n0\r\n\r\n")
    assert await passing
    assert (taken, await reply.read()) == ([b"a"], b"b")


async def test_parts_before_a_failure_are_taken_and_then_the_error_is_raised() -> None:
    exchange = Exchange()
    reply = await exchange.reply(CHUNKED)
    taken: list[bytes] = []
    passing = asyncio.create_task(reply.pass_on(lambda data: not taken.append(data)))
    await asyncio.sleep(0)
    exchange.connection.data_received(b"1\r\na\r\nnot a size")
    with pytest.raises(BackendProtocolError):
        await passing
    assert taken == [b"a"]


async def test_silence_timeout_counts_from_the_last_byte() -> None:
    clock, exchange = MovedClock(), Exchange(silence=60.0)
    reply = await exchange.reply(CHUNKED)
    for _ in range(4):
        await clock.forward(40.0)
        assert not exchange.pipe.aborted
        exchange.connection.data_received(b"1\r\nx\r\n")
        assert await reply.read_part() == b"x"
    await clock.forward(61.0)
    with pytest.raises(BackendTimeoutError):
        await reply.read_part()
    assert exchange.pipe.aborted


async def test_cancelled_exchange_closes_its_connection() -> None:
    exchange = Exchange()
    asking = asyncio.create_task(exchange.connection.exchange([b"request"]))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert exchange.pipe.aborted


@given(st.dictionaries(st.sampled_from(["Accept", "Traceparent", "X-Request-Id"]), st.text(max_size=20)))
def test_request_head_refuses_a_header_with_a_line_break(headers: dict[str, str]) -> None:
    try:
        head = request_head("POST", "/v1/chat/completions", headers, 7)
    except (ValueError, UnicodeEncodeError):
        return
    assert head.count(b"\r\n") == head.count(b"\n") == head.count(b"\r") == len(headers) + 3


def test_root_url_is_parsed_into_an_address() -> None:
    plain, secure, six = (parse_root_url(url) for url in ("http://a:81/x y/", "https://b", "http://[::1]:9"))
    assert (plain.host, plain.port, plain.path_prefix, plain.headers["Host"]) == ("a", 81, "/x%20y", "a:81")
    assert (secure.secure, secure.port, secure.headers["Host"]) == (True, 443, "b")
    assert (six.host, six.headers["Host"]) == ("::1", "[::1]:9")


@asynccontextmanager
async def transport_to(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[Any]:
    """Yield a transport and a request to a server that runs `answer`; close all connections at the end."""
    serving: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.current_task())
        try:
            await answer(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        transport = Transport(60.0, 60.0, RetryBudget(), create_metrics())
        yield transport, BackendRequest("POST", f"http://127.0.0.1:{port}", "/v1/x", b"{}", {})
        await transport.close()
        await asyncio.gather(*serving, return_exceptions=True)
        await asyncio.sleep(0.01)


async def test_connection_is_reused_and_closed_after_the_idle_timeout() -> None:
    clock, opened, closed = MovedClock(), [], asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened.append(writer)
        while await reader.read(65536):
            writer.write(OK + b"Content-Length: 2\r\n\r\nhi")
        closed.set()

    async with transport_to(answer) as (transport, request):
        for _ in range(3):
            async with await transport.exchange(request) as reply:
                assert await reply.read() == b"hi"
        assert len(opened) == 1
        await clock.forward(2 * _IDLE_TIMEOUT)
        await until(closed.is_set)
        async with await transport.exchange(request) as reply:
            assert await reply.read() == b"hi"
        assert len(opened) == 2


async def test_connection_is_closed_if_the_backend_replied_before_the_whole_body() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await asyncio.sleep(0.1)

    async with transport_to(answer) as (transport, request):
        large = BackendRequest("POST", request.root, request.path, b"x" * 2**24, {})
        async with await transport.exchange(large) as reply:
            assert (reply.status, await reply.read()) == (413, b"no")
        assert not any(transport._idle.values())


@given(st.binary(max_size=400), st.integers(1, 40))
def test_random_bytes_are_a_reply_or_a_proxy_error(data: bytes, size: int) -> None:
    async def run() -> None:
        exchange = Exchange()
        try:
            parts = [data[n : n + size] for n in range(0, len(data), size)]
            reply = await exchange.reply(b"HTTP/1.1 2", *parts, ended=True)
            await reply.read()
        except ProxyError:
            pass

    asyncio.run(run())
