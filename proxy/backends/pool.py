"""The pool of model servers: their models, their health, and the choice of a server for each request.

The operator gives the backends at start, and a request can never name a backend. The transport (transport.py) sends
the bytes.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

from proxy.backends.backend import Backend, is_undecided, unlisted_model
from proxy.backends.dialects.base import Dialect, Fetch, ModelFacts
from proxy.backends.discovery import KindDecider, Model, discover, fingerprint
from proxy.backends.fetcher import Fetcher
from proxy.backends.kinds.decision import Decision
from proxy.backends.kinds.probe import probe
from proxy.backends.load_balancing import NO_AFFINITY, Affinity, RetryBudget
from proxy.backends.response import BackendResponse
from proxy.backends.routing import Router
from proxy.backends.transport import BackendRequest, NoConnectionError, Transport
from proxy.core.errors import BackendReportedError, ProxyError
from proxy.core.json_types import Json
from proxy.core.log import log_event
from proxy.core.metrics import Metrics
from proxy.core.settings import BackendSettings

_ANSWER_TIMEOUT: Final = 120.0  # seconds for one answer to a question that shows the kind of a model
_KINDS_PATIENCE: Final = 5.0  # seconds that one health check waits for such answers; the next health check waits again
_KIND_TIMEOUT: Final = 60.0  # seconds that a request waits until the kind of its model is known
_SESSION_HEADER: Final = "X-Session-ID"  # the first header that vllm-router's consistent_hash policy reads
_UNAVAILABLE: Final = 503  # this status, and no other, means that the backend has not begun to generate
# A reply with one of these statuses counts as a failure of the backend. A 500 does not count, because a bad request may
# have caused it.
_GATEWAY_ERRORS: Final = (502, 503, 504)


class Pool:
    """The backends and their models. The pool sends each request to a backend that lists the model of the request."""

    def __init__(
        self, backends: Sequence[Backend], settings: BackendSettings, metrics: Metrics, shared: Path | None = None
    ) -> None:
        """Create the pool. `shared` is the folder that all workers share; None if the server has one process."""
        self._shared = shared
        self.backends = tuple(backends)
        self._settings = settings
        self._metrics = metrics
        self._budget = RetryBudget()
        self._transport: Transport
        self._health_checks: list[asyncio.Task[None]] = []
        self._next_check = asyncio.Event()
        self._router = Router(self.backends, metrics)

    async def __aenter__(self) -> Self:
        self._transport = self.open_transport(self._budget)
        await self.refresh()
        self._health_checks = [
            asyncio.create_task(self._check_repeatedly(backend), name="health") for backend in self.backends
        ]
        return self

    async def __aexit__(self, *exception: object) -> None:
        for task in self._health_checks:
            task.cancel()
        await asyncio.gather(*self._health_checks, return_exceptions=True)
        await asyncio.gather(*(backend.judge.close() for backend in self.backends))
        await self._transport.close()

    def open_transport(self, budget: RetryBudget) -> Transport:
        """Return a new transport with the timeouts of the pool. The caller must close it."""
        return Transport(self._settings.connect_timeout, self._settings.backend_timeout, budget, self._metrics)

    @property
    def models(self) -> Mapping[str, Model]:
        """All models by id. If several backends list the same model, the entry of the first backend is used."""
        if len(self.backends) == 1:
            return self.backends[0].models
        found: dict[str, Model] = {}
        for backend in self.backends:
            for name, model in backend.models.items():
                found.setdefault(name, model)
        return found

    @property
    def asking(self) -> bool:
        """Whether a model is being asked questions that show its kind."""
        return any(backend.judge.asking for backend in self.backends)

    async def wait_for_kind(self, named: object) -> bool:
        """Wait until the kind of a model is known.

        Args:
            named: The field `model` of a request. If it is missing or empty, wait for all models.

        Returns:
            Whether the kind was unknown at first, and became known within `_KIND_TIMEOUT`.
        """
        if not is_undecided(self.backends, named):
            return False
        with suppress(TimeoutError):
            async with asyncio.timeout(_KIND_TIMEOUT):
                while is_undecided(self.backends, named):
                    await self._next_check.wait()
        return not is_undecided(self.backends, named)

    @property
    def default_model(self) -> str | None:
        """The id of the model for requests that name no model: the model that every backend lists first.

        vLLM also serves such requests with the first model of its list. None if the backends list different models
        first, or if no backend lists a model.
        """
        first_models = {next(iter(backend.models)) for backend in self.backends if backend.models}
        return first_models.pop() if len(first_models) == 1 else None

    @property
    def healthy(self) -> bool:
        """Whether at least one backend answers."""
        return any(backend.healthy for backend in self.backends)

    async def refresh(self) -> None:
        """Run a health check of every backend once."""
        await asyncio.gather(*(self._check(backend) for backend in self.backends))

    def fetcher(self, backend: Backend, timeout: float) -> Fetch:
        """Return a function that sends small requests to a backend. They do not change its load or its health."""
        return Fetcher(self._transport, backend, timeout)

    async def count_tokens(self, model: Model, text: str) -> int | None:
        """Return how many tokens a text has for a model; None if the first backend that answers cannot count them."""
        return await self._first_count(model, lambda fetch: model.dialect.count_tokens(model.id, text, fetch))

    async def count_chat_tokens(self, model: Model, body: Json) -> int | None:
        """Return how many tokens the prompt of a chat request has; None in the same case as `count_tokens`."""
        return await self._first_count(model, lambda fetch: model.dialect.count_chat_tokens(model.id, body, fetch))

    def backends_of_set(self, model: str, example_set: str) -> list[Backend]:
        """Return the backends that list a model, in the order in which an example set prefers them (see Router)."""
        return self._router.backends_of_set(model, example_set)

    async def _first_count(self, model: Model, count: Callable[[Fetch], Awaitable[int | None]]) -> int | None:
        for backend in self._router.rank(model.id):
            try:
                return await count(Fetcher(self._transport, backend))
            except ProxyError:
                continue
        return None

    @asynccontextmanager
    async def send(
        self, model: str, path: str, body: bytes, headers: Mapping[str, str], affinity: Affinity = NO_AFFINITY
    ) -> AsyncIterator[BackendResponse]:
        """POST to a backend that serves a model, and yield its reply after the headers are received.

        If no connection to a backend can be opened, the next backend is tried. If a backend answers 503, one other
        backend is tried, if there is one and if not too many retries are running. If the `with` block ends before the
        reply was read to its end, the connection is closed, so that the backend stops generating.

        Args:
            model: The id of the model.
            path: The path below the root URL.
            body: The body of the request.
            headers: The headers of the request.
            affinity: The example set and the conversation of the request. Requests with the same set go to the same
                backend. So do requests without a set that have the same conversation. In both cases, another backend is
                tried first while that backend is not available or has too much load. A backend may itself be a router
                that chooses a server by the header _SESSION_HEADER. So the value of this header identifies the set or
                the conversation.

        Raises:
            UnknownModelError: No backend lists the model.
            BackendUnavailableError: No backend could be reached, or a backend closed the connection before it answered.
            BackendTimeoutError: The backend did not answer in time.
            BackendProtocolError: The reply is not valid HTTP, or is a redirect, an upgrade or compressed.
        """
        untried = self._router.rank(model, affinity)
        if session := self._router.session(model, affinity):
            headers = {**headers, _SESSION_HEADER: session}
        failure: ProxyError | None = None
        retried = False
        with self._budget.requests:
            while untried:
                backend = untried.pop(0)
                with backend.in_flight, self._budget.retries if retried else nullcontext():
                    try:
                        response = await self._exchange(backend, backend.request("POST", path, body, headers))
                    except NoConnectionError as error:
                        backend.record_check(str(error), answering=False)
                        failure = error.client_error
                        continue
                    if response.status == _UNAVAILABLE and untried and not retried and self._budget.has_room:
                        self._metrics.retries.labels("backend said 503").inc()
                        response.close()
                        retried = True
                        continue
                    body = b""  # free the memory of the body, because a long answer may take minutes
                    try:
                        yield response
                        self._record_end(backend, response)
                    except ProxyError as error:
                        self._record_error(backend, error)
                        raise
                    finally:
                        response.close()
                    return
        raise failure or unlisted_model(self.backends, model, f"No backend lists {model!r}.")

    async def _exchange(self, backend: Backend, request: BackendRequest) -> BackendResponse:
        """Send one request to one backend.

        A ProxyError, or a status in _GATEWAY_ERRORS, is recorded as a failure. A NoConnectionError is not recorded.
        """
        try:
            response = await self._transport.exchange(request)
        except ProxyError:
            self._record_failure(backend)
            raise
        if response.status in _GATEWAY_ERRORS:
            self._record_failure(backend)
        return response

    def _record_end(self, backend: Backend, response: BackendResponse) -> None:
        """Record whether the backend completed its reply. If the client disconnects, this is not called."""
        if not (response.fully_read or response.answered):
            self._record_failure(backend)
        elif response.status not in _GATEWAY_ERRORS:
            backend.health.record_success()

    def _record_error(self, backend: Backend, error: ProxyError) -> None:
        """Record an error as a failure, except a BackendReportedError: like a 500, it may be the request's fault."""
        if not isinstance(error, BackendReportedError):
            self._record_failure(backend)

    def _record_failure(self, backend: Backend) -> None:
        if backend.health.record_failure():
            self._metrics.ejections.labels(backend.url).inc()
            log_event("backend ejected", url=backend.url)

    async def _check_repeatedly(self, backend: Backend) -> None:
        """Check one backend at each interval, and as soon as the kind of a model is known.

        Each backend has its own task, so a slow backend does not delay the checks of the others.
        """
        while True:
            await backend.judge.wait(self._settings.health_interval)
            await self._check(backend)

    async def _check(self, backend: Backend) -> None:
        known = backend.models if backend.healthy else {}
        before = backend.healthy, backend.problem
        try:
            listing = await discover(Fetcher(self._transport, backend), self._kind_decider(backend), known)
            _log_decisions(backend.models, listing.models)
            backend.models, backend.undecided = listing.models, listing.undecided
            backend.record_check(listing.problem, answering=bool(listing.models) or not listing.undecided)
        except ProxyError as error:
            backend.undecided = ()
            backend.record_check(str(error), answering=False)
            backend.judge.forget()
        if (backend.healthy, backend.problem) != before:
            trouble = backend.problem or None
            log_event("backend", url=backend.url, healthy=backend.healthy, trouble=trouble, models=len(backend.models))
        self._metrics.backend_up.labels(backend.url).set(backend.healthy)
        self._next_check.set()
        self._next_check = asyncio.Event()

    def _kind_decider(self, backend: Backend) -> KindDecider:
        """Return a function that decides the kind of a model, and waits for answers at most _KINDS_PATIENCE seconds."""
        deadline = asyncio.get_running_loop().time() + _KINDS_PATIENCE
        given = self._settings.kinds

        async def decide(card: Mapping[str, Any], dialect: Dialect, facts: ModelFacts) -> Decision:
            name = str(card["id"])
            if kind := given.get(name):
                return Decision(kind, "--kind says so")
            if kind := backend.kinds.get(name):
                return Decision(kind, "the model file has no chat template")
            if facts.kind == "completion":
                return Decision("completion", "the server has no chat template for it")
            ask = partial(probe, name, dialect, Fetcher(self._transport, backend, _ANSWER_TIMEOUT), facts.kind)
            identity = (backend.url, name, *fingerprint(card))
            return await backend.judge.decide(identity, facts.kind, ask, deadline, self._shared)

        return decide


def _log_decisions(before: Mapping[str, Model], now: Mapping[str, Model]) -> None:
    """Log the kind of each model that is new, or whose kind was decided again."""
    for name, model in now.items():
        decision = model.decision
        if name not in before or before[name].decision != decision:
            doubt = decision.doubt or None
            log_event("model kind", model=name, kind=model.kind, evidence=decision.evidence, doubt=doubt)
