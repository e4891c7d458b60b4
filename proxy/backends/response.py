"""What a backend answers, while it comes: status and headers first, then a body in parts. Knows no HTTP and no socket.

Whoever reads it waits here; whoever parses it puts in what has come. What came before a failure is given before it.
"""

import asyncio
from collections.abc import Mapping
from typing import Final, Protocol, Self

from proxy.core.errors import BackendProtocolError, ProxyError

LARGEST_BODY: Final = 256 * 1024 * 1024


class Owner(Protocol):
    """The connection that a reply comes over."""

    def go_on(self) -> None:
        """Read on: what had come was taken."""
        ...

    def finish(self, reply: "BackendResponse") -> None:
        """The reply is done with."""
        ...


class BackendResponse:
    """What a backend answers. `status` and `headers` (names in lower case) are known when the caller gets it; the body
    is read in parts. Use it as `async with`, or end it with `finish`."""

    __slots__ = ("_connection", "_failure", "_held", "_parts", "_waiting", "complete", "headers", "status")

    def __init__(self, connection: Owner) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.complete = False
        self._connection = connection
        self._failure: ProxyError | None = None
        self._parts: list[bytes] = []
        self._held = 0
        self._waiting: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.finish()

    @property
    def content_type(self) -> str:
        """The media type, in lower case, without its parameters; empty where none is said."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def failed(self) -> bool:
        """Whether it broke off."""
        return self._failure is not None

    @property
    def taken(self) -> bool:
        """Whether all of it has come and was read."""
        return self.complete and not self._parts

    async def begun(self) -> None:
        """Wait for the headers. Raises BackendUnavailableError, BackendTimeoutError, BackendProtocolError."""
        while not self.status:
            if self._failure is not None:
                raise self._failure
            await self._news()

    async def read_part(self) -> bytes:
        """What has come since the last call; no bytes at the end. What came before a failure is given before it.

        Raises BackendProtocolError for a reply that is cut, BackendTimeoutError for one that stalls.
        """
        while not self._parts:
            if self.complete:
                return b""
            if self._failure is not None:
                raise self._failure
            await self._news()
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._held = 0
        self._connection.go_on()
        return data

    async def read(self) -> bytes:
        """The whole body. Raises as read_part does, and BackendProtocolError for one over 256 MiB."""
        parts, size = [], 0
        while data := await self.read_part():
            size += len(data)
            if size > LARGEST_BODY:
                raise BackendProtocolError("The backend's reply is over 256 MiB.")
            parts.append(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def finish(self) -> None:
        """Give the connection back if the reply was read to its end; else close it, which stops the backend's work."""
        self._connection.finish(self)

    def add(self, data: bytes) -> int:
        """Take a part of the body; how many bytes are held now."""
        self._parts.append(data)
        self._held += len(data)
        if self._waiting is not None:  # what comes in one piece with this need not wake anybody again
            self.wake()
        return self._held

    def fail(self, error: ProxyError) -> None:
        """Note how it broke off, unless it is all there already."""
        if not self.complete and self._failure is None:
            self._failure = error
            self.wake()

    def wake(self) -> None:
        """Let whoever waits look again."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    async def _news(self) -> None:
        self._waiting = asyncio.get_running_loop().create_future()
        try:
            await self._waiting
        finally:
            self._waiting = None
