"""Sends replies to the client: streams as whole server-sent events, and other replies in one write.

The module does not depend on models or bundles.

A stream is complete only after its last event: `data: [DONE]`, or the closing event of the Responses API. If the
backend's stream ends before this event, the stream is truncated. The relay then discards an incomplete event at the
end, sends an error event to the client, and ends the reply. So a client cannot mistake a truncated answer for a
complete one.
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

_MAX_UNTIMED_BYTES: Final = 32 * 1024  # half of the 64 KiB that asyncio buffers before a write has to wait
_NULL_USAGE: Final = re.compile(rb',\s*"usage"\s*:\s*null')
_REQUEST_HEADERS: Final = ("Accept", "Content-Type", "Traceparent", "Tracestate", "X-Request-Id")
_REPLY_HEADERS: Final = frozenset(
    {"content-type", "retry-after", "retry-after-ms", "openai-processing-ms", "openai-version"}
)
_REPLY_HEADER_PREFIXES: Final = ("x-ratelimit-", "ratelimit-")

EventTransform = Callable[[bytes], bytes]
"""A function that converts one event of the backend to the bytes of zero or more events for the client.

The event that it gets is whole and includes the blank line at its end.
"""


def request_headers(headers: Mapping[str, str], *, authorization: bool) -> dict[str, str]:
    """Return the client's headers that are forwarded to the backend.

    Only headers of a fixed list are forwarded. Authorization is forwarded too if `authorization` is True.
    """
    allowed = (*_REQUEST_HEADERS, "Authorization") if authorization else _REQUEST_HEADERS
    return {name: headers[name] for name in allowed if name in headers}


def reply_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the backend's headers that are forwarded to the client. The names in `headers` must be in lower case."""
    return {name: value for name, value in headers.items() if _is_relayed(name)}


def _is_relayed(name: str) -> bool:
    return name in _REPLY_HEADERS or name.startswith(_REPLY_HEADER_PREFIXES)


def usage_filter(progress: ReplyProgress, *, wanted: bool) -> EventTransform:
    """Return a transform that records the token counts (`usage`) of a stream in `progress`.

    If the client asked for the counts (`wanted`), the transform returns each event unchanged. Otherwise it drops each
    event that has counts but no choices, and removes the key `usage` from each other event.
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
    """The rules by which the relay converts a stream of the backend.

    Attributes:
        transform: Converts one event.
        is_end: Takes one event of the backend. Returns True if it is the last event of a complete stream.
        failure: Takes an error. Returns the error event that is sent to the client if the stream is truncated.
        passes: Takes the joined bytes of several events. Returns True if `transform` would change none of these events
            and none of them is the last event. The relay sends such bytes without splitting them, which is faster.
    """

    transform: EventTransform
    is_end: Callable[[bytes], bool] = is_done
    failure: Callable[[ProxyError], bytes] = error_event
    passes: Callable[[bytes], bool] = lambda _: False


class Client:
    """Sends one reply to the client, with a time limit for each write."""

    __slots__ = ("_progress", "_request", "_response", "_write_timeout")

    def __init__(self, request: web.Request, write_timeout: float, progress: ReplyProgress) -> None:
        """Prepare to send a reply.

        Args:
            request: The client's request.
            write_timeout: Seconds that one write may wait for the client to read. Then the connection is aborted.
            progress: Records the time of the first byte. Its observer and its content, unless they are None, get each
                part of the reply.
        """
        self._request = request
        self._write_timeout = write_timeout
        self._progress = progress
        self._response: web.StreamResponse

    async def send(self, response: web.Response, body: bytes) -> None:
        """Send a reply that is not a stream.

        Args:
            response: The reply.
            body: The body of the reply.

        Raises:
            ConnectionError: The client has disconnected, or does not read.
        """
        self._response = response
        self._record(body)
        await self._within_timeout(self._send_whole(response), len(body))

    async def _send_whole(self, response: web.Response) -> None:
        await response.prepare(self._request)
        self._progress.first_byte = perf_counter()
        await response.write_eof()

    async def begin(self, response: web.StreamResponse) -> None:
        """Send the headers of a streamed reply. Raises ConnectionError as `send` does."""
        self._response = response
        await self._within_timeout(response.prepare(self._request), 0)

    async def write(self, data: bytes) -> None:
        """Send a part of a streamed reply. Raises ConnectionError as `send` does.

        If too many sent bytes are still in the connection's buffer, wait until the client has read some of them.
        """
        self._record(data)
        await self._within_timeout(self._response.write(data), len(data))

    async def end(self) -> None:
        """Send the end of a streamed reply. Raises ConnectionError as `send` does."""
        await self._within_timeout(self._response.write_eof(), 0)

    def _record(self, data: bytes) -> None:
        if self._progress.observer is not None:
            self._progress.observer.observe(data)
        if self._progress.content is not None:
            self._progress.content += data[: MAX_EVENT_BYTES - len(self._progress.content)]

    async def _within_timeout(self, writing: Awaitable[object], size: int) -> None:
        """Await a write of `size` bytes. Abort the connection if the write takes longer than the write timeout.

        A small write to an empty buffer never waits for the client, so no timer is started for it.

        Raises:
            ConnectionAbortedError: The write took longer than the write timeout.
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
                self._request.transport.abort()  # close() would wait until the client has read the buffer
            raise ConnectionAbortedError("the client does not read") from error


async def relay_stream(upstream: BackendResponse, client: Client, rules: StreamRules, progress: ReplyProgress) -> None:
    """Convert each event of the backend when it arrives, and send the result to the client.

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
