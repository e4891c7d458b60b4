"""Everything that a request meets on its way, wired once at the start. It decides nothing by itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from proxy.api.admission import Admission
from proxy.api.auth import Account, Keyring
from proxy.backends.discovery import Model
from proxy.backends.pool import Pool
from proxy.core.metrics import Metrics
from proxy.core.tracing import Telemetry
from proxy.experiments.service import ExperimentService
from proxy.inference.injection.injector import Injector
from proxy.inference.injection.served_bundles import ServedBundle
from proxy.inference.planner import Planner
from proxy.inference.variants import Choice, choose


@dataclass(slots=True)
class Live:
    """What a reload replaces, each at once and whole: the bundles by model, and the keyring (None: anyone may ask)."""

    bundles: Mapping[str, ServedBundle]
    keyring: Keyring | None = None


@dataclass(frozen=True, slots=True)
class Gateway:
    """Everything that a request meets on its way, wired in app."""

    admission: Admission
    pool: Pool
    live: Live
    injector: Injector
    planner: Planner
    metrics: Metrics
    forward_authorization: bool
    log_content: bool
    experiments: ExperimentService | None = None
    telemetry: Telemetry | None = None

    @property
    def bundles(self) -> Mapping[str, ServedBundle]:
        """The bundles by model, as they are now."""
        return self.live.bundles

    def client(self, request: web.Request) -> tuple[str, Account] | None:
        """Who asks: a key's name and account; None where no keys are asked for. Raises UnauthorizedError."""
        keyring = self.live.keyring
        return None if keyring is None else keyring.identify(request.headers.get("Authorization"))

    def choice(self, body: Mapping[str, Any], request: web.Request) -> tuple[Choice, Model]:
        """The model and variant that a body and its headers ask for."""
        models = self.pool.models
        named = self.pool.default_model if body.get("model") in (None, "") else body["model"]
        choice = choose(named, request.headers.get("x-drpo-variant"), models, self.bundles)
        return choice, models[choice.model]
