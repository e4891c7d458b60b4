"""Measures refusals and the similarity of answers to GPT-4's under each policy for examples: table of docs/bundles.md.

    python -m tests.bench.policy_answers                 the 3 nearest examples, and the bundle's own sets
    ... --policy "3 nearest" --policy "1 nearest"        other policies: tests/bench/policies/spec.py
    ... --policy "12 sets of 384 and 2 nearest within 96 floor 0.3" --tokenizer tokenizer.json
    ... --half first                                     every second row, for a choice; `second` confirms it
    ... --model-file FILE.gguf --refusals                a chat model, and only the queries that sound unsafe
    ... --split validation                               for a choice between finished candidates

The real proxy answers with the embedded model and with the bundle's prompt, pinned examples and settings, greedy. The
first policy is the baseline of the differences. A policy is chosen by these figures, so the rows are training rows:
general queries of references.jsonl, and XSTest's prompts. One policy and one half take 6 minutes on two cores; with a
chat model of 1.5 billion parameters, the queries that sound unsafe take 5 minutes. Answers that were generated before
come from the cache of tests/bench/policies/answer_cache.py.
"""

import argparse
import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from index.bundle.bundle import default_bundle_directory, load_bundle, read_manifest
from index.embedders.registry import DEFAULT_REWARD_EMBEDDER, open_embedder
from index.measures.confidence import Interval, bootstrap_mean
from optimizer.data.dataset import Row
from optimizer.evaluation.measures import MeasuredAnswer, measures
from proxy.backends.backend import Backend
from proxy.backends.embedded.child_process import MODEL_NAME
from proxy.backends.embedded.weights import GEMMA
from proxy.core.settings import InjectionSettings, Settings
from proxy.inference.injection.served_bundles import ServedBundle
from proxy.server.lifecycle import open_backends
from tests.bench.embedder_answers import LENGTH, REFUSAL_LENGTH, answer, as_served, serving
from tests.bench.embedders import say
from tests.bench.policies.answer_cache import AnswerCache, caching
from tests.bench.policies.spec import PolicySpec, parse_policy, with_policy
from tests.measurement import DATA, TRAIN, VALIDATION, general_rows, sensitive_rows

POLICIES: Final = ("3 nearest", "own")
HALVES: Final[Mapping[str, slice]] = {"first": slice(0, None, 2), "second": slice(1, None, 2), "both": slice(None)}
COLUMNS: Final = (
    "similarity",
    "less the first",
    "refuses general",
    "refuses unsafe",
    "answers safe",
    "balanced accuracy",
)
SETTINGS: Final = Settings(injection=InjectionSettings(retrieval_timeout=10.0))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--bundle", type=Path, default=default_bundle_directory(), help="a bundle other than the default"
    )
    parser.add_argument(
        "--policy",
        action="append",
        type=parse_policy,
        metavar="POLICY",
        help="as in tests/bench/policies/spec.py; repeatable; the first is the baseline",
    )
    parser.add_argument("--half", choices=HALVES, default="both", help="of the rows (%(default)s)")
    parser.add_argument("--tokenizer", type=Path, help="the model's tokenizer.json, if a policy makes sets")
    parser.add_argument("--split", choices=(TRAIN, VALIDATION), default=TRAIN, help="of the rows (%(default)s)")
    parser.add_argument("--refusals", action="store_true", help="leave out the general queries")
    parser.add_argument("--model-file", type=Path, metavar="GGUF", help="a chat model in place of the embedded model")
    options = parser.parse_args()
    if not DATA.is_dir():
        print(f"policy_answers: NOT MEASURED, the measurement data is not at {DATA}; set DRPO_DATA to its folder")
        return
    policies = options.policy or [parse_policy(text) for text in POLICIES]
    bundles = under_policies(options.bundle, policies, options.tokenizer)
    asyncio.run(compare(bundles, Rows(options.split, HALVES[options.half], not options.refusals), options.model_file))


def under_policies(
    directory: Path, policies: Sequence[PolicySpec], tokenizer: Path | None
) -> Iterable[tuple[str, ServedBundle]]:
    """Yield the bundle under each policy, with the name of the policy."""
    embedder = open_embedder(read_manifest(directory).embedder.name)
    bundle = load_bundle(directory, embedder)
    for spec in policies:
        yield spec.name, as_served(with_policy(bundle, spec, tokenizer), f"{spec.name} {bundle.id}", embedder)


@dataclass(frozen=True, slots=True)
class Rows:
    """The measurement rows that are answered.

    Attributes:
        split: Their split.
        part: Which of them.
        with_general: Whether general rows are answered, too, and not only those that sound unsafe.
    """

    split: str
    part: slice = field(default_factory=lambda: slice(None))
    with_general: bool = True

    def general(self) -> tuple[Row, ...]:
        return general_rows(self.split)[self.part] if self.with_general else ()

    def sensitive(self) -> tuple[Row, ...]:
        return sensitive_rows(self.split)[self.part]


async def compare(bundles: Iterable[tuple[str, ServedBundle]], rows: Rows, model_file: Path | None) -> None:
    async with cached_backend(model_file) as backend:
        await compare_english("policy", bundles, backend, rows)


@asynccontextmanager
async def cached_backend(model_file: Path | None = None) -> AsyncIterator[Backend]:
    """Yield the embedded model, or the chat model in a file, with the cache of answers in front of it."""
    settings = SETTINGS.backends
    identity = GEMMA.sha256
    if model_file is not None:
        settings = replace(settings, model_file=str(model_file), model_name=MODEL_NAME)
        with model_file.open("rb") as file:
            identity = hashlib.file_digest(file, "sha256").hexdigest()
    with closing(AnswerCache()) as cache:
        async with open_backends(settings, say) as (backend,), caching(backend, cache, identity) as cached:
            yield Backend(cached.url, cached.api_key, {MODEL_NAME: "chat"}) if model_file else cached
        say(f"{cache.generated} answers generated, {cache.found} from the cache")


async def compare_english(what: str, bundles: Iterable[tuple[str, ServedBundle]], backend: Backend, rows: Rows) -> None:
    """Print one line of the table per bundle as soon as it is known. `what` names the first column."""
    judge = open_embedder(DEFAULT_REWARD_EMBEDDER)
    general, sensitive = rows.general(), rows.sensitive()
    print(f"{len(general)} general rows, {len(sensitive)} rows that sound unsafe, of {rows.split}\n")
    print(f"| {what} | {' | '.join(COLUMNS)} |\n| --- |{' --- |' * len(COLUMNS)}")
    first: Sequence[MeasuredAnswer] = ()
    for name, served in bundles:
        async with serving(SETTINGS, [backend], served) as base_url:
            say(f"answering English with {name}")
            answers = await answer(base_url, general, LENGTH, judge) if general else ()
            refusals = await answer(base_url, sensitive, REFUSAL_LENGTH, judge)
        first = first or answers
        print(f"| {name} | {' | '.join(cells(answers, first, refusals))} |", flush=True)


def cells(
    general: Sequence[MeasuredAnswer], first: Sequence[MeasuredAnswer], sensitive: Sequence[MeasuredAnswer]
) -> list[str]:
    """The figures of COLUMNS, with their 95 % intervals. A figure of general rows is a dash if there are none."""
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


if __name__ == "__main__":
    main()
