"""HTTP to the backends: the proxy's only client sessions, their timeouts, and the one retry that is safe.

A request is repeated only when a kept-alive connection was found closed, on a fresh connection; a fresh connection that
breaks after the request was sent may already have made the backend generate. Knows no model and no choice of backend.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Final

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


class Wire:
    """Two sessions: one keeps connections alive, one opens a fresh connection for each request."""

    def __init__(self, connect_timeout: float, silence_timeout: float, budget: RetryBudget, metrics: Metrics) -> None:
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout, sock_read=silence_timeout)
        self._budget = budget
        self._metrics = metrics
        self._kept = self._session(aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE))
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
        noted = SimpleNamespace(reused=False)
        try:
            return await self._send(self._kept, request, noted)
        except BackendUnavailableError:
            if not noted.reused:
                raise
        with self._budget.retry() as allowed:
            if not allowed:
                raise BackendUnavailableError("The backend closed its connections, and too many requests repeat now.")
            self._metrics.retries.labels("stale connection").inc()
            return await self._send(self._fresh, request, noted)

    async def _send(
        self, session: aiohttp.ClientSession, request: WireRequest, noted: SimpleNamespace
    ) -> aiohttp.ClientResponse:
        try:
            response = await session.request(
                request.method,
                request.url,
                data=request.body,
                headers=request.headers,
                allow_redirects=False,
                trace_request_ctx=noted,
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
        tracing = aiohttp.TraceConfig()
        tracing.on_connection_reuseconn.append(_note_reuse)
        return aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers={"Accept-Encoding": "identity", "User-Agent": "drpo-proxy"},
            trace_configs=[tracing],
        )


def finish(response: aiohttp.ClientResponse) -> None:
    """Give the connection back if the reply was read to its end; else close it, which stops the backend's work."""
    if response.content.at_eof():
        response.release()
    else:
        response.close()


async def _note_reuse(_session: aiohttp.ClientSession, context: SimpleNamespace, _parameters: object) -> None:
    context.trace_request_ctx.reused = True


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
