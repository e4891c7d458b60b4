"""The parts that serve a request, wired once at the start by proxy/api/app.py. They decide nothing here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from proxy.api.admission import Admission
from proxy.api.auth import Account, Keyring
from proxy.backends.pool import Pool
from proxy.core.json_types import Json
from proxy.core.metrics import Metrics
from proxy.core.tracing import Telemetry
from proxy.experiments.service import ExperimentService
from proxy.inference.injection.injector import Injector
from proxy.inference.injection.served_bundles import ServedBundle
from proxy.inference.planner import Planner
from proxy.inference.setting import Setting
from proxy.inference.variants import choose

VARIANT_HEADER: Final = "x-drpo-variant"


@dataclass(slots=True)
class ServingState:
    """What a reload replaces. Each attribute is replaced whole, so a request sees the old value or the new one.

    Attributes:
        bundles: The bundles by model.
        keyring: The API keys; None if no keys are required.
    """

    bundles: Mapping[str, ServedBundle]
    keyring: Keyring | None = None


@dataclass(frozen=True, slots=True)
class Gateway:
    """The parts that serve a request.

    Attributes:
        admission: Limits the requests in flight.
        pool: The backends.
        state: What a reload replaces.
        injector: Chooses examples.
        planner: Decides what is sent to a backend.
        metrics: The metrics of this process.
        forward_authorization: Whether the client's Authorization header is sent to backends.
        log_content: Whether requests and replies are written to the log.
        experiments: The experiments; None if there is no store for them.
        telemetry: Exports traces; None if none are exported.
    """

    admission: Admission
    pool: Pool
    state: ServingState
    injector: Injector
    planner: Planner
    metrics: Metrics
    forward_authorization: bool
    log_content: bool
    experiments: ExperimentService | None = None
    telemetry: Telemetry | None = None

    @property
    def bundles(self) -> Mapping[str, ServedBundle]:
        """The current bundles by model."""
        return self.state.bundles

    def client(self, request: web.Request) -> tuple[str, Account] | None:
        """The name and the account of the request's API key; None if no keys are required. Raises UnauthorizedError."""
        keyring = self.state.keyring
        return None if keyring is None else keyring.identify(request.headers.get("Authorization"))

    def setting(self, body: Json, request: web.Request) -> Setting:
        """What a request asks for: model, variant and the model's bundle. Raises BadRequestError, UnknownModelError."""
        models, bundles = self.pool.models, self.bundles
        named = self.pool.default_model if body.get("model") in (None, "") else body["model"]
        choice = choose(named, request.headers.get(VARIANT_HEADER), models, bundles)
        return Setting(choice, models[choice.model], bundles.get(choice.model))
