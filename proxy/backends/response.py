"""The reply of a backend: status and headers first, then a body in parts. It does not depend on HTTP or on sockets.

The connection feeds parts into the reply, and a reader waits for them. A failure is raised after the parts before it.
"""

import asyncio
from collections.abc import Mapping
from typing import Final, Protocol, Self

from proxy.core.errors import BackendProtocolError, ProxyError

MAX_BODY_BYTES: Final = 256 * 1024 * 1024


class ReplySource(Protocol):
    """The connection that a reply is received on."""

    def resume_reading(self) -> None:
        """Read from the socket again, because the reader has taken the received parts."""
        ...

    def release(self, reply: "BackendResponse") -> None:
        """Free the connection: nobody reads this reply any more."""
        ...


class BackendResponse:
    """A reply of a backend, used with `async with`, or ended with `close`.

    Attributes:
        status: The HTTP status; 0 until the headers are received.
        headers: The headers by their names in lower case.
        complete: Whether the whole body has been received.
    """

    __slots__ = ("_connection", "_failure", "_parts", "_parts_size", "_reader", "complete", "headers", "status")

    def __init__(self, connection: ReplySource) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.complete = False
        self._connection = connection
        self._failure: ProxyError | None = None
        self._parts: list[bytes] = []
        self._parts_size = 0
        self._reader: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.close()

    @property
    def content_type(self) -> str:
        """The media type in lower case, without its parameters; empty if the backend sent none."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def failed(self) -> bool:
        """Whether the reply was cut."""
        return self._failure is not None

    @property
    def fully_read(self) -> bool:
        """Whether the whole body has been received and read."""
        return self.complete and not self._parts

    async def wait_for_headers(self) -> None:
        """Wait for the status and the headers.

        Raises:
            BackendUnavailableError: The connection was closed before a byte of the reply.
            BackendTimeoutError: The backend sent nothing for too long.
            BackendProtocolError: The reply is not HTTP.
        """
        while not self.status:
            if self._failure is not None:
                raise self._failure
            await self._wait_for_change()

    async def read_part(self) -> bytes:
        """Return the body received since the last call; no bytes at its end.

        Raises:
            BackendProtocolError: The reply is cut.
            BackendTimeoutError: The backend sent nothing for too long.
        """
        while not self._parts:
            if self.complete:
                return b""
            if self._failure is not None:
                raise self._failure
            await self._wait_for_change()
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._parts_size = 0
        self._connection.resume_reading()
        return data

    async def read(self) -> bytes:
        """Return the whole body.

        Raises:
            BackendProtocolError: The reply is cut, or longer than MAX_BODY_BYTES.
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
        """Release the connection for the next request if the reply was read to its end.

        Otherwise the connection is closed, so that the backend stops its work.
        """
        self._connection.release(self)

    def feed(self, data: bytes) -> int:
        """Add a received part of the body; return how many bytes are not read yet."""
        self._parts.append(data)
        self._parts_size += len(data)
        if self._reader is not None:  # several parts of one packet wake the reader once
            self.notify()
        return self._parts_size

    def fail(self, error: ProxyError) -> None:
        """Mark the reply as cut, unless it is complete."""
        if not self.complete and self._failure is None:
            self._failure = error
            self.notify()

    def notify(self) -> None:
        """Wake the reader, so that it sees the new state."""
        reader, self._reader = self._reader, None
        if reader is not None and not reader.done():
            reader.set_result(None)

    async def _wait_for_change(self) -> None:
        self._reader = asyncio.get_running_loop().create_future()
        try:
            await self._reader
        finally:
            self._reader = None
