"""Sends HTTP requests to backends: opens connections, reuses idle connections, and retries a request if that is safe.

A request is retried only if the backend closed a reused connection without an answer: the backend probably closed it
because the connection was idle. If a new connection breaks, the request is not retried, because the backend may already
be generating. The transport does not depend on models or on how a backend is chosen.
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
from proxy.core.errors import (
    BackendNotReadyError,
    BackendProtocolError,
    BackendTimeoutError,
    BackendUnavailableError,
    ProxyError,
)
from proxy.core.metrics import Metrics

_IDLE_TIMEOUT: Final = 3.0  # seconds; less than in servers (vLLM: 5 s), so that the server does not close first
_HTTPS_PORT: Final = 443
_HTTP_PORT: Final = 80
_MIN_SUCCESS, _MIN_REDIRECT, _MIN_ERROR = 200, 300, 400  # HTTP statuses
_SAFE_IN_PATH: Final = "/%:@!$&'()*+,;=~-._?"


@dataclass(frozen=True, slots=True)
class BackendRequest:
    """One HTTP request to a backend.

    Attributes:
        method: The HTTP method.
        root: The root URL of the backend.
        path: The path of the request, which is appended to the root URL.
        body: The body; empty for a GET.
        headers: The headers, including the key for the backend.
    """

    method: str
    root: str
    path: str
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """The address of a server, parsed from its root URL.

    Attributes:
        host: The host name in ASCII.
        port: The TCP port.
        secure: Whether to use TLS.
        path_prefix: The percent-encoded path of the root URL. It is put before the path of each request.
        headers: The headers that are added to every request to this address.
    """

    host: str
    port: int
    secure: bool
    path_prefix: str
    headers: Mapping[str, str]


def parse_root_url(root: str) -> ServerAddress:
    """Return the address of a root URL that `proxy.core.addresses.server_root` has checked."""
    parts = urlsplit(root)
    secure = parts.scheme == "https"
    host = parts.hostname or ""
    if not host.isascii():
        host = host.encode("idna").decode("ascii")
    port = parts.port or (_HTTPS_PORT if secure else _HTTP_PORT)
    host_in_header = f"[{host}]" if ":" in host else host
    headers = {
        "Host": host_in_header if parts.port is None else f"{host_in_header}:{port}",
        "User-Agent": "drpo-proxy",
        "Accept-Encoding": "identity",
    }
    return ServerAddress(host, port, secure, quote(parts.path.rstrip("/"), safe=_SAFE_IN_PATH), headers)


def request_head(method: str, target: str, headers: Mapping[str, str], size: int) -> bytes:
    """Return the request line and the headers of a request.

    Args:
        method: The HTTP method.
        target: The path and the query.
        headers: The headers without Content-Length.
        size: The size of the body in bytes, for Content-Length.

    Raises:
        ValueError: A header contains a line break.
    """
    lines = [f"{method} {target} HTTP/1.1", *[f"{name}: {value}" for name, value in headers.items()]]
    text = "\r\n".join(lines)
    if text.count("\n") != len(lines) - 1 or text.count("\r") != len(lines) - 1:
        raise ValueError("A header of a request contains a line break.")
    return f"{text}\r\nContent-Length: {size}\r\n\r\n".encode("utf-8", "surrogateescape")


class NoConnectionError(Exception):
    """No connection could be opened, so another backend can be tried.

    Attributes:
        client_error: The error that the client gets if no other backend can be tried.
    """

    def __init__(self, problem: str, client_error: ProxyError) -> None:
        super().__init__(problem)
        self.client_error = client_error


class Transport:
    """Sends requests to backends.

    It keeps idle connections for a few seconds, and reuses the most recently used connection first.
    """

    def __init__(self, connect_timeout: float, silence_timeout: float, budget: RetryBudget, metrics: Metrics) -> None:
        """Create a transport without connections.

        Args:
            connect_timeout: Seconds until an attempt to connect fails.
            silence_timeout: An exchange fails if no byte arrives for this many seconds.
            budget: Limits how many retries run at once.
            metrics: The metrics that count the retries.
        """
        self._connect_timeout = connect_timeout
        self._silence_timeout = silence_timeout
        self._budget = budget
        self._metrics = metrics
        self._addresses: dict[str, ServerAddress] = {}
        self._idle: dict[str, list[Connection]] = {}
        self._open: set[Connection] = set()
        self._cleanup: asyncio.TimerHandle | None = None
        self._tls: ssl.SSLContext | None = None

    async def close(self) -> None:
        """Close all connections."""
        if self._cleanup is not None:
            self._cleanup.cancel()
        for connection in self._open:
            connection.close()
        await asyncio.sleep(0)  # an asyncio transport closes in the next iteration of the event loop

    async def exchange(self, request: BackendRequest) -> BackendResponse:
        """Send a request and wait for the headers of the reply.

        Raises:
            NoConnectionError: No connection could be opened.
            BackendUnavailableError: The connection was closed before any byte of the reply was received.
            BackendTimeoutError: The backend sent nothing for too long.
            BackendProtocolError: The reply is not valid HTTP, or is a redirect, an upgrade or compressed.
        """
        address = self._addresses.get(request.root)
        if address is None:
            address = self._addresses[request.root] = parse_root_url(request.root)
        reused = self._take_idle(request.root)
        if reused is None:
            return await self._send(await self._connect(request.root, address), address, request)
        try:
            return await self._send(reused, address, request)
        except BackendUnavailableError:
            pass  # the server probably closed the idle connection before it received the request
        if not self._budget.has_room:
            raise BackendUnavailableError(
                "The backend closed the connection. The request was not sent again: too many retries are in progress."
            )
        with self._budget.retries:
            self._metrics.retries.labels("stale connection").inc()
            return await self._send(await self._connect(request.root, address), address, request)

    async def _send(self, connection: Connection, address: ServerAddress, request: BackendRequest) -> BackendResponse:
        headers = {**address.headers, **request.headers}
        head = request_head(request.method, address.path_prefix + request.path, headers, len(request.body))
        reply = await connection.exchange((head, request.body))
        problem = _unsupported(reply.status, reply.headers.get("content-encoding", ""))
        if problem is None:
            return reply
        connection.close()
        raise BackendProtocolError(problem)

    def _take_idle(self, root: str) -> Connection | None:
        """Return an idle connection that the server has probably not closed; None if there is no such connection."""
        idle = self._idle.get(root)
        earliest = asyncio.get_running_loop().time() - _IDLE_TIMEOUT
        while idle:
            connection = idle.pop()
            if not connection.closed and connection.idle_since > earliest:
                return connection
            connection.close()
        return None

    async def _connect(self, root: str, address: ServerAddress) -> Connection:
        connection = Connection(self._silence_timeout, partial(self._keep_idle, root), self._open.discard)
        tls = self._tls_context() if address.secure else None
        try:
            async with asyncio.timeout(self._connect_timeout):
                await asyncio.get_running_loop().create_connection(
                    lambda: connection, address.host, address.port, ssl=tls
                )
        except TimeoutError as error:
            timeout = BackendTimeoutError("No backend accepted a connection in time.")
            raise NoConnectionError("no connection in time", timeout) from error
        except OSError as error:
            reason = _reason(error)
            unavailable = BackendNotReadyError(f"No backend could be reached: {reason}.")
            raise NoConnectionError(reason, unavailable) from error
        self._open.add(connection)
        return connection

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls

    def _keep_idle(self, root: str, connection: Connection) -> None:
        self._idle.setdefault(root, []).append(connection)
        if self._cleanup is None:
            self._cleanup = asyncio.get_running_loop().call_later(_IDLE_TIMEOUT, self._close_idle)

    def _close_idle(self) -> None:
        """Close the connections that have been idle for too long. Run again later if any connection is still idle."""
        loop = asyncio.get_running_loop()
        earliest = loop.time() - _IDLE_TIMEOUT
        for root, idle in self._idle.items():
            for connection in idle:
                if connection.idle_since <= earliest:
                    connection.close()
            self._idle[root] = [connection for connection in idle if not connection.closed]
        any_idle = any(self._idle.values())
        self._cleanup = loop.call_later(_IDLE_TIMEOUT / 3, self._close_idle) if any_idle else None


def _unsupported(status: int, coding: str) -> str | None:
    """Return why a reply cannot be read; None if it can."""
    if coding and coding.strip().lower() != "identity":
        return "The backend's reply is compressed, although the request asked for no compression."
    if _MIN_REDIRECT <= status < _MIN_ERROR:
        return (
            f"The backend answered {status}, a redirect, which the proxy does not follow. Check the URL of the backend."
        )
    if status < _MIN_SUCCESS:
        return f"The backend answered {status}, an upgrade that was not requested."
    return None


def _reason(error: OSError) -> str:
    """Return a short reason for the client. It does not contain the address of the backend."""
    if error.errno is not None and error.errno > 0 and not isinstance(error, ssl.SSLError):
        return os.strerror(error.errno).lower()
    return (error.strerror or "connection failed").lower()
