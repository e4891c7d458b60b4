"""Passes a backend's reply to the client, as whole server-sent events. It does not depend on models or bundles.

A stream is complete only after its last event: `data: [DONE]`, or the closing event of the Responses API. Any other end
is a truncation. The relay then drops a partial event, sends one error event in place of the last event, and ends the
reply. So no client takes a truncated answer for a complete one.
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
from proxy.inference.reply_progress import ReplyProgress
from proxy.openai.sse import (
    MAX_EVENT_BYTES,
    EventSplitter,
    error_event,
    event_data,
    is_done,
    parse_object,
    split_events,
)

_MAX_UNTIMED_BYTES: Final = 32 * 1024  # half of what asyncio buffers before a writer has to wait
_NULL_USAGE: Final = re.compile(rb',\s*"usage"\s*:\s*null')
_REQUEST_HEADERS: Final = ("Accept", "Content-Type", "Traceparent", "Tracestate", "X-Request-Id")
_REPLY_HEADERS: Final = frozenset(
    {"content-type", "retry-after", "retry-after-ms", "openai-processing-ms", "openai-version"}
)
_REPLY_HEADER_PREFIXES: Final = ("x-ratelimit-", "ratelimit-")

EventTransform = Callable[[bytes], bytes]
"""Converts one whole event of the backend, with its blank line, to the bytes of zero or more events for the client."""


def request_headers(headers: Mapping[str, str], *, authorization: bool) -> dict[str, str]:
    """Return those of the client's headers that the backend is sent.

    The list of allowed headers is fixed. Authorization is allowed only if the operator allows it (`authorization`).
    """
    allowed = (*_REQUEST_HEADERS, "Authorization") if authorization else _REQUEST_HEADERS
    return {name: headers[name] for name in allowed if name in headers}


def reply_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return those of the backend's headers that the client is sent. The names in `headers` must be in lower case."""
    return {name: value for name, value in headers.items() if _is_relayed(name)}


def _is_relayed(name: str) -> bool:
    return name in _REPLY_HEADERS or name.startswith(_REPLY_HEADER_PREFIXES)


def usage_filter(progress: ReplyProgress, *, wanted: bool) -> EventTransform:
    """Return a transform that records the token counts (`usage`) of a stream in `progress`.

    If the client asked for the counts (`wanted`), every event passes unchanged. Otherwise the transform drops an event
    that has counts but no choices, and removes the key `usage` from other events.
    """

    def transform(event: bytes) -> bytes:
        if b'"usage"' not in event:
            return event
        payload = parse_object(event_data(event))
        usage = payload.get("usage")
        if isinstance(usage, dict):
            progress.usage = usage
        if wanted:
            return event
        if usage is None:
            return _NULL_USAGE.sub(b"", event, count=1) if "usage" in payload else event
        if not payload.get("choices"):
            return b""
        payload.pop("usage")  # llama.cpp sends usage with the last choice
        return b"data: " + orjson.dumps(payload) + b"\n\n"

    return transform


def passes_untouched(events: bytes) -> bool:
    """Return True if the transform of `usage_filter` would change none of these events, and none of them is [DONE]."""
    return b'"usage"' not in events and b"[DONE]" not in events


@dataclass(frozen=True, slots=True)
class StreamRules:
    """How one kind of stream is converted.

    Attributes:
        transform: Converts each event.
        is_end: Returns True for the event with which a complete stream of the backend ends.
        failure: Makes the error event that the client gets at the end of a truncated stream.
        passes: Takes several joined events. Returns True if `transform` would change none of them and none is the end.
            The relay sends such events without splitting them, which is faster.
    """

    transform: EventTransform
    is_end: Callable[[bytes], bool] = is_done
    failure: Callable[[ProxyError], bytes] = error_event
    passes: Callable[[bytes], bool] = lambda _: False


class Client:
    """The client that a reply is sent to."""

    __slots__ = ("_progress", "_request", "_response", "_write_timeout")

    def __init__(self, request: web.Request, write_timeout: float, progress: ReplyProgress) -> None:
        """Prepare to send a reply.

        Args:
            request: The client's request.
            write_timeout: Seconds that one write may wait for the client to read. Then the connection is aborted.
            progress: Records the time of the first byte, and what experiments and the log need of the reply.
        """
        self._request = request
        self._write_timeout = write_timeout
        self._progress = progress
        self._response: web.StreamResponse

    async def send(self, response: web.Response, body: bytes) -> None:
        """Send a reply that is not a stream. body: the bytes in `response`. Raises ConnectionError."""
        self._response = response
        self._record(body)
        await self._within_timeout(self._send_whole(response), len(body))

    async def _send_whole(self, response: web.Response) -> None:
        await response.prepare(self._request)
        self._progress.first_byte = perf_counter()
        await response.write_eof()

    async def begin(self, response: web.StreamResponse) -> None:
        """Send the headers of a streamed reply."""
        self._response = response
        await self._within_timeout(response.prepare(self._request), 0)

    async def write(self, data: bytes) -> None:
        """Send a part of a streamed reply, and wait until the client has read enough. Raises ConnectionError."""
        self._record(data)
        await self._within_timeout(self._response.write(data), len(data))

    async def end(self) -> None:
        """Send the end of a streamed reply."""
        await self._within_timeout(self._response.write_eof(), 0)

    def _record(self, data: bytes) -> None:
        if self._progress.observer is not None:
            self._progress.observer.observe(data)
        if self._progress.content is not None:
            self._progress.content += data[: MAX_EVENT_BYTES - len(self._progress.content)]

    async def _within_timeout(self, writing: Awaitable[object], size: int) -> None:
        """Await a write of `size` bytes, for at most the write timeout. Raises ConnectionAbortedError after it.

        A small write to an empty buffer does not wait for the client, so it gets no timer.
        """
        if self._response.prepared and self._progress.first_byte is None:
            self._progress.first_byte = perf_counter()
        transport = self._request.transport
        if size <= _MAX_UNTIMED_BYTES and transport is not None and transport.get_write_buffer_size() == 0:
            await writing
            return
        try:
            async with asyncio.timeout(self._write_timeout):
                await writing
        except TimeoutError as error:
            if self._request.transport is not None:
                self._request.transport.abort()  # closing would wait for the client to read the buffer
            raise ConnectionAbortedError("the client does not read") from error


async def relay_stream(upstream: BackendResponse, client: Client, rules: StreamRules, progress: ReplyProgress) -> None:
    """Convert the backend's events and send them to the client as they arrive.

    If the backend's stream is truncated, send an error event and set `progress.truncated`.
    """
    failure: ProxyError | None = None
    try:
        if not await _relay_events(upstream, client, rules):
            failure = BackendProtocolError("The backend's stream ended before the answer did.")
    except ProxyError as error:
        failure = error
    if failure is not None:
        progress.truncated = True
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
