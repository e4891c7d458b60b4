"""Sends replies to the client: streams as whole server-sent events, and other replies in one write.

The module does not depend on models or bundles. proxy/inference/stream.py converts the events of a stream, and decides
whether the stream is complete.
"""

import asyncio
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from time import perf_counter
from typing import Final

from aiohttp import web

from proxy.backends.response import BackendResponse
from proxy.core.errors import ProxyError
from proxy.inference.reply_progress import ReplyProgress
from proxy.inference.stream import StreamConverter
from proxy.openai.sse import MAX_EVENT_BYTES

_MAX_UNTIMED_BYTES: Final = 32 * 1024  # half of the 64 KiB that asyncio buffers before a write has to wait
_REQUEST_HEADERS: Final = ("Accept", "Content-Type", "Traceparent", "Tracestate", "X-Request-Id")
_REPLY_HEADERS: Final = frozenset(
    {"content-type", "retry-after", "retry-after-ms", "openai-processing-ms", "openai-version"}
)
_REPLY_HEADER_PREFIXES: Final = ("x-ratelimit-", "ratelimit-")


def request_headers(headers: Mapping[str, str], *, authorization: bool) -> dict[str, str]:
    """Return the client's headers that are forwarded to the backend.

    Only headers of a fixed list are forwarded. Authorization is forwarded too if `authorization` is True.
    """
    allowed = (*_REQUEST_HEADERS, "Authorization") if authorization else _REQUEST_HEADERS
    return {name: headers[name] for name in allowed if name in headers}


def reply_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the backend's headers that are forwarded to the client. The names in `headers` must be in lower case.

    A header whose name or value is not printable ASCII is not forwarded, because it could not be sent.
    """
    return {name: value for name, value in headers.items() if _is_relayed(name) and _is_printable(name + value)}


def _is_relayed(name: str) -> bool:
    return name in _REPLY_HEADERS or name.startswith(_REPLY_HEADER_PREFIXES)


def _is_printable(text: str) -> bool:
    return text.isascii() and text.isprintable()


class Client:
    """Sends one reply to the client, with a time limit for each write."""

    __slots__ = ("_progress", "_request", "_response", "_write_timeout")

    def __init__(self, request: web.Request, write_timeout: float, progress: ReplyProgress) -> None:
        """Prepare to send a reply.

        Args:
            request: The client's request.
            write_timeout: Seconds that one write may wait for the client to read. Then the connection is aborted.
            progress: Records the time of the first byte. Each part of the reply is passed to its observer, and added to
                its content, unless they are None.
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

    def write_now(self, data: bytes) -> bool:
        """Send a part of a streamed reply if the connection can take it without a wait. Return whether it was sent."""
        transport = self._request.transport
        if transport is None or transport.is_closing() or not self._is_free(len(data)):
            return False
        self._record(data)
        self._note_first_byte()
        with suppress(StopIteration):  # a coroutine that waits for nothing ends at its first step
            self._response.write(data).send(None)
        return True

    async def end(self) -> None:
        """Send the end of a streamed reply. Raises ConnectionError as `send` does."""
        await self._within_timeout(self._response.write_eof(), 0)

    def _record(self, data: bytes) -> None:
        if self._progress.observer is not None:
            self._progress.observer.observe(data)
        if self._progress.content is not None:
            self._progress.content += data[: MAX_EVENT_BYTES - len(self._progress.content)]

    def _note_first_byte(self) -> None:
        if self._progress.first_byte is None and self._response.prepared:
            self._progress.first_byte = perf_counter()

    def _is_free(self, size: int) -> bool:
        """Return whether a write of `size` bytes ends at once: the connection's buffer is empty and has enough room."""
        transport = self._request.transport
        return size <= _MAX_UNTIMED_BYTES and transport is not None and transport.get_write_buffer_size() == 0

    async def _within_timeout(self, writing: Awaitable[object], size: int) -> None:
        """Await a write of `size` bytes. Abort the connection if the write takes longer than the write timeout.

        A small write to an empty buffer never waits for the client, so no timer is started for it.

        Raises:
            ConnectionAbortedError: The write took longer than the write timeout.
        """
        self._note_first_byte()
        if self._is_free(size):
            await writing
            return
        try:
            async with asyncio.timeout(self._write_timeout):
                await writing
        except TimeoutError as error:
            if self._request.transport is not None:
                self._request.transport.abort()  # close() would wait until the client has read the buffer
            raise ConnectionAbortedError("the client does not read") from error


class _Relay:
    """Converts each part of a stream when it arrives, and sends it at once if the client's connection is free.

    Attributes:
        unsent: The converted bytes that could not be sent at once. The caller sends them before the next part.
    """

    __slots__ = ("_client", "_converter", "unsent")

    def __init__(self, client: Client, converter: StreamConverter) -> None:
        self.unsent = b""
        self._client = client
        self._converter = converter

    def take(self, data: bytes) -> bool:
        """Convert and send a part. Return whether the next part can be taken."""
        converted = self._converter.convert(data)
        if converted and not self._client.write_now(converted):
            self.unsent = converted
        return not (self.unsent or self._converter.ended)

    async def send_unsent(self) -> None:
        """Send what could not be sent at once. Raises ConnectionError as Client.write does."""
        converted, self.unsent = self.unsent, b""
        if converted:
            await self._client.write(converted)


async def relay_stream(upstream: BackendResponse, client: Client, converter: StreamConverter) -> None:
    """Convert each event of the backend when it arrives, and send the result to the client.

    The client's stream ends with exactly one closing event, such as `[DONE]` or an error, even if the backend's stream
    breaks off.
    """
    failure: ProxyError | None = None
    relay = _Relay(client, converter)
    try:
        while not converter.ended and await upstream.pass_on(relay.take):
            await relay.send_unsent()
    except ProxyError as error:
        failure = error
    if last := converter.finish(failure):
        await client.write(last)
