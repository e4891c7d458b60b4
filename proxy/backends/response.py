"""The reply of a backend: first its status and headers, then its body in parts.

The connection feeds parts into the reply, and a reader waits for them. If the reply fails, the reader first gets the
parts that were received before the failure, and then the error. The module does not depend on sockets or on parsing.

The reader of a stream can give the reply a function that takes each part when it arrives (`pass_on`). Waking a task for
each part would take most of the time that a short part needs, because the task waits inside many nested coroutines.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, Protocol, Self

from proxy.core.errors import BackendProtocolError, ProxyError

MAX_BODY_BYTES: Final = 256 * 1024 * 1024  # of a reply that is read as a whole

Take = Callable[[bytes], bool]
"""Takes a part of the body, and returns whether it also takes the next part. It must not raise an error."""


class ReplySource(Protocol):
    """The connection that a reply is received on."""

    def resume_reading(self) -> None:
        """Read from the socket again, because the reader has taken the received parts."""
        ...

    def release(self, reply: "BackendResponse") -> None:
        """End the exchange, because nobody reads the reply any more."""
        ...


class BackendResponse:
    """A reply of a backend. The code that reads the reply uses it in `async with`, or calls `close` afterwards.

    Attributes:
        status: The HTTP status; 0 until the headers are received.
        headers: The values of the headers, by the names of the headers in lower case.
        complete: Whether the whole body has been received.
        answered: Whether the reader has the whole answer, although the body may continue. The reader sets this
            attribute.
    """

    __slots__ = (
        *("_connection", "_failure", "_parts", "_parts_size", "_reader", "_take"),
        *("answered", "complete", "headers", "status"),
    )

    def __init__(self, connection: ReplySource) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.complete = False
        self.answered = False
        self._connection = connection
        self._failure: ProxyError | None = None
        self._parts: list[bytes] = []
        self._parts_size = 0
        self._reader: asyncio.Future[None] | None = None
        self._take: Take | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.close()

    @property
    def content_type(self) -> str:
        """The media type in lower case, without its parameters; empty if the reply has no Content-Type."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def failed(self) -> bool:
        """Whether the reply has failed and will never be complete."""
        return self._failure is not None

    @property
    def fully_read(self) -> bool:
        """Whether the whole body has been received and read."""
        return self.complete and not self._parts

    async def wait_for_headers(self) -> None:
        """Wait for the status and the headers.

        Raises:
            BackendUnavailableError: The connection was closed before any byte of the reply was received.
            BackendTimeoutError: The backend sent nothing for too long.
            BackendProtocolError: The headers of the reply are malformed, not supported, too long or incomplete.
        """
        while not self.status:
            if self._failure is not None:
                raise self._failure
            await self._wait_for_change()

    async def read_part(self) -> bytes:
        """Return all bytes of the body that were received since the last call. Return b"" at the end of the body.

        If no bytes were received since the last call, the method waits for some.

        Raises:
            BackendProtocolError: The reply broke off or is malformed.
            BackendTimeoutError: The backend sent nothing for too long.
        """
        return self._received() if await self._wait_for_part() else b""

    async def pass_on(self, take: Take) -> bool:
        """Call `take` with each part of the body as soon as the part arrives, until `take` returns False.

        Parts that arrive later are kept for `read_part`, or for the next call of this method.

        Returns:
            Whether `take` has returned False. If it has not, the body has ended.

        Raises:
            BackendProtocolError: The reply broke off or is malformed.
            BackendTimeoutError: The backend sent nothing for too long.
        """
        self._take = take
        self.deliver()
        try:
            while self._take is not None and not self.complete:
                if self._failure is not None:
                    raise self._failure
                await self._wait_for_change()
            return self._take is None
        finally:
            self._take = None

    def deliver(self) -> None:
        """Give the received parts to the function of `pass_on`. The connection calls this after it has fed all parts.

        If the function takes no further part, wake the reader that waits in `pass_on`.
        """
        if self._take is not None and self._parts and not self._take(self._received()):
            self._take = None
            self.notify()

    async def peek(self) -> bytes:
        """Return the bytes that `read_part` will return next, and keep them. Raises errors as `read_part` does."""
        return b"".join(self._parts) if await self._wait_for_part() else b""

    async def skip_rest(self, patience: float) -> None:
        """Read and drop the rest of the body, so that the connection can be reused.

        Args:
            patience: Seconds after which the method gives up. The connection is then closed.
        """
        if self.complete and not self._parts:
            return
        with suppress(ProxyError, TimeoutError):
            async with asyncio.timeout(patience):
                while await self.read_part():
                    pass

    async def read(self) -> bytes:
        """Return the whole body.

        Raises:
            BackendProtocolError: The reply broke off, is malformed, or is longer than MAX_BODY_BYTES.
            BackendTimeoutError: The backend sent nothing for too long.
        """
        parts, size = [], 0
        while data := await self.read_part():
            size += len(data)
            if size > MAX_BODY_BYTES:
                raise BackendProtocolError("The backend's reply is over 256 MiB.")
            parts.append(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """End the exchange, and reuse or close the connection.

        If the reply was read to its end, the next request can use the connection. Otherwise the connection is closed,
        so that the backend stops generating.
        """
        self._connection.release(self)

    def feed(self, data: bytes) -> int:
        """Add a received part of the body; return how many received bytes the reader has not taken yet."""
        self._parts.append(data)
        self._parts_size += len(data)
        if self._reader is not None and self._take is None:  # the first of several parts in a packet wakes the reader
            self.notify()
        return self._parts_size

    def fail(self, error: ProxyError) -> None:
        """Mark the reply as failed. Its reader gets the error after the parts that were received before.

        If the reply is already complete or failed, the method does nothing.
        """
        if not self.complete and self._failure is None:
            self._failure = error
            self.notify()

    def notify(self) -> None:
        """Wake the waiting reader, so that it reads the new state."""
        reader, self._reader = self._reader, None
        if reader is not None and not reader.done():
            reader.set_result(None)

    def _received(self) -> bytes:
        """Remove the received parts, and return them as one."""
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._parts_size = 0
        self._connection.resume_reading()
        return data

    async def _wait_for_part(self) -> bool:
        """Wait for a part of the body. Return False at the end of the body. Raises errors as `read_part` does."""
        while not self._parts:
            if self.complete:
                return False
            if self._failure is not None:
                raise self._failure
            await self._wait_for_change()
        return True

    async def _wait_for_change(self) -> None:
        self._reader = asyncio.get_running_loop().create_future()
        try:
            await self._reader
        finally:
            self._reader = None
