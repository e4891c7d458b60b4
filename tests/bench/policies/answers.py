"""Compares bundles by the answers of the real proxy to measurement rows. All benches `*_answers` use this module.

The proxy answers with greedy decoding, with the embedded model or a chat model in a file. Answers that were generated
before come from the cache of answer_cache.py.
"""

import hashlib
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from index.embedders.base import Embedder
from index.embedders.registry import DEFAULT_REWARD_EMBEDDER, open_embedder
from index.layouts import LAYOUTS
from index.measures.confidence import Interval, bootstrap_mean
from index.retrieval.retriever import Retriever, pinned
from index.types import Bundle
from optimizer.data.dataset import Row
from optimizer.evaluation.answers_file import AnswersFile
from optimizer.evaluation.chat_endpoint import ChatEndpoint, Decoding
from optimizer.evaluation.evaluate import EvaluationPlan, answer_all
from optimizer.evaluation.measures import MeasuredAnswer, measure_answers, measures
from optimizer.models.http_client import Endpoint, RetryPolicy
from proxy.api.app import create_app, open_gateway
from proxy.api.gateway import ServingState
from proxy.backends.backend import Backend
from proxy.backends.embedded.model_file import MODEL_NAME
from proxy.backends.embedded.weights import GEMMA
from proxy.backends.opening import open_backends
from proxy.core.settings import InjectionSettings, Settings
from proxy.core.shared_state import LocalState
from proxy.inference.injection.model_bundles import named_bundles
from proxy.inference.injection.retrieval_worker import BundleSearch
from proxy.inference.injection.served_bundles import ServedBundle
from tests.bench.embedders import say
from tests.bench.policies.answer_cache import AnswerCache, caching
from tests.measurement import general_rows, sensitive_rows
from tests.quality.conftest import CONCURRENCY

LENGTH: Final = 256  # tokens of an answer
REFUSAL_LENGTH: Final = 64  # tokens of an answer to a query that sounds unsafe
COLUMNS: Final = (
    "similarity",
    "less the first",
    "refuses general",
    "refuses unsafe",
    "answers safe",
    "balanced accuracy",
)
_SETTINGS: Final = Settings(injection=InjectionSettings(retrieval_timeout=10.0))


@dataclass(frozen=True, slots=True)
class Rows:
    """The measurement rows that are answered.

    Attributes:
        split: Their split.
        part: Which rows of the split are answered.
        with_general: Whether general rows are answered, too, and not only those that sound unsafe.
    """

    split: str
    part: slice = field(default_factory=lambda: slice(None))
    with_general: bool = True

    def general(self) -> tuple[Row, ...]:
        return general_rows(self.split)[self.part] if self.with_general else ()

    def sensitive(self) -> tuple[Row, ...]:
        return sensitive_rows(self.split)[self.part]


@asynccontextmanager
async def cached_backend(model_file: Path | None = None, context: int = 0) -> AsyncIterator[Backend]:
    """Yield the embedded model, or the chat model in a file, with the cache of answers in front of it.

    The chat model has the name of the embedded model, because `serving` and `answer` use this name. In the cache, the
    hash of the weights tells the models apart. `context` is the context length of the chat model in tokens; 0 takes as
    much as the file and the memory allow.
    """
    settings, identity = _SETTINGS.backends, GEMMA.sha256
    if model_file is not None:
        settings = replace(settings, model_file=str(model_file), model_name=MODEL_NAME, context=context)
        with model_file.open("rb") as file:
            identity = hashlib.file_digest(file, "sha256").hexdigest()
    with closing(AnswerCache()) as cache:
        async with open_backends(settings, say) as (backend,), caching(backend, cache, identity) as cached:
            yield Backend(cached.url, cached.api_key, {MODEL_NAME: "chat"}) if model_file else cached
        say(f"{cache.generated} answers generated, {cache.found} from the cache")


def as_served(bundle: Bundle, name: str, embedder: Any) -> ServedBundle:
    """Return the bundle as a proxy serves it. `name` must differ from the names of other served bundles."""
    source = BundleSearch(name, Retriever(bundle), embedder)
    return ServedBundle(bundle, LAYOUTS[bundle.manifest.layout], pinned(bundle), source)


@asynccontextmanager
async def serving(backend: Backend, served: ServedBundle) -> AsyncIterator[str]:
    """Run a proxy that injects from `served`, and yield its base URL."""
    async with open_gateway(
        _SETTINGS, [backend], ServingState(named_bundles({MODEL_NAME: served})), LocalState()
    ) as gateway:
        runner = web.AppRunner(create_app(gateway), handler_cancellation=True, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}/v1"
        await runner.cleanup()


async def answer(
    base_url: str, rows: Sequence[Row], length: int, judge: Embedder, variant: str = "aligned"
) -> Sequence[MeasuredAnswer]:
    """Return the answers of one variant to `rows`, of at most `length` tokens."""
    decoding = Decoding(length)
    plan = EvaluationPlan(MODEL_NAME, decoding, (variant,), tuple(rows))
    async with ChatEndpoint(
        Endpoint(base_url, MODEL_NAME), decoding, CONCURRENCY, RetryPolicy(reply_timeout=600)
    ) as model:
        with AnswersFile(None) as answers:
            found = await answer_all(plan, variant, model, answers, lambda: None, {})
            return measure_answers(rows, [answer for answer in found if answer is not None], judge)


async def compare_english(what: str, bundles: Iterable[tuple[str, ServedBundle]], backend: Backend, rows: Rows) -> None:
    """Print one line of the table per bundle as soon as it is known. `what` names the first column."""
    judge = open_embedder(DEFAULT_REWARD_EMBEDDER)
    general, sensitive = rows.general(), rows.sensitive()
    print(f"{len(general)} general rows, {len(sensitive)} rows that sound unsafe, of {rows.split}\n")
    print(f"| {what} | {' | '.join(COLUMNS)} |\n| --- |{' --- |' * len(COLUMNS)}")
    first: Sequence[MeasuredAnswer] = ()
    for name, served in bundles:
        async with serving(backend, served) as base_url:
            say(f"answering English with {name}")
            answers = await answer(base_url, general, LENGTH, judge) if general else ()
            refusals = await answer(base_url, sensitive, REFUSAL_LENGTH, judge)
        first = first or answers
        print(f"| {name} | {' | '.join(cells(answers, first, refusals))} |", flush=True)


def cells(
    general: Sequence[MeasuredAnswer], first: Sequence[MeasuredAnswer], sensitive: Sequence[MeasuredAnswer]
) -> list[str]:
    """Return the figures of COLUMNS, with their 95 % intervals. Without general rows, their figures are dashes."""
    of_general = measures(general) if general else ()
    found = {line.name: line.interval for line in (*of_general, *measures(sensitive))}
    return [*_similarities(general, first), *(_share(found.get(name)) for name in COLUMNS[2:])]


def _similarities(general: Sequence[MeasuredAnswer], first: Sequence[MeasuredAnswer]) -> list[str]:
    if not general:
        return ["-", "-"]
    here, there = ([one.similarity or 0.0 for one in some] for some in (general, first))
    mean = bootstrap_mean(here)
    lead = bootstrap_mean([one - other for one, other in zip(here, there, strict=True)])
    return [
        f"{mean.estimate:.3f} [{mean.low:.3f}, {mean.high:.3f}]",
        f"{lead.estimate:+.3f} [{lead.low:+.3f}, {lead.high:+.3f}]",
    ]


def _share(interval: Interval | None) -> str:
    return f"{interval.estimate:.2f} [{interval.low:.2f}, {interval.high:.2f}]" if interval else "-"
