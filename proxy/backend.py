"""The pool of model servers: which one answers, timeouts, retry, health. The proxy's only HTTP client.

Destinations are fixed at start and never come from a request. A failure is repeated only where the backend cannot have
begun to generate: a connection that could not be made (next backend), or a kept-alive one that was found closed (once,
on a fresh connection).
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Final, Self
from urllib.parse import urlsplit

import aiohttp
import orjson

from proxy.errors import (
    BackendProtocolError,
    BackendTimeoutError,
    BackendUnavailableError,
    ProxyError,
    StartupError,
    UnknownModelError,
)
from proxy.log import log_event
from proxy.metrics import Metrics
from proxy.models import Kind, Model, count_tokens, discover

_KEEPALIVE: Final = 3.0  # vLLM closes idle connections after 5 s; racing it loses requests
_PROBE_TIMEOUT: Final = 5.0
_CONNECT_ERRORS: Final = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)


@dataclass(frozen=True, slots=True)
class BackendSettings:
    """kinds: what the operator said of models; api_key: sent to every backend; times in seconds."""

    kinds: Mapping[str, Kind] = field(default_factory=dict)
    api_key: str | None = field(default=None, repr=False)
    connect_timeout: float = 5.0
    backend_timeout: float = 600.0
    health_interval: float = 5.0


@dataclass(slots=True, eq=False)
class Backend:
    """One server. `models` as it listed them last; `healthy` after its last check; `trouble` says why not."""

    url: str
    api_key: str | None = field(default=None, repr=False)
    models: Mapping[str, Model] = field(default_factory=dict)
    healthy: bool = False
    trouble: str = "not asked yet"
    in_flight: int = 0


def backend_url(text: str) -> str:
    """The server's root, whether or not `text` ends in /v1. Raises StartupError for what is no http(s) URL."""
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise StartupError(f"--backend {text}: not a base URL such as http://127.0.0.1:8000/v1.")
    if parts.username or parts.password:
        raise StartupError("--backend: a URL with a password in it; use --backend-api-key-file.")
    return text.rstrip("/").removesuffix("/v1")


class Pool:
    """The backends, the models that they list, and one way to send a request to the right one."""

    def __init__(self, backends: Sequence[Backend], settings: BackendSettings, metrics: Metrics) -> None:
        self.backends = tuple(backends)
        self._settings = settings
        self._metrics = metrics
        self._sessions: list[aiohttp.ClientSession] = []
        self._watch: asyncio.Task[None] | None = None
        self.refreshed = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._sessions = [self._session(force_close=False), self._session(force_close=True)]
        await self.refresh()
        self._watch = asyncio.create_task(self._keep_watching(), name="backend health")
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        for session in self._sessions:
            await session.close()

    @property
    def models(self) -> dict[str, Model]:
        """Every model that a backend lists, by id; the first backend's word counts."""
        found: dict[str, Model] = {}
        for backend in self.backends:
            for name, model in backend.models.items():
                found.setdefault(name, model)
        return found

    @property
    def healthy(self) -> bool:
        """Whether a backend answers."""
        return any(backend.healthy for backend in self.backends)

    async def refresh(self) -> None:
        """Ask every backend for its models, and note who answers."""
        await asyncio.gather(*(self._check(backend) for backend in self.backends))
        self.refreshed.set()
        self.refreshed = asyncio.Event()

    async def count_tokens(self, model: Model, text: str) -> int | None:
        """Tokens of `text` for the served tokenizer; None if no backend can say."""
        for backend in self._candidates(model.id):
            try:
                return await count_tokens(model, text, self._fetcher(backend))
            except ProxyError:
                continue
        return None

    @asynccontextmanager
    async def send(
        self, model: str, method: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send to a backend that serves `model`; yield its reply, headers read. The exchange is aborted on the way out
        unless its body was read to the end.

        Raises UnknownModelError, BackendUnavailableError, BackendTimeoutError, BackendProtocolError.
        """
        failure: ProxyError = UnknownModelError(f"No backend lists {model!r}.", param="model")
        for backend in self._candidates(model):
            backend.in_flight += 1
            try:
                response = await self._exchange(backend, method, path, body, headers)
            except _CONNECT_ERRORS as error:
                backend.healthy, backend.trouble = False, _reason(error)
                failure = _failure(error)
                continue
            else:
                try:
                    yield response
                finally:
                    _finish(response)
                return
            finally:
                backend.in_flight -= 1
        raise failure

    def _candidates(self, model: str) -> list[Backend]:
        """Backends that list the model: healthy ones first, then the least busy."""
        serving = [backend for backend in self.backends if model in backend.models]
        return sorted(serving, key=lambda backend: (not backend.healthy, backend.in_flight))

    async def _exchange(
        self, backend: Backend, method: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        noted = SimpleNamespace(reused=False)
        try:
            return await self._request(self._sessions[0], backend, method, path, body, headers, noted)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            if isinstance(error, _CONNECT_ERRORS):
                raise
            if not noted.reused:
                raise BackendUnavailableError("The backend closed the connection before it answered.") from error
        self._metrics.retries.labels("stale connection").inc()
        try:
            return await self._request(self._sessions[1], backend, method, path, body, headers, noted)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            if isinstance(error, _CONNECT_ERRORS):
                raise
            raise BackendUnavailableError("The backend closed the connection before it answered.") from error

    async def _request(
        self,
        session: aiohttp.ClientSession,
        backend: Backend,
        method: str,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        noted: SimpleNamespace,
    ) -> aiohttp.ClientResponse:
        sent = {"Authorization": f"Bearer {backend.api_key}"} if backend.api_key else {}
        try:
            response = await session.request(
                method,
                backend.url + path,
                data=body,
                headers={**sent, **headers},
                allow_redirects=False,
                trace_request_ctx=noted,
            )
        except _CONNECT_ERRORS:
            raise
        except TimeoutError as error:
            raise BackendTimeoutError("The backend did not answer in time.") from error
        except aiohttp.ClientResponseError as error:
            raise BackendProtocolError("The backend's reply is not HTTP.") from error
        if 300 <= response.status < 400 or response.headers.get("Content-Encoding", "identity") != "identity":
            response.close()
            raise BackendProtocolError(
                "The backend answered with a redirect or a compressed body, which is not followed."
            )
        return response

    def _session(self, *, force_close: bool) -> aiohttp.ClientSession:
        connector = (
            aiohttp.TCPConnector(limit=0, force_close=True)
            if force_close
            else aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE)
        )
        tracing = aiohttp.TraceConfig()
        tracing.on_connection_reuseconn.append(_note_reuse)
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self._settings.connect_timeout, sock_read=self._settings.backend_timeout
        )
        return aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers={"Accept-Encoding": "identity", "User-Agent": "drpo-proxy"},
            trace_configs=[tracing],
            read_bufsize=64 * 1024,
        )

    async def _keep_watching(self) -> None:
        while True:
            await asyncio.sleep(self._settings.health_interval)
            await self.refresh()

    async def _check(self, backend: Backend) -> None:
        known = backend.models if backend.healthy else {}
        try:
            backend.models = await discover(self._fetcher(backend), self._settings.kinds, known)
            healthy, trouble = True, ""
        except ProxyError as error:
            healthy, trouble = False, str(error)
        if healthy != backend.healthy or trouble != backend.trouble:
            log_event("backend", url=backend.url, healthy=healthy, trouble=trouble or None, models=len(backend.models))
        backend.healthy, backend.trouble = healthy, trouble
        self._metrics.backend_up.labels(backend.url).set(healthy)

    def _fetcher(self, backend: Backend) -> "_Fetcher":
        return _Fetcher(self, backend)

    async def fetch(self, backend: Backend, path: str, body: Mapping[str, Any] | None) -> tuple[int, Any]:
        """One small request: status and parsed JSON. Raises ProxyError."""
        method, data = ("GET", b"") if body is None else ("POST", orjson.dumps(body))
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT):
                response = await self._exchange(backend, method, path, data, {"Content-Type": "application/json"})
                async with response:
                    return response.status, _json(await response.read())
        except TimeoutError as error:
            raise BackendTimeoutError(f"{path}: no answer within {_PROBE_TIMEOUT:g} s.") from error
        except aiohttp.ClientError as error:
            raise _failure(error) from error


@dataclass(frozen=True, slots=True)
class _Fetcher:
    pool: Pool
    backend: Backend

    async def __call__(self, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, Any]:
        return await self.pool.fetch(self.backend, path, body)


def _finish(response: aiohttp.ClientResponse) -> None:
    """Give the connection back if the reply was read to its end; else close it, which stops the backend's work."""
    if response.content.at_eof():
        response.release()
    else:
        response.close()


async def _note_reuse(_session: aiohttp.ClientSession, context: SimpleNamespace, _parameters: object) -> None:
    context.trace_request_ctx.reused = True


def _json(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None


def _failure(error: BaseException) -> ProxyError:
    if isinstance(error, TimeoutError):
        return BackendTimeoutError("No backend accepted a connection in time.")
    return BackendUnavailableError(f"No backend could be reached: {_reason(error)}.")


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no connection in time"
    if isinstance(error, aiohttp.ClientConnectorError):
        return (error.strerror or "connection failed").lower()
    return "connection closed"


def troubles(backends: Iterable[Backend]) -> str:
    """Why the unhealthy ones are, for people."""
    return "; ".join(f"{backend.url}: {backend.trouble}" for backend in backends if not backend.healthy)
