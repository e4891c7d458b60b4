"""Runs one measurement: loads the bundles, serves each arm in this process, and asks the questions.

The questions go through the same HTTP interface, planner and pool as the requests of a user of the server.
"""

import asyncio
import shlex
import signal
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Final
from uuid import uuid4

from rich.console import Console

from index.bundle.shipped import DEFAULT_BUNDLE
from index.counted import counted
from proxy.api.app import listening, open_gateway
from proxy.api.gateway import Gateway, ServingState
from proxy.api.sockets import base_url, bind
from proxy.backends.discovery import Model
from proxy.backends.embedded.model_file import with_embedded_model
from proxy.backends.opening import open_backends, wait_for_kinds
from proxy.backends.pool import Pool
from proxy.core.errors import StartupError
from proxy.core.settings import (
    AdmissionSettings,
    ApiSettings,
    ExperimentSettings,
    ServerSettings,
    Settings,
)
from proxy.core.shared_state import LocalState
from proxy.fit.arms import (
    BASELINE_NAMES,
    Arm,
    Arms,
    choose_model,
    load_for_model,
    make_arms,
    models_of,
)
from proxy.fit.client import PAUSES, Client
from proxy.fit.progress import showing_progress
from proxy.fit.questions import Question
from proxy.fit.report import FitResult
from proxy.fit.run import Outcomes, ask_all
from proxy.inference.injection.bundle_flags import parse_bundle_flag
from proxy.inference.injection.model_bundles import ModelBundles, named_bundles

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class FitOptions:
    """What to ask, and what to compare with.

    Attributes:
        questions: The questions, in the order in which they are asked.
        concurrency: The maximum number of requests at the same time.
        baseline: `raw`, `raw-matched`, or the argument of a bundle.
        pauses: Seconds before each further attempt to ask a question that a server failed to answer.
        backend_flags: The flags of the backends as the user gave them, for a command that an error names.
    """

    questions: tuple[Question, ...]
    concurrency: int
    baseline: str
    pauses: Sequence[float] = PAUSES
    backend_flags: tuple[str, ...] = ()


async def measure_fit(settings: Settings, options: FitOptions, messages: Console) -> FitResult:
    """Load the bundles, open the backends, ask the questions, and return the result.

    After SIGINT or SIGTERM, no further question is asked, and the result so far is returned.

    Raises:
        StartupError: No backend serves a model, the model to measure is not clear, or a part cannot start.
        BundleError: A bundle cannot be loaded.
        EmbedderError: An embedder cannot be used.
    """

    def report(text: str) -> None:
        messages.print(f"... {text}", style="dim", markup=False)

    settings = await asyncio.to_thread(with_embedded_model, _for_fit(settings))
    injection = settings.injection
    flags = tuple(map(parse_bundle_flag, (*_baseline_argument(options), *injection.bundle)))
    made_for = await asyncio.to_thread(models_of, flags, injection)
    async with (
        open_backends(settings.backends, report) as backends,
        open_gateway(settings, backends, ServingState(ModelBundles()), LocalState()) as gateway,
        AsyncExitStack() as stack,
    ):
        await wait_for_kinds(gateway.pool, report)
        _refuse_silent_backends(gateway.pool, options.backend_flags)
        model = gateway.pool.models[choose_model(flags, made_for, gateway.pool.models)]
        with messages.status("Loading bundles"):
            loaded = await asyncio.to_thread(load_for_model, flags, model, injection)
        others = len(_baseline_argument(options))
        arms = make_arms(loaded[others:], options.baseline, loaded[0] if others else None)
        served = [(model.id, arm.served) for arm in arms.all if arm.served is not None]
        await gateway.warm_up(served, lambda _: None)
        urls = {arm.name: await stack.enter_async_context(_serving(gateway, arm, model, settings)) for arm in arms.all}
        return await _ask(model, arms, urls, options, messages)


def _for_fit(settings: Settings) -> Settings:
    """Return the settings without those that matter only to a server: keys of clients, limits, experiments, ports."""
    bundles = settings.injection.bundle or (DEFAULT_BUNDLE,)
    return replace(
        settings,
        injection=replace(settings.injection, bundle=bundles),
        server=ServerSettings(port=0),
        api=ApiSettings(),
        admission=AdmissionSettings(),
        experiments=ExperimentSettings(),
    )


def _baseline_argument(options: FitOptions) -> tuple[str, ...]:
    """Return the argument of the baseline bundle; empty if the baseline is `raw` or `raw-matched`."""
    return () if options.baseline in BASELINE_NAMES else (options.baseline,)


def _refuse_silent_backends(pool: Pool, given: Sequence[str]) -> None:
    """Raise StartupError if no backend lists a model. The message names the problem of each backend.

    Args:
        pool: The backends.
        given: The flags of the backends as the user gave them.
    """
    if not pool.models:
        problems = " ".join(f"{one.url}: {one.problem.rstrip('.')}." for one in pool.backends)
        command = shlex.join(["drpo-proxy", "check", *given])
        raise StartupError(f"There is no model to measure. {problems} Run `{command}` to try again.")


@asynccontextmanager
async def _serving(gateway: Gateway, arm: Arm, model: Model, settings: Settings) -> AsyncIterator[str]:
    """Serve an arm on a free port, as the server does, and yield its base URL. The arms share backends and caches."""
    bundles = ModelBundles() if arm.served is None else named_bundles({model.id: arm.served})
    with bind(settings.server) as listener:
        async with listening(replace(gateway, state=ServingState(bundles)), listener, settings):
            yield base_url(settings.server.host, listener.getsockname()[1])


async def _ask(model: Model, arms: Arms, urls: Mapping[str, str], options: FitOptions, messages: Console) -> FitResult:
    outcomes, started = Outcomes(options.questions, arms.all), perf_counter()
    salts = {arm.name: uuid4().hex for arm in arms.all} if model.dialect.takes_cache_salt else {}
    names = ", ".join(arm.name for arm in arms.all)
    questions = counted(len(options.questions), "question")
    messages.print(f"{model.id}: {questions} in {len(arms.all)} arms ({names}).", markup=False)
    async with Client.open(urls, model.id, salts, options.pauses) as client:
        with showing_progress(messages) as report, _cancelled_by_signals() as received:
            asking = asyncio.create_task(ask_all(outcomes, client.ask, options.concurrency, report))
            received.task = asking
            await asyncio.wait([asking])
            if not asking.cancelled():
                asking.result()
    seconds = perf_counter() - started
    return FitResult(
        model.id, model.kind, model.dialect.name, arms, outcomes, options.concurrency, seconds, received.number
    )


@dataclass(slots=True)
class _ReceivedSignal:
    """The first signal that ended the run, and the task that it cancels."""

    task: "asyncio.Task[None] | None" = None
    number: int | None = None

    def receive(self, number: int) -> None:
        """Cancel the task. The caller then shows the result so far."""
        self.number = self.number or number
        if self.task is not None:
            self.task.cancel()


@contextmanager
def _cancelled_by_signals() -> Iterator[_ReceivedSignal]:
    received, loop = _ReceivedSignal(), asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, received.receive, number)
    try:
        yield received
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
