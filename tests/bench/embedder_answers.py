"""Measures refusals and the similarity of answers with each embedder of `embedders`.

    python -m tests.bench.embedder_answers      about 60 minutes on two cores
    ... --only TEXT --refusals                  embedders with TEXT in their name, and queries that sound unsafe

The real proxy answers with the embedded model and with the default bundle's prompt, pinned examples and settings. It
shows the three nearest examples. Only the vectors, and so the retrieved examples, differ between the rows of the table.
Decoding is greedy, on validation rows.
"""

import argparse
import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiohttp import web

from index.bundle.bundle import default_bundle_directory, read_bundle
from index.embedders.base import Embedder
from index.embedders.registry import DEFAULT_REWARD_EMBEDDER, open_embedder
from index.layouts import LAYOUTS
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
from proxy.backends.embedded.child_process import MODEL_NAME
from proxy.core.settings import InjectionSettings, Settings
from proxy.core.shared_state import LocalState
from proxy.inference.injection.retrieval_worker import BundleSearch
from proxy.inference.injection.served_bundles import ServedBundle
from proxy.server.lifecycle import open_backends
from tests.bench.embedders import openers, say
from tests.bench.policies.spec import parse_policy, with_policy
from tests.measurement import DATA, VALIDATION, general_rows, sensitive_rows
from tests.quality.conftest import CONCURRENCY

LENGTH = 256
REFUSAL_LENGTH = 64
COLUMNS = ("similarity to reference, general", "refuses unsafe", "answers safe", "balanced accuracy")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="measure embedders with this in their name")
    parser.add_argument("--refusals", action="store_true", help="leave out the general queries")
    options = parser.parse_args()
    if not DATA.is_dir():
        print(f"embedder_answers: NOT MEASURED, the measurement data is not at {DATA}; set DRPO_DATA to its folder")
        return
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(compare(Path(folder), options.only, options.refusals))


async def compare(folder: Path, only: str, refusals: bool) -> None:
    """Print one line of the table for each embedder as soon as it is measured."""
    bundle = with_policy(read_bundle(default_bundle_directory()), parse_policy("3 nearest"))
    judge = open_embedder(DEFAULT_REWARD_EMBEDDER)
    general, sensitive = () if refusals else general_rows(VALIDATION), sensitive_rows(VALIDATION)
    settings = Settings(injection=InjectionSettings(retrieval_timeout=10.0))
    print(f"{len(general)} general rows, {len(sensitive)} rows that sound unsafe\n")
    print(f"| embedder | {' | '.join(COLUMNS)} |\n| --- |{' --- |' * len(COLUMNS)}")
    async with open_backends(settings.backends, say) as backends:
        for name, open_one in openers(folder).items():
            if only not in name:
                continue
            served = with_vectors_of(bundle, open_one())
            async with serving(settings, backends, served) as base_url:
                say(f"answering with {name}")
                measured = [await answer(base_url, sensitive, REFUSAL_LENGTH, judge)]
                if general:
                    measured.append(await answer(base_url, general, LENGTH, judge))
            print(f"| {name} | {' | '.join(cells(measured))} |", flush=True)


def with_vectors_of(bundle: Bundle, embedder: Any) -> ServedBundle:
    """The bundle with the vectors of another embedder."""
    vectors = embedder.embed([example.query for example in bundle.examples])
    changed = replace(bundle, vectors=vectors)
    return as_served(changed, f"{type(embedder).__name__} {bundle.id}", embedder)


def as_served(bundle: Bundle, name: str, embedder: Any) -> ServedBundle:
    """The bundle as a proxy serves it. `name` identifies its retrieval among those of other bundles."""
    source = BundleSearch(name, Retriever(bundle), embedder)
    return ServedBundle(bundle, LAYOUTS[bundle.manifest.layout], pinned(bundle), source)


@asynccontextmanager
async def serving(settings: Settings, backends: Sequence[Backend], served: ServedBundle) -> AsyncIterator[str]:
    """The base URL of a proxy that injects from `served`."""
    async with open_gateway(settings, backends, ServingState({MODEL_NAME: served}), LocalState()) as gateway:
        runner = web.AppRunner(create_app(gateway), handler_cancellation=True, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}/v1"
        await runner.cleanup()


async def answer(base_url: str, rows: Sequence[Row], length: int, judge: Embedder) -> Sequence[MeasuredAnswer]:
    """The aligned answers to `rows`, of at most `length` tokens."""
    decoding = Decoding(length)
    plan = EvaluationPlan(MODEL_NAME, decoding, ("aligned",), tuple(rows))
    async with ChatEndpoint(
        Endpoint(base_url, MODEL_NAME), decoding, CONCURRENCY, RetryPolicy(reply_timeout=600)
    ) as model:
        with AnswersFile(None) as answers:
            found = await answer_all(plan, "aligned", model, answers, lambda: None, {})
            return measure_answers(rows, [answer for answer in found if answer is not None], judge)


def cells(measured: Sequence[Sequence[MeasuredAnswer]]) -> list[str]:
    """The figures of COLUMNS, each with its 95 % interval, or a dash if it was not measured."""
    found = {line.name: line for scored in measured for line in measures(scored)}
    intervals = [found[column].interval if column in found else None for column in COLUMNS]
    return [f"{one.estimate:.3f} ({one.low:.3f} to {one.high:.3f})" if one else "-" for one in intervals]


if __name__ == "__main__":
    main()
