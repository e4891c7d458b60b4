"""Defines Gateway, which holds the parts that serve requests. proxy/api/app.py creates one Gateway, at the start.

A Gateway also finds the API key of a request, and the model, the variant and the bundle that serve the request.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from aiohttp import web

from index.model_names import VARIANT_HEADER
from proxy.api.admission import Admission
from proxy.api.auth import Account, Keyring
from proxy.backends.backend import unlisted_model
from proxy.backends.pool import Pool
from proxy.core.errors import BackendNotReadyError, UnknownModelError
from proxy.core.json_types import Json
from proxy.core.metrics import Metrics
from proxy.core.progress import ProgressCallback
from proxy.core.tracing import Telemetry
from proxy.experiments.assignment import ActiveExperiments, bundles_to_warm
from proxy.experiments.mismatches import Server, find_mismatches
from proxy.experiments.service import ExperimentService
from proxy.inference.injection.injector import Injector
from proxy.inference.injection.model_bundles import ChosenBundles, ModelBundles
from proxy.inference.injection.served_bundles import ServedBundle
from proxy.inference.planner import Planner
from proxy.inference.setting import Setting
from proxy.inference.variants import choose


@dataclass(slots=True)
class ServingState:
    """The values that a reload replaces.

    A reload assigns new objects and never changes the old ones. So a request that has read an object can keep using it.

    Attributes:
        bundles: The loaded bundles, and which bundle each model gets.
        keyring: The API keys; None if no keys are required.
        loads: How often the values were loaded: once at the start, and once by each reload.
    """

    bundles: ModelBundles
    keyring: Keyring | None = None
    loads: int = 0


@dataclass(frozen=True, slots=True)
class Gateway:
    """The parts that serve requests.

    Attributes:
        admission: Limits the requests in flight.
        pool: The backends.
        state: The values that a reload replaces.
        injector: Chooses examples.
        planner: Decides what is sent to a backend.
        metrics: The metrics of this process.
        forward_authorization: Whether the client's Authorization header is sent to backends.
        log_content: Whether requests and replies are written to the log.
        experiments: The experiments and the store of feedback; None if the server has no store.
        telemetry: Exports traces; None if traces are not exported.
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
        """The current bundles by model id: those of the listed models, and those that flags name for other models."""
        return self.chosen.bundles

    @property
    def chosen(self) -> ChosenBundles:
        """The current bundles, and for each model the reason why it has its bundle."""
        return self.state.bundles.of(self.pool.models)

    @property
    def active_experiments(self) -> ActiveExperiments | None:
        """The experiments that requests are assigned to; None if there are none."""
        return self.experiments.active if self.experiments else None

    @property
    def bundles_to_warm(self) -> list[tuple[str, ServedBundle]]:
        """The bundles that are prepared in advance, with the ids of their models: current ones, then those of arms."""
        return [*self.bundles.items(), *bundles_to_warm(self.active_experiments)]

    async def warm_up(self, bundles: Iterable[tuple[str, ServedBundle]], report: ProgressCallback) -> None:
        """Count the tokens of each bundle and load its embedder in advance, so that the first request does not wait.

        Args:
            bundles: Pairs of a model's name and a bundle. If no backend lists the model, the pair is skipped.
            report: Called with a line of text for each pair that is not skipped.
        """
        for name, served in bundles:
            model = self.pool.models.get(name)
            if model is not None:
                report(f"Counting the bundle's tokens for {name}")
                await self.injector.warm_up(served, model)

    def experiment_mismatches(self) -> dict[str, list[str]]:
        """For each active experiment, return the settings that have no effect on this server now."""
        active = self.active_experiments
        return find_mismatches(active.files if active else (), self.experiment_server, time.time())

    @property
    def experiment_server(self) -> Server:
        """The names that experiments can refer to. The models are unknown while a backend has a problem."""
        keyring = self.state.keyring
        is_known = not any(backend.problem for backend in self.pool.backends)
        return Server(
            models=tuple(self.pool.models) if is_known else None,
            bundled=tuple(self.bundles),
            keys=tuple(key.name for key in keyring.keys) if keyring else (),
            judges=self.experiments is not None and self.experiments.shadow is not None,
        )

    def client(self, request: web.Request) -> tuple[str, Account] | None:
        """Return the name and the account of the request's API key; None if no keys are required.

        Raises:
            UnauthorizedError: The request has no valid key.
        """
        keyring = self.state.keyring
        return None if keyring is None else keyring.identify(request.headers.get("Authorization"))

    async def setting_when_known(self, body: Json, request: web.Request) -> Setting:
        """Return the result of `setting`. If the kind of the model is not known yet, wait for it first.

        Raises:
            BackendNotReadyError: The kind of the model did not become known in time.
            ProxyError: As for `setting`.
        """
        try:
            return self.setting(body, request)
        except BackendNotReadyError:
            if not await self.pool.wait_for_kind(body.get("model")):
                raise
        return self.setting(body, request)

    def setting(self, body: Json, request: web.Request) -> Setting:
        """Return the model, the variant and the bundle for a request. If `body` names no model, use the default model.

        Raises:
            BadRequestError: The variant cannot be served, or there is no default model.
            UnknownModelError: No backend lists the model.
            BackendNotReadyError: The kind of the model is not known yet. Or no backend lists the model, but a backend
                that does not answer now may have it.
        """
        models, bundles = self.pool.models, self.bundles
        named = self.pool.default_model if body.get("model") in (None, "") else body["model"]
        if named is None and not models:
            raise unlisted_model(self.pool.backends, None, "No backend lists a model.")
        try:
            choice = choose(named, request.headers.get(VARIANT_HEADER), models, bundles)
        except UnknownModelError as error:
            raise unlisted_model(self.pool.backends, named, str(error)) from error
        return Setting(choice, models[choice.model], bundles.get(choice.model))
