"""The command `drpo-proxy check`: checks that backends answer, and that a backend lists the model of each bundle."""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from index.version import version_line
from proxy.api.app import open_gateway
from proxy.api.gateway import Gateway, ServingState
from proxy.backends.backend import Backend, is_undecided
from proxy.backends.cache_probe import probe_cache
from proxy.backends.discovery import Model, kind_warning, listed_cards
from proxy.backends.embedded.model_file import with_embedded_model
from proxy.backends.fetcher import Fetcher
from proxy.backends.load_balancing import RetryBudget
from proxy.backends.opening import open_backends, waiting_line
from proxy.core.errors import ProxyError
from proxy.core.key_file import read_key
from proxy.core.progress import ProgressCallback
from proxy.core.settings import ExperimentSettings, Settings
from proxy.core.shared_state import LocalState
from proxy.experiments.config import read_experiments
from proxy.experiments.mismatches import find_mismatches, mismatch_lines
from proxy.experiments.store.dsn import dsn_of
from proxy.inference.injection.bundle_flags import flag_for_listed
from proxy.inference.injection.model_bundles import load_bundles
from proxy.inference.injection.room_report import describe_room, room_problem
from proxy.inference.injection.served_bundles import foreign_bundle_note
from proxy.server.reload import read_keyring

_KINDS_INTERVAL: Final = 1.0  # seconds between two checks
_CACHE_TIMEOUT: Final = 180.0  # seconds for the reply to a prompt that tests the prefix cache
_PLAIN: Final[Mapping[str, Any]] = {"markup": False, "soft_wrap": True, "highlight": False}  # for Console.print


async def check(settings: Settings, report: ProgressCallback, console: Console) -> int:
    """Print the version, a table of the backends, a table of the bundles, and all problems that were found.

    The function opens the backends and the bundles like a server, but it does not listen for requests.

    Args:
        settings: All settings.
        report: Called with a line of text for each step of the embedded model's start.
        console: The console that prints the tables and the problems.

    Returns:
        The exit status: 0 if there are no problems, else 1.

    Raises:
        StartupError: A setting is wrong, or the embedded model does not start.
        BundleError: A bundle cannot be loaded.
        EmbedderError: An embedder cannot be opened.
    """
    console.print(version_line(), **_PLAIN)
    settings = await asyncio.to_thread(with_embedded_model, settings)
    injection, keyring = settings.injection, read_keyring(settings.api, LocalState())
    if settings.experiments.store:
        dsn_of(settings.experiments.store)  # raises StartupError for a wrong address
    bundles = await asyncio.to_thread(load_bundles, injection.bundle, injection.allow_embedder)
    async with (
        open_backends(settings.backends, report) as backends,
        open_gateway(_without_store(settings), backends, ServingState(bundles, keyring), LocalState()) as gateway,
    ):
        await _wait_for_kinds(gateway, report)
        console.print(_backend_table(gateway))
        _print_kinds(gateway, console)
        console.print(_bundle_table(gateway))
        _print_choices(gateway, console)
        for note in filter(None, (foreign_bundle_note(*one) for one in gateway.bundles.items())):
            console.print(f"note: {note}", style="yellow", **_PLAIN)
        await _report_caches(gateway, report, console)
        problems = [
            *_problems(gateway, injection.bundle),
            *await _report_room(gateway, console),
            *await _experiment_problems(settings, gateway),
        ]
    for problem in problems:
        console.print(f"problem: {problem}", style="red", markup=False, soft_wrap=True)
    if not problems:
        console.print("Everything fits.", style="green")
    return 1 if problems else 0


def _without_store(settings: Settings) -> Settings:
    """Return settings that open no store, because opening it would create it, and delete its old rows."""
    return replace(settings, experiments=replace(settings.experiments, store=""))


async def _wait_for_kinds(gateway: Gateway, report: ProgressCallback) -> None:
    """Wait until all models have answered the questions that show their kinds, and check the backends again."""
    start = time.monotonic()
    while gateway.pool.asking:
        report(waiting_line(time.monotonic() - start))
        await asyncio.sleep(_KINDS_INTERVAL)
        await gateway.pool.refresh()


def _print_kinds(gateway: Gateway, console: Console) -> None:
    """Print why each model has its kind, and a warning if the kind is doubtful."""
    for backend in gateway.pool.backends:
        for model in backend.models.values():
            console.print(f"{model.id} is a {model.kind} model: {model.decision.evidence}.", **_PLAIN)
            if warning := kind_warning(model):
                console.print(f"warning: {warning}", style="yellow", **_PLAIN)


def _backend_table(gateway: Gateway) -> Table:
    table = Table("backend", "answers", "model", "kind", "context", "server", title="Backends", title_justify="left")
    for backend in gateway.pool.backends:
        answers = "yes" if backend.healthy else f"no: {backend.problem}"
        if not backend.models:
            table.add_row(backend.url, answers, "", "", "", "")
        for model in backend.models.values():
            table.add_row(
                backend.url, answers, model.id, model.kind, str(model.context or "unknown"), model.dialect.name
            )
    return table


def _bundle_table(gateway: Gateway) -> Table:
    table = Table("model", "bundle", "id", "examples", "layout", "embedder", title="Bundles", title_justify="left")
    for name, served in gateway.bundles.items():
        manifest = served.bundle.manifest
        count = str(len(served.bundle.examples))
        table.add_row(name, manifest.name, served.id, count, manifest.layout, manifest.embedder.name)
    return table


def _print_choices(gateway: Gateway, console: Console) -> None:
    """Print why each listed model has its bundle."""
    for name in gateway.bundles:
        if name in gateway.pool.models:
            console.print(f"{name} gets the bundle {gateway.chosen.describe(name)}.", **_PLAIN)


async def _report_room(gateway: Gateway, console: Console) -> list[str]:
    """Print what reduces the injection of each bundle, and return the problems that were found."""
    problems = []
    for name, served in gateway.bundles.items():
        model = gateway.pool.models.get(name)
        if model is None:
            continue
        costs = await gateway.injector.costs(served, model)
        for sentence in describe_room(served, costs, model):
            console.print(f"{name}: {sentence}.", **_PLAIN)
        if problem := room_problem(served, costs, model):
            problems.append(problem)
    return problems


async def _report_caches(gateway: Gateway, report: ProgressCallback, console: Console) -> None:
    """Print for each backend whether its prefix cache works, and a warning if it does nothing."""
    for backend in gateway.pool.backends:
        for model in _models_to_try(gateway, backend):
            finding = await probe_cache(model, gateway.pool.fetcher(backend, _CACHE_TIMEOUT), report)
            which = f"the prefix cache of {backend.url} for {model.id}"
            if finding.works:
                console.print(f"{which} works: {finding.evidence}.", **_PLAIN)
            elif finding.works is None:
                console.print(f"it is not known whether {which} works: {finding.evidence}.", **_PLAIN)
            else:
                advice = f"each request computes its prompt and examples anew. {model.dialect.cache_advice}"
                text = f"warning: {which} does nothing: {finding.evidence}. So {advice}."
                console.print(text, style="yellow", **_PLAIN)


def _models_to_try(gateway: Gateway, backend: Backend) -> Sequence[Model]:
    """Return the models of a backend that have a bundle. If there are none, return its first model.

    The cache is useful even without a bundle, because it holds the earlier turns of conversations.
    """
    models = list(backend.models.values()) if backend.healthy else []
    return [model for model in models if model.id in gateway.bundles] or models[:1]


async def _experiment_problems(settings: Settings, gateway: Gateway) -> list[str]:
    files = read_experiments(settings.experiments.experiment)
    server, problems = replace(gateway.experiment_server, judges=bool(settings.experiments.judge)), list[str]()
    if settings.experiments.judge:
        try:
            server = replace(server, judge_models=await _list_judge_models(settings.experiments, gateway))
        except ProxyError as error:
            problems.append(f"--judge {settings.experiments.judge}: {error}")
    return problems + mismatch_lines(find_mismatches(files, server, time.time()))


async def _list_judge_models(settings: ExperimentSettings, gateway: Gateway) -> list[str] | None:
    """Return the names of the models that the server of the shadow judge lists; None if it has no list of models."""
    judge = Backend(settings.judge, read_key(settings.judge_api_key_file, "--judge-api-key-file"))
    transport = gateway.pool.open_transport(RetryBudget())
    try:
        _, listing = await Fetcher(transport, judge)("/v1/models")
    finally:
        await transport.close()
    cards = listed_cards(listing)
    return None if cards is None else [card["id"] for card in cards]


def _problems(gateway: Gateway, flags: Sequence[str]) -> Iterator[str]:
    """Yield the problems of the backends and of the bundles. `flags` are the values of --bundle."""
    for backend in gateway.pool.backends:
        if backend.problem:
            yield f"{backend.url}: {backend.problem}"
    if not gateway.pool.models:
        return  # no model is listed yet, so it is not known whether the bundles fit
    for name, served in gateway.bundles.items():
        if name not in gateway.pool.models and not is_undecided(gateway.pool.backends, name):
            listed = sorted(gateway.pool.models)
            yield (
                f"the bundle {served.bundle.manifest.name} is for {name}, which no backend lists (listed: "
                f"{', '.join(listed)}). To serve it for a listed model, give {flag_for_listed(flags, name, listed)}"
            )
