"""One model server: its URL, its key, its models and its health. The module sends no requests."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from index.model_names import plain_name
from proxy.backends.discovery import Model
from proxy.backends.kinds.judge import KindJudge
from proxy.backends.load_balancing import BackendHealth, BackendLoad, InFlightCounter
from proxy.backends.transport import BackendRequest
from proxy.core.errors import BackendNotReadyError, ProxyError, UnknownModelError
from proxy.core.settings import Kind

_UNDECIDED: Final = (
    "It is not known yet whether the model takes chat or text completions, because it has not answered the proxy's "
    "questions yet. Send the request again later."
)


@dataclass(slots=True, eq=False)
class Backend:
    """One model server and its state.

    Attributes:
        url: The root URL.
        api_key: The key that the proxy sends to the backend; None if the backend needs no key.
        kinds: The kinds of models that the proxy knows without asking the backend, by model id.
        models: The models in the latest list of the backend, by id.
        undecided: The ids of the listed models that cannot be served yet, because their kinds are not known.
        healthy: Whether the backend answered the last health check, and every later connection to it could be opened.
        problem: Why the backend is not healthy, or what the operator must do; empty if nothing is wrong.
        in_flight: Counts the requests that the backend is serving for this process.
        takes_client_keys: Whether the proxy may forward a client's key to the backend.
        recoveries: How often the backend began to answer: for the first time, and after each outage.
        health: The results of health checks and requests, which load balancing depends on.
        judge: Decides the kinds of the models.
    """

    url: str
    api_key: str | None = field(default=None, repr=False)
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    models: Mapping[str, Model] = field(default_factory=dict)
    undecided: Sequence[str] = ()
    healthy: bool = False
    problem: str = "not asked yet"
    in_flight: InFlightCounter = field(default_factory=InFlightCounter, repr=False)
    takes_client_keys: bool = True
    recoveries: int = 0
    health: BackendHealth = field(default_factory=lambda: BackendHealth(time.monotonic), repr=False)
    judge: KindJudge = field(default_factory=KindJudge, repr=False)

    def record_check(self, problem: str = "", *, answering: bool) -> None:
        """Record whether the backend answers. `problem` describes what is wrong; it is empty if nothing is wrong."""
        self.recoveries += answering and not self.healthy
        self.healthy, self.problem = answering, problem
        self.health.record_check(answering=answering)

    def request(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> BackendRequest:
        """Return a request to this backend. If `takes_client_keys`, a client's key in `headers` replaces `api_key`."""
        key = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        merged = {**key, **headers} if self.takes_client_keys else {**headers, **key}
        return BackendRequest(method, self.url, path, body, merged)

    @property
    def load(self) -> BackendLoad:
        """The state of the backend that load balancing depends on."""
        return BackendLoad(self.url, self.health.available, self.health.weight, self.in_flight.value)


def is_undecided(backends: Sequence[Backend], named: object) -> bool:
    """Return whether a request must wait, because the kind of its model is not known yet.

    Args:
        backends: All backends.
        named: The field `model` of the request. If it is missing or empty, any model may be the default model.
    """
    undecided = [name for backend in backends for name in backend.undecided]
    if not undecided or not named:
        return bool(undecided)
    return isinstance(named, str) and plain_name(named, undecided) in undecided


def unlisted_model(backends: Sequence[Backend], named: object, message: str) -> ProxyError:
    """Return the error for a model that no backend serves.

    The error is temporary in two cases: the kind of the model is not known yet, or a backend that may serve the model
    does not answer or lists no model yet.

    Args:
        backends: All backends.
        named: The field `model` of the request, as for `is_undecided`.
        message: The message of the error if it is permanent.
    """
    if is_undecided(backends, named):
        return BackendNotReadyError(_UNDECIDED, param="model")
    missing = sum(not ((backend.healthy and backend.models) or backend.undecided) for backend in backends)
    if not missing:
        return UnknownModelError(message, param="model")
    who = "The backend does not answer or is"
    if len(backends) > 1:
        who = f"No backend lists this model, and {missing} of {len(backends)} backends do not answer or are"
    return BackendNotReadyError(f"{who} still loading. Send the request again later.", param="model")
