"""HTTP to the backends: the connections that are kept for the next request, how a new one is made, and the one retry
that is safe.

A request is repeated only when a kept-alive connection was found closed, on a fresh connection; a fresh connection that
breaks after the request was sent may already have made the backend generate. Knows no model and no choice of backend.
"""

import asyncio
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final
from urllib.parse import quote, urlsplit

from proxy.backends.connection import Connection
from proxy.backends.load_balancing import RetryBudget
from proxy.backends.response import BackendResponse
from proxy.core.errors import BackendProtocolError, BackendTimeoutError, BackendUnavailableError, ProxyError
from proxy.core.metrics import Metrics

_NOT_FOLLOWED: Final = "The backend answered with a redirect, an upgrade or a compressed body: not followed."
_KEEPALIVE: Final = 3.0  # vLLM closes idle connections after 5 s; racing it loses requests
_HTTPS: Final = 443
_HTTP: Final = 80
_UNQUOTED: Final = "/%:@!$&'()*+,;=~-._?"


@dataclass(frozen=True, slots=True)
class BackendRequest:
    """One request: method, the server's root URL and the path below it, body, headers, the backend's key among them."""

    method: str
    root: str
    path: str
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Server:
    """Where a root URL leads. prefix: what stands before every path; fixed: headers of every request."""

    host: str
    port: int
    secure: bool
    prefix: str
    fixed: Mapping[str, str]


def server_at(root: str) -> Server:
    """The server of a URL that proxy.backends.pool has checked."""
    parts = urlsplit(root)
    secure = parts.scheme == "https"
    host = parts.hostname or ""
    if not host.isascii():
        host = host.encode("idna").decode("ascii")
    port = parts.port or (_HTTPS if secure else _HTTP)
    named = f"[{host}]" if ":" in host else host
    fixed = {
        "Host": named if parts.port is None else f"{named}:{port}",
        "User-Agent": "drpo-proxy",
        "Accept-Encoding": "identity",
    }
    return Server(host, port, secure, quote(parts.path.rstrip("/"), safe=_UNQUOTED), fixed)


def request_head(method: str, target: str, headers: Mapping[str, str], size: int) -> bytes:
    """The head of a request with a body of `size` bytes. Raises ValueError for a line break within a line of it."""
    lines = [f"{method} {target} HTTP/1.1", *[f"{name}: {value}" for name, value in headers.items()]]
    text = "\r\n".join(lines)
    if text.count("\n") != len(lines) - 1 or text.count("\r") != len(lines) - 1:
        raise ValueError("a header of a request holds a line break")
    return f"{text}\r\nContent-Length: {size}\r\n\r\n".encode("utf-8", "surrogateescape")


class NoConnectionError(Exception):
    """No connection was made, so that another backend can be tried. `told`: the error that a client gets for it."""

    def __init__(self, trouble: str, told: ProxyError) -> None:
        super().__init__(trouble)
        self.told = told


class Transport:
    """Keeps connections for a few seconds after use, the one used last to be used next; makes new ones as needed."""

    def __init__(self, connect_timeout: float, silence_timeout: float, budget: RetryBudget, metrics: Metrics) -> None:
        self._connect_timeout = connect_timeout
        self._silence_timeout = silence_timeout
        self._budget = budget
        self._metrics = metrics
        self._servers: dict[str, Server] = {}
        self._idle: dict[str, list[Connection]] = {}
        self._open: set[Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._tls: ssl.SSLContext | None = None

    async def close(self) -> None:
        """Close every connection."""
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in self._open:
            connection.close()
        await asyncio.sleep(0)  # a transport closes in the next turn of the loop

    async def exchange(self, request: BackendRequest) -> BackendResponse:
        """Send and wait for the headers of the reply.

        Raises NoConnectionError, so that another backend can be tried, BackendUnavailableError, BackendTimeoutError,
        BackendProtocolError.
        """
        server = self._servers.get(request.root)
        if server is None:
            server = self._servers[request.root] = server_at(request.root)
        kept = self._kept(request.root)
        if kept is None:
            return await self._send(await self._connect(request.root, server), server, request)
        try:
            return await self._send(kept, server, request)
        except BackendUnavailableError:
            pass  # closed in the moment in which it was used: nothing came of the request
        if not self._budget.has_room:
            raise BackendUnavailableError("The backend closed its connections, and too many requests repeat now.")
        with self._budget.retries:
            self._metrics.retries.labels("stale connection").inc()
            return await self._send(await self._connect(request.root, server), server, request)

    async def _send(self, connection: Connection, server: Server, request: BackendRequest) -> BackendResponse:
        headers = {**server.fixed, **request.headers}
        head = request_head(request.method, server.prefix + request.path, headers, len(request.body))
        reply = await connection.exchange((head, request.body))
        status, coding = reply.status, reply.headers.get("content-encoding", "identity")
        if (200 <= status < 300 or status >= 400) and coding == "identity":
            return reply
        connection.close()
        raise BackendProtocolError(_NOT_FOLLOWED)

    def _kept(self, root: str) -> Connection | None:
        """A connection that waits, and has not waited too long."""
        idle = self._idle.get(root)
        earliest = asyncio.get_running_loop().time() - _KEEPALIVE
        while idle:
            connection = idle.pop()
            if not connection.closed and connection.idle_since > earliest:
                return connection
            connection.close()
        return None

    async def _connect(self, root: str, server: Server) -> Connection:
        connection = Connection(self._silence_timeout, partial(self._keep, root), self._open.discard)
        tls = self._context() if server.secure else None
        try:
            async with asyncio.timeout(self._connect_timeout):
                await asyncio.get_running_loop().create_connection(
                    lambda: connection, server.host, server.port, ssl=tls
                )
        except TimeoutError as error:
            late = BackendTimeoutError("No backend accepted a connection in time.")
            raise NoConnectionError("no connection in time", late) from error
        except OSError as error:
            trouble = _why(error)
            told = BackendUnavailableError(f"No backend could be reached: {trouble}.")
            raise NoConnectionError(trouble, told) from error
        self._open.add(connection)
        return connection

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls

    def _keep(self, root: str, connection: Connection) -> None:
        self._idle.setdefault(root, []).append(connection)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(_KEEPALIVE, self._close_old)

    def _close_old(self) -> None:
        """Close what has waited too long; look again while anything waits."""
        loop = asyncio.get_running_loop()
        earliest = loop.time() - _KEEPALIVE
        for root, idle in self._idle.items():
            for connection in idle:
                if connection.idle_since <= earliest:
                    connection.close()
            self._idle[root] = [connection for connection in idle if not connection.closed]
        waiting = any(self._idle.values())
        self._sweep = loop.call_later(_KEEPALIVE / 3, self._close_old) if waiting else None


def _why(error: OSError) -> str:
    """In a few words, without the address: a client is told it."""
    if error.errno is not None and error.errno > 0 and not isinstance(error, ssl.SSLError):
        return os.strerror(error.errno).lower()
    return (error.strerror or "connection failed").lower()
