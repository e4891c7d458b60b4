"""HTTP to the backends: the proxy's only client sessions, their timeouts, and the one retry that is safe.

A request is repeated only when a kept-alive connection was found closed, on a fresh connection; a fresh connection that
breaks after the request was sent may already have made the backend generate. Knows no model and no choice of backend.
"""

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

from proxy.balance import RetryBudget
from proxy.errors import BackendProtocolError, BackendTimeoutError, BackendUnavailableError
from proxy.metrics import Metrics

_KEEPALIVE: Final = 3.0  # vLLM closes idle connections after 5 s; racing it loses requests
CONNECT_ERRORS: Final = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)


@dataclass(frozen=True, slots=True)
class WireRequest:
    """One request: method, absolute URL, body, and headers, the backend's key among them."""

    method: str
    url: str
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)


class _KeepingConnector(aiohttp.TCPConnector):
    """Keeps connections alive, and notes in `reused` whether the request that a task sent last went over one that had
    been used before. aiohttp's own way to see that, tracing, costs a twentieth of a request's time."""

    def __init__(self) -> None:
        super().__init__(limit=0, keepalive_timeout=_KEEPALIVE)
        self.reused: ContextVar[bool] = ContextVar("reused")

    async def _get(self, key: Any, traces: Any) -> Any:
        connection = await super()._get(key, traces)
        self.reused.set(connection is not None)
        return connection


class Wire:
    """Two sessions: one keeps connections alive, one opens a fresh connection for each request."""

    def __init__(self, connect_timeout: float, silence_timeout: float, budget: RetryBudget, metrics: Metrics) -> None:
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout, sock_read=silence_timeout)
        self._budget = budget
        self._metrics = metrics
        self._keeping = _KeepingConnector()
        self._kept = self._session(self._keeping)
        self._fresh = self._session(aiohttp.TCPConnector(limit=0, force_close=True))

    async def close(self) -> None:
        """Close every connection."""
        await self._kept.close()
        await self._fresh.close()

    async def exchange(self, request: WireRequest) -> aiohttp.ClientResponse:
        """Send and wait for the headers of the reply.

        Raises aiohttp's CONNECT_ERRORS when no connection was made, so that another backend can be tried, else
        BackendUnavailableError, BackendTimeoutError, BackendProtocolError.
        """
        try:
            return await self._send(self._kept, request)
        except BackendUnavailableError:
            if not self._keeping.reused.get():
                raise
        with self._budget.retry() as allowed:
            if not allowed:
                raise BackendUnavailableError("The backend closed its connections, and too many requests repeat now.")
            self._metrics.retries.labels("stale connection").inc()
            return await self._send(self._fresh, request)

    async def _send(self, session: aiohttp.ClientSession, request: WireRequest) -> aiohttp.ClientResponse:
        try:
            response = await session.request(
                request.method,
                request.url,
                data=request.body,
                headers=request.headers,
                allow_redirects=False,
            )
        except CONNECT_ERRORS:
            raise
        except TimeoutError as error:
            raise BackendTimeoutError("The backend did not answer in time.") from error
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            raise BackendUnavailableError("The backend closed the connection before it answered.") from error
        except aiohttp.ClientError as error:
            raise BackendProtocolError("The backend's reply is not HTTP.") from error
        if (
            response.status < 200
            or 300 <= response.status < 400
            or response.headers.get("Content-Encoding", "identity") != "identity"
        ):
            response.close()
            raise BackendProtocolError(
                "The backend answered with a redirect, an upgrade or a compressed body: not followed."
            )
        return response

    def _session(self, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers={"Accept-Encoding": "identity", "User-Agent": "drpo-proxy"},
        )


def finish(response: aiohttp.ClientResponse) -> None:
    """Give the connection back if the reply was read to its end; else close it, which stops the backend's work."""
    if response.content.at_eof():
        response.release()
    else:
        response.close()


def connect_failure(error: BaseException) -> BackendUnavailableError | BackendTimeoutError:
    """A connection that was not made, as an error of ours."""
    if isinstance(error, TimeoutError):
        return BackendTimeoutError("No backend accepted a connection in time.")
    return BackendUnavailableError(f"No backend could be reached: {connect_trouble(error)}.")


def connect_trouble(error: BaseException) -> str:
    """Why a connection was not made, in a few words."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return (error.strerror or "connection failed").lower()
    return "no connection in time"
