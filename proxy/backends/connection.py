"""One HTTP/1.1 connection to a backend, with one request and reply at a time.

llhttp (httptools) parses replies in its strict mode. A reply that gives its length twice, or that has a malformed
chunk, is therefore an error.

The proxy has its own HTTP client, because the client of aiohttp took about a third of the CPU time of a request
(docs/benchmarks/proxy.md: 527 µs with aiohttp's client, 359 µs without it). The module does not depend on the pool, on
retries or on models.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import httptools

from proxy.backends.response import BackendResponse
from proxy.core.errors import BackendProtocolError, BackendTimeoutError, BackendUnavailableError

MAX_HEAD_BYTES: Final = 16 * 1024  # maximum size of the headers of a reply
_MAX_UNREAD_BYTES: Final = 128 * 1024  # if more bytes of a body are unread, reading from the socket stops
_MIN_FINAL_STATUS: Final = 200  # a lower status is an interim reply before the final reply (RFC 9110, 15.2)
_SWITCHING_PROTOCOLS: Final = 101
_REPLY_CUT: Final = "The backend's reply broke off in the middle."
_HEAD_TOO_LONG: Final = "The headers of the backend's reply are too long."


class Connection(asyncio.Protocol):
    """A connection and the reply that it is receiving.

    Attributes:
        closed: Whether the connection is closed or closing.
        idle_since: The time at which the last exchange ended, on the clock of the event loop.
    """

    __slots__ = (
        "_ends_with_connection",
        "_head_size",
        "_headers",
        "_last_received",
        "_loop",
        "_on_closed",
        "_on_idle",
        "_parser",
        "_paused",
        "_reply",
        "_reusable",
        "_silence_timeout",
        "_silence_timer",
        "_transport",
        "_unfinished",
        "closed",
        "idle_since",
    )

    def __init__(
        self,
        silence_timeout: float,
        on_idle: "Callable[[Connection], None]",
        on_closed: "Callable[[Connection], None]",
    ) -> None:
        """Create the object. The caller then passes it to the event loop, which opens the connection.

        Args:
            silence_timeout: An exchange fails if no byte arrives for this many seconds.
            on_idle: Called when an exchange has ended and the connection can be reused.
            on_closed: Called when the connection is closed.
        """
        self.idle_since = 0.0
        self.closed = False
        self._loop = asyncio.get_running_loop()
        self._silence_timeout = silence_timeout
        self._on_idle = on_idle
        self._on_closed = on_closed
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport
        self._reply: BackendResponse | None = None
        self._headers: dict[str, str] = {}
        self._head_size = 0
        self._unfinished = 0  # the number of bytes received before the headers were complete
        self._ends_with_connection = False
        self._reusable = False
        self._paused = False
        self._last_received = 0.0
        self._silence_timer: asyncio.TimerHandle | None = None

    async def exchange(self, request: Sequence[bytes]) -> BackendResponse:
        """Send a request, given in parts, and wait for the headers of its reply.

        Raises:
            BackendUnavailableError: The connection was closed before any byte of the reply was received.
            BackendTimeoutError: The backend sent nothing for too long.
            BackendProtocolError: The headers of the reply are malformed, not supported, too long or incomplete.
        """
        self._reply = reply = BackendResponse(self)
        self._head_size = self._unfinished = 0
        self._reusable = self._ends_with_connection = False
        self._last_received = self._loop.time()
        if self._silence_timer is None:
            self._silence_timer = self._loop.call_later(self._silence_timeout, self._check_silence)
        if self.closed:
            self._fail_without_headers(reply)
        else:
            self._transport.writelines(request)
        try:
            await reply.wait_for_headers()
        except BaseException:
            self.close()
            raise
        return reply

    def close(self) -> None:
        """Close the connection at once, even in the middle of an exchange."""
        self.closed = True
        self._transport.abort()

    def release(self, reply: BackendResponse) -> None:
        """End the exchange of a reply, unless this exchange has ended already; see BackendResponse.close."""
        if self._reply is not reply:
            return
        self._reply = None
        if reply.fully_read and self._reusable and not self.closed and not self._transport.get_write_buffer_size():
            self.idle_since = self._loop.time()
            self._on_idle(self)
        else:
            self.close()

    def resume_reading(self) -> None:
        """Read from the socket again, because the reader of the reply has taken the unread parts."""
        if self._paused:
            self._paused = False
            self._last_received = self._loop.time()
            self._transport.resume_reading()

    # The event loop calls the following methods.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Parse received data. If no reply is expected, close the connection."""
        reply = self._reply
        if reply is None or reply.complete:
            self.close()
            return
        self._last_received = self._loop.time()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._reject("The backend's reply is not HTTP." if not reply.status else _REPLY_CUT)
        if reply.status:
            reply.deliver()
        else:
            self._unfinished += len(data)
            if self._unfinished > MAX_HEAD_BYTES:
                self._reject(_HEAD_TOO_LONG)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the reply: complete it or let it fail.

        If the headers announced neither a length nor chunks, the end of the connection is the end of the body. Such a
        reply is now complete, unless the connection ended with an error. Every other reply that is not complete fails.
        """
        self.closed = True
        self._on_closed(self)
        if self._silence_timer is not None:
            self._silence_timer.cancel()
            self._silence_timer = None
        reply = self._reply
        if reply is None:
            return
        if not reply.status:
            self._fail_without_headers(reply)
        elif self._ends_with_connection and exc is None and not reply.failed:
            reply.complete = True
            reply.notify()
        else:
            reply.fail(BackendProtocolError(_REPLY_CUT))

    # The parser calls the following methods.

    def on_message_begin(self) -> None:
        """Forget the headers of the previous message. An interim reply and the final reply are separate messages."""
        self._headers = {}
        self._reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Store one header. Headers after the body are trailers, which are dropped."""
        if self._reply is not None and not self._reply.status:
            self._head_size += len(name) + len(value)
            self._headers[name.decode("latin-1").lower()] = value.decode("utf-8", "surrogateescape")

    def on_headers_complete(self) -> None:
        """Set the status and the headers of the reply, and wake its reader.

        Ignore an interim reply. Let the reply fail if its headers are too long or if it has a transfer coding other
        than `chunked`.
        """
        reply, status = self._reply, self._parser.get_status_code()
        if reply is None or reply.status or (status < _MIN_FINAL_STATUS and status != _SWITCHING_PROTOCOLS):
            return
        coding = self._headers.get("transfer-encoding")
        if self._head_size > MAX_HEAD_BYTES:
            self._reject(_HEAD_TOO_LONG)
        elif coding is not None and coding.lower() != "chunked":
            self._reject("The backend's reply has a transfer coding that nobody asked for.")
        elif not reply.failed:
            self._ends_with_connection = coding is None and "content-length" not in self._headers
            reply.status, reply.headers = status, self._headers
            reply.notify()

    def on_body(self, data: bytes) -> None:
        """Add a part of the body.

        If too many bytes are unread, stop reading from the socket, so that the backend waits.
        """
        reply = self._reply
        if reply is not None and not reply.complete and reply.feed(data) > _MAX_UNREAD_BYTES and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """Mark the reply as complete. Ignore the end of an interim reply."""
        reply = self._reply
        if reply is None or not reply.status or reply.complete or reply.failed:
            return
        reply.complete = True
        self._reusable = self._parser.should_keep_alive() and not self._ends_with_connection
        reply.notify()

    def _check_silence(self) -> None:
        """Let the exchange fail if nothing was received for too long; otherwise set the timer again.

        While reading is paused, the exchange does not fail. If one exchange ends and the next begins before the timer
        fires, both use the same timer.
        """
        self._silence_timer = None
        if self._reply is None:
            return
        silence = self._loop.time() - self._last_received
        if silence < self._silence_timeout or self._paused:
            delay = self._silence_timeout if self._paused else self._silence_timeout - silence
            self._silence_timer = self._loop.call_later(delay, self._check_silence)
            return
        stage = "in the middle of its answer" if self._reply.status else "before its answer"
        self._reply.fail(BackendTimeoutError(f"The backend sent nothing for too long, {stage}."))
        self.close()

    def _fail_without_headers(self, reply: BackendResponse) -> None:
        if self._unfinished:
            reply.fail(BackendProtocolError("The backend closed the connection before it had sent all headers."))
        else:
            reply.fail(BackendUnavailableError("The backend closed the connection before it answered."))

    def _reject(self, message: str) -> None:
        if self._reply is not None:
            self._reply.fail(BackendProtocolError(message))
        self.close()
