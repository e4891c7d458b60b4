"""One HTTP/1.1 connection to a backend: a request goes out, the parts of its reply come in, one exchange at a time.

Parsing is llhttp's (httptools), as strict as it comes: what has two lengths, or a chunk that is none, is no reply.
Written for what the proxy needs of a client, because aiohttp's costs twice as much CPU as all else that a request
needs (tests/bench/README.md). Knows no pool, no retry and no model.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import httptools

from proxy.backends.response import BackendResponse
from proxy.core.errors import BackendProtocolError, BackendTimeoutError, BackendUnavailableError

LARGEST_HEAD: Final = 16 * 1024  # bytes of a reply's headers
_HELD_AT_MOST: Final = 128 * 1024  # bytes that nobody took yet; then the backend waits
_FIRST_FINAL: Final = 200  # what is below is an interim reply, which the real one follows (RFC 9110, 15.2)
_SWITCHING_PROTOCOLS: Final = 101
_CUT: Final = "The backend's reply broke off in the middle."
_LONG_HEAD: Final = "The headers of the backend's reply are too long."


class Connection(asyncio.Protocol):
    """silence_timeout: seconds without a byte, until an exchange fails. give_back is called with a connection whose
    exchange ended well and that can take another one; `idle_since` is when (loop time). forget is called when it is
    closed."""

    __slots__ = (
        "_ends_with_connection",
        "_forget",
        "_give_back",
        "_head_size",
        "_headers",
        "_heard",
        "_loop",
        "_parser",
        "_paused",
        "_reply",
        "_reusable",
        "_silence_timeout",
        "_transport",
        "_unfinished",
        "_watch",
        "closed",
        "idle_since",
    )

    def __init__(
        self,
        silence_timeout: float,
        give_back: "Callable[[Connection], None]",
        forget: "Callable[[Connection], None]",
    ) -> None:
        self.idle_since = 0.0
        self.closed = False
        self._loop = asyncio.get_running_loop()
        self._silence_timeout = silence_timeout
        self._give_back = give_back
        self._forget = forget
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport
        self._reply: BackendResponse | None = None
        self._headers: dict[str, str] = {}
        self._head_size = 0
        self._unfinished = 0  # bytes of a head that is not all there
        self._ends_with_connection = False
        self._reusable = False
        self._paused = False
        self._heard = 0.0
        self._watch: asyncio.TimerHandle | None = None

    async def exchange(self, request: Sequence[bytes]) -> BackendResponse:
        """Send a request, given in pieces, and wait for the headers of its reply.

        Raises BackendUnavailableError if the connection closes without a byte, BackendTimeoutError, and
        BackendProtocolError for what is no HTTP.
        """
        self._reply = reply = BackendResponse(self)
        self._head_size = self._unfinished = 0
        self._reusable = self._ends_with_connection = False
        self._heard = self._loop.time()
        if self._watch is None:
            self._watch = self._loop.call_later(self._silence_timeout, self._look)
        if self.closed:
            self._fail_unanswered(reply)
        else:
            self._transport.writelines(request)
        try:
            await reply.begun()
        except BaseException:
            self.close()
            raise
        return reply

    def close(self) -> None:
        """End it at once, whatever it was doing."""
        self.closed = True
        self._transport.abort()

    def finish(self, reply: BackendResponse) -> None:
        """See BackendResponse.finish."""
        if self._reply is not reply:
            return
        self._reply = None
        if reply.taken and self._reusable and not self.closed and not self._transport.get_write_buffer_size():
            self.idle_since = self._loop.time()
            self._give_back(self)
        else:
            self.close()

    def go_on(self) -> None:
        """Read again what a full buffer had left unread."""
        if self._paused:
            self._paused = False
            self._heard = self._loop.time()
            self._transport.resume_reading()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Parse; what nobody asked for ends the connection."""
        reply = self._reply
        if reply is None or reply.complete:
            self.close()
            return
        self._heard = self._loop.time()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._refuse("The backend's reply is not HTTP." if not reply.status else _CUT)
        if not reply.status:
            self._unfinished += len(data)
            if self._unfinished > LARGEST_HEAD:
                self._refuse(_LONG_HEAD)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the reply, unless this is how it ends."""
        self.closed = True
        self._forget(self)
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        reply = self._reply
        if reply is None:
            return
        if not reply.status:
            self._fail_unanswered(reply)
        elif self._ends_with_connection and exc is None and not reply.failed:
            reply.complete = True
            reply.wake()
        else:
            reply.fail(BackendProtocolError(_CUT))

    # What the parser calls.

    def on_message_begin(self) -> None:
        """A reply, or what should not be there behind it."""
        self._headers = {}
        self._reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; after the body these are trailers, which nobody needs."""
        if self._reply is not None and not self._reply.status:
            self._head_size += len(name) + len(value)
            self._headers[name.decode("latin-1").lower()] = value.decode("utf-8", "surrogateescape")

    def on_headers_complete(self) -> None:
        """The caller may have the reply, unless it is an interim one."""
        reply, status = self._reply, self._parser.get_status_code()
        if reply is None or reply.status or (status < _FIRST_FINAL and status != _SWITCHING_PROTOCOLS):
            return
        coding = self._headers.get("transfer-encoding")
        if self._head_size > LARGEST_HEAD:
            self._refuse(_LONG_HEAD)
        elif coding is not None and coding.lower() != "chunked":
            self._refuse("The backend's reply has a transfer coding that nobody asked for.")
        elif not reply.failed:
            self._ends_with_connection = coding is None and "content-length" not in self._headers
            reply.status, reply.headers = status, self._headers
            reply.wake()

    def on_body(self, data: bytes) -> None:
        """A part of the body. Where nobody takes it, the backend is made to wait."""
        reply = self._reply
        if reply is not None and not reply.complete and reply.add(data) > _HELD_AT_MOST and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """The end of the reply, or of an interim one."""
        reply = self._reply
        if reply is None or not reply.status or reply.complete or reply.failed:
            return
        reply.complete = True
        self._reusable = self._parser.should_keep_alive() and not self._ends_with_connection
        reply.wake()

    def _look(self) -> None:
        """Fail an exchange in which nothing is heard. One timer serves all exchanges of a connection."""
        self._watch = None
        if self._reply is None:
            return
        silent = self._loop.time() - self._heard
        if silent < self._silence_timeout or self._paused:
            left = self._silence_timeout if self._paused else self._silence_timeout - silent
            self._watch = self._loop.call_later(left, self._look)
            return
        stage = "in the middle of its answer" if self._reply.status else "before its answer"
        self._reply.fail(BackendTimeoutError(f"The backend stopped sending {stage}."))
        self.close()

    def _fail_unanswered(self, reply: BackendResponse) -> None:
        if self._unfinished:
            reply.fail(BackendProtocolError("The backend closed the connection in the headers of its reply."))
        else:
            reply.fail(BackendUnavailableError("The backend closed the connection before it answered."))

    def _refuse(self, why: str) -> None:
        if self._reply is not None:
            self._reply.fail(BackendProtocolError(why))
        self.close()
