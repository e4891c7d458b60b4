"""The backend's reply to the client: whole server-sent events, and how a stream may end. Knows no model and no bundle.

A stream is complete only after `data: [DONE]`. Whatever else ends it is a truncation: the partial event is dropped, one
error event is sent, no [DONE], and the connection closes, so that no client takes a cut answer for a whole one.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import Final

import aiohttp
import orjson
from aiohttp import web

from proxy.errors import BackendProtocolError, BackendTimeoutError, ProxyError
from proxy.watch import ReplyWatch

LARGEST_EVENT: Final = 1024 * 1024
LARGEST_REPLY: Final = 256 * 1024 * 1024
_LOOK_EVERY: Final = 1.0  # seconds
_TAKEN_AT_ONCE: Final = 32 * 1024  # bytes: half of what asyncio buffers before it makes a writer wait
DONE: Final = b"data: [DONE]\n\n"
_BLANK_LINE: Final = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_NULL_USAGE: Final = re.compile(rb',\s*"usage"\s*:\s*null')
_REQUEST_HEADERS: Final = ("Accept", "Content-Type", "Traceparent", "Tracestate", "X-Request-Id")
_REPLY_HEADERS: Final = frozenset(
    {"content-type", "retry-after", "retry-after-ms", "openai-processing-ms", "openai-version"}
)
_REPLY_HEADER_PREFIXES: Final = ("x-ratelimit-", "ratelimit-")

EventTransform = Callable[[bytes], bytes]
"""One whole event, blank line included, to what the client gets for it (nothing, or one or more events)."""


def request_headers(headers: Mapping[str, str], *, authorization: bool) -> dict[str, str]:
    """What of a client's headers goes upstream: a short allow-list, and its key only if the operator said so."""
    allowed = (*_REQUEST_HEADERS, "Authorization") if authorization else _REQUEST_HEADERS
    return {name: headers[name] for name in allowed if name in headers}


def reply_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """What of a backend's headers goes to the client."""
    return {name: value for name, value in headers.items() if _passes(name.lower())}


def _passes(name: str) -> bool:
    return name in _REPLY_HEADERS or name.startswith(_REPLY_HEADER_PREFIXES)


@dataclass(slots=True)
class EventSplitter:
    """Bytes in, whole events out; what is held back is at most LARGEST_EVENT."""

    held: bytes = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The events that `data` completes, blank lines included. Raises BackendProtocolError for an endless one."""
        self.held += data
        events, start = [], 0
        for boundary in _BLANK_LINE.finditer(self.held):
            events.append(self.held[start : boundary.end()])
            start = boundary.end()
        self.held = self.held[start:]
        if len(self.held) > LARGEST_EVENT:
            raise BackendProtocolError("The backend sent an event of over 1 MiB.")
        return events


@dataclass(slots=True)
class ReplyFacts:
    """What a reply told while it passed. `answering`: the backend took the request; `usage` as it counted it;
    `first_byte`: when (perf_counter) the first of the answer itself was passed on; `content`: the answer's own bytes,
    at most a mebibyte, where the operator asked to keep them, else None; `watch`: looks at it, for an experiment."""

    answering: bool = False
    first_byte: float | None = None
    usage: Mapping[str, object] | None = None
    truncated: bool = False
    content: bytearray | None = None
    watch: ReplyWatch | None = None


def event_data(event: bytes) -> bytes:
    """The payload of an event: its `data:` lines joined by newlines."""
    lines = [line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines)


def is_done(event: bytes) -> bool:
    """Whether this is the event that ends a complete stream."""
    return b"[DONE]" in event and event_data(event).strip() == b"[DONE]"


def usage_filter(facts: ReplyFacts, *, wanted: bool) -> EventTransform:
    """Note the usage; where the client did not ask for it, take exactly that event, and null keys, out."""

    def transform(event: bytes) -> bytes:
        if b'"usage"' not in event:
            return event
        payload = parse_object(event_data(event))
        usage = payload.get("usage")
        if isinstance(usage, dict):
            facts.usage = usage
        if wanted:
            return event
        if usage is None:
            return _NULL_USAGE.sub(b"", event, count=1) if "usage" in payload else event
        if not payload.get("choices"):
            return b""
        payload.pop("usage")  # llama.cpp puts it on the last choice
        return b"data: " + orjson.dumps(payload) + b"\n\n"

    return transform


def parse_object(data: bytes) -> dict[str, object]:
    """A JSON object, or an empty one where the bytes are none: for looking at replies that pass through anyway."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def error_event(error: ProxyError) -> bytes:
    """An error of ours as one event."""
    return b"data: " + error.json + b"\n\n"


@dataclass(frozen=True, slots=True)
class StreamRules:
    """How one kind of stream passes: each event through `transform`; `is_end` says of the backend's event that it ends
    a complete stream; `failure` is the event that the client gets for a stream that ended otherwise."""

    transform: EventTransform
    is_end: Callable[[bytes], bool] = is_done
    failure: Callable[[ProxyError], bytes] = error_event


class Client:
    """Who the reply goes to. write_timeout: seconds that it may not read, until it counts as gone."""

    def __init__(self, request: web.Request, write_timeout: float, facts: ReplyFacts) -> None:
        self._request = request
        self._write_timeout = write_timeout
        self._facts = facts
        self._response: web.StreamResponse

    async def begin(self, response: web.StreamResponse) -> web.StreamResponse:
        """Send the headers of the reply."""
        self._response = response
        if isinstance(response, web.Response) and isinstance(response.body, bytes):
            self._keep(response.body)
        await self._in_time(response.prepare(self._request), 0)
        return response

    async def write(self, data: bytes) -> None:
        """Send a part of a streamed reply; waits while the client does not read. Raises ConnectionError."""
        self._keep(data)
        await self._in_time(self._response.write(data), len(data))

    async def end(self) -> None:
        """Send the end, and a whole reply's body."""
        body = self._response.body if isinstance(self._response, web.Response) else b""
        await self._in_time(self._response.write_eof(), len(body) if isinstance(body, bytes) else 0)

    def _keep(self, data: bytes) -> None:
        if self._facts.watch is not None:
            self._facts.watch.see(data)
        if self._facts.content is not None:
            self._facts.content += data[: LARGEST_EVENT - len(self._facts.content)]

    async def _in_time(self, writing: Awaitable[object], size: int) -> None:
        """Do it within the write timeout; without, where a socket that holds nothing back takes so little at once."""
        if self._response.prepared and self._facts.first_byte is None:
            self._facts.first_byte = perf_counter()
        transport = self._request.transport
        if size <= _TAKEN_AT_ONCE and transport is not None and transport.get_write_buffer_size() == 0:
            await writing
            return
        try:
            async with asyncio.timeout(self._write_timeout):
                await writing
        except TimeoutError as error:
            if self._request.transport is not None:
                self._request.transport.abort()  # to close would wait for the client to read what is buffered
            raise ConnectionAbortedError("the client does not read") from error


async def relay_stream(upstream: aiohttp.ClientResponse, client: Client, rules: StreamRules, facts: ReplyFacts) -> None:
    """Pass events on as they come; end as the module's first lines say."""
    failure: ProxyError | None = None
    try:
        if not await _relay_events(upstream, client, rules):
            failure = BackendProtocolError("The backend's stream ended before the answer did.")
    except ProxyError as error:
        failure = error
    except TimeoutError:
        failure = BackendTimeoutError("The backend stopped sending in the middle of its answer.")
    except aiohttp.ClientError:
        failure = BackendProtocolError("The backend's stream broke in the middle of its answer.")
    if failure is not None:
        facts.truncated = True
        await client.write(rules.failure(failure))


async def _relay_events(upstream: aiohttp.ClientResponse, client: Client, rules: StreamRules) -> bool:
    splitter, complete = EventSplitter(), False
    async for data in _parts(upstream):
        events = splitter.feed(data)
        complete = complete or any(rules.is_end(event) for event in events)
        passed = b"".join(rules.transform(event) for event in events)
        if passed:
            await client.write(passed)
    return complete


async def _parts(upstream: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """A reply's bytes as they come. Raises TimeoutError for the session's silence timeout, aiohttp.ClientError.

    aiohttp 3.14 lets a reader wait for ever when a chunk's length is malformed: it closes the connection and tells
    nobody. So while a reply is not all there, its connection is looked at now and then.
    """
    content = upstream.content
    with nullcontext() if content.is_eof() else _looking_at(upstream):
        while not content.at_eof():
            yield await content.readany()


@contextmanager
def _looking_at(upstream: aiohttp.ClientResponse) -> Iterator[None]:
    """Fail the reader of a reply whose connection is closed, and which has neither ended nor failed: nothing more can
    come. What has come already is left to be read first."""
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle

    def look() -> None:
        nonlocal timer
        if _is_closed(upstream) and not upstream.content.is_eof() and not _holds_data(upstream.content):
            upstream.content.set_exception(aiohttp.ClientPayloadError("closed without an end"))
        else:
            timer = loop.call_later(_LOOK_EVERY, look)

    timer = loop.call_later(_LOOK_EVERY, look)
    try:
        yield
    finally:
        timer.cancel()


def _holds_data(content: aiohttp.StreamReader) -> bool:
    return bool(content._buffer)  # noqa: SLF001 - there is no public way to ask without taking it


def _is_closed(upstream: aiohttp.ClientResponse) -> bool:
    protocol = upstream.connection.protocol if upstream.connection is not None else None
    return protocol is not None and not protocol.is_connected()


async def read_reply(upstream: aiohttp.ClientResponse) -> bytes:
    """A whole reply. Raises BackendProtocolError if it is cut or too large, BackendTimeoutError if it stalls."""
    parts, size = [], 0
    try:
        async for data in _parts(upstream):
            size += len(data)
            if size > LARGEST_REPLY:
                raise BackendProtocolError("The backend's reply is over 256 MiB.")
            parts.append(data)
    except TimeoutError as error:
        raise BackendTimeoutError("The backend stopped sending in the middle of its reply.") from error
    except aiohttp.ClientError as error:
        raise BackendProtocolError("The backend closed the connection in the middle of its reply.") from error
    return b"".join(parts)
