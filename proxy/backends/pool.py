"""The pool of model servers: what they serve, which one answers a request, and whether they are well.

Destinations are fixed at start and never come from a request. How bytes travel is in wire.py.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final, Self
from urllib.parse import urlsplit

import orjson

from proxy.backends.dialects.base import Kind
from proxy.backends.discovery import Model, discover
from proxy.backends.load_balancing import Candidate, Count, RetryBudget, Standing, order
from proxy.backends.response import BackendResponse
from proxy.backends.transport import BackendRequest, NoConnectionError, Transport
from proxy.core.errors import BackendTimeoutError, ProxyError, StartupError, UnknownModelError
from proxy.core.log import log_event
from proxy.core.metrics import Metrics

_PROBE_TIMEOUT: Final = 10.0  # seconds for a small question: models, tokenize
_SESSION: Final = "X-Session-ID"  # what vllm-router's consistent_hash looks at, before the id of each request
_NOT_NOW: Final = 503  # the one status that says that nothing was begun
_GATEWAY_FAILURES: Final = (502, 503, 504)  # a 500 may be the doing of one client's request, and ejects nobody


@dataclass(frozen=True, slots=True)
class BackendSettings:
    """kinds: what the operator said of models; times in seconds, as their flags say."""

    kinds: Mapping[str, Kind] = field(default_factory=dict)
    connect_timeout: float = 5.0
    backend_timeout: float = 600.0
    health_interval: float = 5.0


@dataclass(slots=True, eq=False)
class Backend:
    """One server. `kinds`: what is known of its models without asking; `models` as it listed them last; `healthy` after
    its last check; `trouble` says why not; `work`: the requests that it has. `takes_client_keys`: a client's key may go
    there, if keys are forwarded."""

    url: str
    api_key: str | None = field(default=None, repr=False)
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    models: Mapping[str, Model] = field(default_factory=dict)
    healthy: bool = False
    trouble: str = "not asked yet"
    work: Count = field(default_factory=Count, repr=False)
    takes_client_keys: bool = True
    standing: Standing = field(default_factory=lambda: Standing(time.monotonic), repr=False)

    def checked(self, trouble: str = "", *, answering: bool) -> None:
        """Note whether it answers, and what is wrong."""
        self.healthy, self.trouble = answering, trouble
        self.standing.checked(answering=answering)

    def request(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> BackendRequest:
        """A request to this server; a client's own key, where it may pass, goes before the operator's."""
        key = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        merged = {**key, **headers} if self.takes_client_keys else {**headers, **key}
        return BackendRequest(method, self.url, path, body, merged)


def backend_url(text: str) -> str:
    """The server's root, whether or not `text` ends in /v1. Raises StartupError for what is no http(s) URL."""
    if "@" in text or "?" in text:
        raise StartupError("--backend: a URL with a password or a query in it; use --backend-api-key-file.")
    try:
        parts = urlsplit(text)
        named = bool((parts.hostname or "").encode("idna"))
        good = parts.scheme in {"http", "https"} and named and not parts.fragment and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise StartupError(f"--backend {text}: not a base URL such as http://127.0.0.1:8000/v1.")
    return text.rstrip("/").removesuffix("/v1")


class Pool:
    """The backends, the models that they list, and one way to send a request to the right one."""

    def __init__(self, backends: Sequence[Backend], settings: BackendSettings, metrics: Metrics) -> None:
        self.backends = tuple(backends)
        self._settings = settings
        self._metrics = metrics
        self._budget = RetryBudget()
        self._wire: Transport
        self._watches: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._wire = Transport(
            self._settings.connect_timeout, self._settings.backend_timeout, self._budget, self._metrics
        )
        await self.refresh()
        self._watches = [asyncio.create_task(self._watch(backend), name="health") for backend in self.backends]
        return self

    async def __aexit__(self, *exception: object) -> None:
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        await self._wire.close()

    @property
    def models(self) -> Mapping[str, Model]:
        """Every model that a backend lists, by id; the first backend's word counts."""
        if len(self.backends) == 1:
            return self.backends[0].models
        found: dict[str, Model] = {}
        for backend in self.backends:
            for name, model in backend.models.items():
                found.setdefault(name, model)
        return found

    @property
    def default_model(self) -> str | None:
        """What a request without a model means: the first model listed, as in vLLM, if all backends list the same."""
        firsts = {next(iter(backend.models)) for backend in self.backends if backend.models}
        return firsts.pop() if len(firsts) == 1 else None

    @property
    def healthy(self) -> bool:
        """Whether a backend answers."""
        return any(backend.healthy for backend in self.backends)

    async def refresh(self) -> None:
        """Ask every backend for its models, and note who answers."""
        await asyncio.gather(*(self._check(backend) for backend in self.backends))

    async def count_tokens(self, model: Model, text: str) -> int | None:
        """Tokens of `text` for the served tokenizer; None if no backend can say."""
        for backend in self._candidates(model.id):
            try:
                return await model.dialect.count_tokens(model.id, text, _Fetcher(self._wire, backend))
            except ProxyError:
                continue
        return None

    @asynccontextmanager
    async def send(
        self, model: str, path: str, body: bytes, headers: Mapping[str, str], conversation: str | None = None
    ) -> AsyncIterator[BackendResponse]:
        """POST to a backend that serves `model`; yield its reply, headers read. On the way out the exchange is aborted
        unless its body was read to the end.

        A backend that no connection can be made to, or that says 503, is passed over for the next one. conversation:
        what its turns are known by; they go to the same backend while that is well and not crowded. A backend that is a
        router is told it.
        Raises UnknownModelError, BackendUnavailableError, BackendTimeoutError, BackendProtocolError.
        """
        if conversation is not None:
            headers = {**headers, _SESSION: conversation}
        left = self._candidates(model, conversation)
        failure: ProxyError | None = None
        repeated = False
        with self._budget.requests:
            while left:
                backend = left.pop(0)
                with backend.work, self._budget.retries if repeated else nullcontext():
                    try:
                        response = await self._exchange(backend, backend.request("POST", path, body, headers))
                    except NoConnectionError as error:
                        backend.checked(str(error), answering=False)
                        failure = error.told
                        continue
                    if response.status == _NOT_NOW and left and not repeated and self._budget.has_room:
                        self._metrics.retries.labels("backend said 503").inc()
                        response.finish()
                        repeated = True
                        continue
                    body = b""  # it has been sent, and a long answer should not hold it
                    with self._watched(backend, response):
                        yield response
                    return
        raise failure or UnknownModelError(f"No backend lists {model!r}.", param="model")

    async def _exchange(self, backend: Backend, request: BackendRequest) -> BackendResponse:
        """One request to one backend, and what its outcome says of it."""
        try:
            response = await self._wire.exchange(request)
        except ProxyError:
            self._note_failure(backend)
            raise
        if response.status in _GATEWAY_FAILURES:
            self._note_failure(backend)
        return response

    @contextmanager
    def _watched(self, backend: Backend, response: BackendResponse) -> Iterator[None]:
        """Let the reply be read; what broke in it counts against the backend, a client that left does not."""
        try:
            yield
            if not response.taken:
                self._note_failure(backend)
            elif response.status not in _GATEWAY_FAILURES:
                backend.standing.succeeded()
        except ProxyError:
            self._note_failure(backend)
            raise
        finally:
            response.finish()

    def _note_failure(self, backend: Backend) -> None:
        if backend.standing.failed():
            self._metrics.ejections.labels(backend.url).inc()
            log_event("backend ejected", url=backend.url)

    def _candidates(self, model: str, conversation: str | None = None) -> list[Backend]:
        """Backends that list the model, in the order in which to try them."""
        serving = [backend for backend in self.backends if model in backend.models]
        if len(serving) < 2:
            return serving
        seen = [
            Candidate(backend.url, backend.standing.available, backend.standing.weight, backend.work.value)
            for backend in serving
        ]
        return [serving[position] for position in order(seen, conversation)]

    async def _watch(self, backend: Backend) -> None:
        """Check one backend again and again; one that hangs delays no other's check."""
        while True:
            await asyncio.sleep(self._settings.health_interval)
            await self._check(backend)

    async def _check(self, backend: Backend) -> None:
        known = backend.models if backend.healthy else {}
        before = backend.healthy, backend.trouble
        try:
            kinds = {**backend.kinds, **self._settings.kinds}
            listing = await discover(_Fetcher(self._wire, backend), kinds, known)
            backend.models = listing.models
            backend.checked(listing.problem, answering=True)
        except ProxyError as error:
            backend.checked(str(error), answering=False)
        if (backend.healthy, backend.trouble) != before:
            trouble = backend.trouble or None
            log_event("backend", url=backend.url, healthy=backend.healthy, trouble=trouble, models=len(backend.models))
        self._metrics.backend_up.labels(backend.url).set(backend.healthy)


@dataclass(frozen=True, slots=True)
class _Fetcher:
    """Small questions to one backend (see models.Fetch)."""

    wire: Transport
    backend: Backend

    async def __call__(self, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, Any]:
        method, data = ("GET", b"") if body is None else ("POST", orjson.dumps(body))
        request = self.backend.request(method, path, data, {"Content-Type": "application/json"})
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT):
                async with await self.wire.exchange(request) as response:
                    return response.status, _json(await response.read())
        except NoConnectionError as error:
            raise error.told from error
        except TimeoutError as error:
            raise BackendTimeoutError(f"{path}: no answer within {_PROBE_TIMEOUT:g} s.") from error


def _json(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
