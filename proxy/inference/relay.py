"""The backend's reply to the client: whole server-sent events, and how a stream may end. Knows no model and no bundle.

A stream is complete only after `data: [DONE]`. Whatever else ends it is a truncation: the partial event is dropped, one
error event is sent, no [DONE], and the connection closes, so that no client takes a cut answer for a whole one.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Final

import orjson
from aiohttp import web

from proxy.backends.response import BackendResponse
from proxy.core.errors import BackendProtocolError, ProxyError
from proxy.inference.reply_observer import ReplyObserver
from proxy.openai.sse import (
    MAX_EVENT_BYTES,
    EventSplitter,
    error_event,
    event_data,
    is_done,
    parse_object,
    split_events,
)

_TAKEN_AT_ONCE: Final = 32 * 1024  # bytes: half of what asyncio buffers before it makes a writer wait
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
    """What of a backend's headers (names in lower case) goes to the client."""
    return {name: value for name, value in headers.items() if _passes(name)}


def _passes(name: str) -> bool:
    return name in _REPLY_HEADERS or name.startswith(_REPLY_HEADER_PREFIXES)


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
    watch: ReplyObserver | None = None


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


def passes_untouched(events: bytes) -> bool:
    """Whether usage_filter would leave all of these events as they are, and none is [DONE]."""
    return b'"usage"' not in events and b"[DONE]" not in events


@dataclass(frozen=True, slots=True)
class StreamRules:
    """How one kind of stream passes: each event through `transform`; `is_end` says of the backend's event that it ends
    a complete stream; `failure` is the event that the client gets for a stream that ended otherwise. `passes` says of
    whole events that each would pass as it is, and that none is the end: then nobody takes them apart."""

    transform: EventTransform
    is_end: Callable[[bytes], bool] = is_done
    failure: Callable[[ProxyError], bytes] = error_event
    passes: Callable[[bytes], bool] = lambda _: False


class Client:
    """Who the reply goes to. write_timeout: seconds that it may not read, until it counts as gone."""

    __slots__ = ("_facts", "_request", "_response", "_write_timeout")

    def __init__(self, request: web.Request, write_timeout: float, facts: ReplyFacts) -> None:
        self._request = request
        self._write_timeout = write_timeout
        self._facts = facts
        self._response: web.StreamResponse

    async def send(self, response: web.Response, body: bytes) -> None:
        """Send a whole reply."""
        self._response = response
        self._keep(body)
        await self._in_time(self._send_whole(response), len(body))

    async def _send_whole(self, response: web.Response) -> None:
        await response.prepare(self._request)
        self._facts.first_byte = perf_counter()
        await response.write_eof()

    async def begin(self, response: web.StreamResponse) -> None:
        """Send the headers of a streamed reply."""
        self._response = response
        await self._in_time(response.prepare(self._request), 0)

    async def write(self, data: bytes) -> None:
        """Send a part of a streamed reply; waits while the client does not read. Raises ConnectionError."""
        self._keep(data)
        await self._in_time(self._response.write(data), len(data))

    async def end(self) -> None:
        """Send the end of a streamed reply."""
        await self._in_time(self._response.write_eof(), 0)

    def _keep(self, data: bytes) -> None:
        if self._facts.watch is not None:
            self._facts.watch.see(data)
        if self._facts.content is not None:
            self._facts.content += data[: MAX_EVENT_BYTES - len(self._facts.content)]

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


async def relay_stream(upstream: BackendResponse, client: Client, rules: StreamRules, facts: ReplyFacts) -> None:
    """Pass events on as they come; end as the module's first lines say."""
    failure: ProxyError | None = None
    try:
        if not await _relay_events(upstream, client, rules):
            failure = BackendProtocolError("The backend's stream ended before the answer did.")
    except ProxyError as error:
        failure = error
    if failure is not None:
        facts.truncated = True
        await client.write(rules.failure(failure))


async def _relay_events(upstream: BackendResponse, client: Client, rules: StreamRules) -> bool:
    splitter, complete = EventSplitter(), False
    while data := await upstream.read_part():
        passed = splitter.feed(data)
        if not rules.passes(passed):
            events = split_events(passed)
            complete = complete or any(map(rules.is_end, events))
            passed = b"".join([rules.transform(event) for event in events])
        if passed:
            await client.write(passed)
    return complete
