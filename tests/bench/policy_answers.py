"""Measures refusals and the similarity of answers to GPT-4's under each policy for examples: table of docs/bundles.md.

    python -m tests.bench.policy_answers                 the 3 nearest examples, and the bundle's own sets
    ... --policy "3 nearest" --policy "1 nearest"        other policies: tests/bench/policies/spec.py
    ... --policy "12 sets of 384 and 2 nearest within 96 floor 0.3" --tokenizer tokenizer.json
    ... --half first                                     every second row, for a choice; `second` confirms it

The real proxy answers with the embedded model and with the bundle's prompt, pinned examples and settings, greedy. The
first policy is the baseline of the differences. A policy is chosen by these figures, so the rows are training rows:
general queries of references.jsonl, and XSTest's prompts. One policy and one half take 6 minutes on two cores. Answers
that were generated before come from the cache of tests/bench/policies/answer_cache.py.
"""

import argparse
import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Final

from index.bundle.bundle import default_bundle_directory, load_bundle, read_manifest
from index.embedders.registry import DEFAULT_REWARD_EMBEDDER, open_embedder
from index.measures.confidence import bootstrap_mean
from optimizer.evaluation.measures import MeasuredAnswer, measures
from proxy.backends.backend import Backend
from proxy.backends.embedded.weights import GEMMA
from proxy.core.settings import InjectionSettings, Settings
from proxy.inference.injection.served_bundles import ServedBundle
from proxy.server.lifecycle import open_backends
from tests.bench.embedder_answers import LENGTH, REFUSAL_LENGTH, answer, as_served, serving
from tests.bench.embedders import say
from tests.bench.policies.answer_cache import AnswerCache, caching
from tests.bench.policies.spec import PolicySpec, parse_policy, with_policy
from tests.measurement import DATA, TRAIN, general_rows, sensitive_rows

POLICIES: Final = ("3 nearest", "own")
HALVES: Final[Mapping[str, slice]] = {"first": slice(0, None, 2), "second": slice(1, None, 2), "both": slice(None)}
COLUMNS: Final = ("similarity", "less the first", "refuses general", "refuses unsafe", "answers safe")
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
    options = parser.parse_args()
    if not DATA.is_dir():
        print(f"policy_answers: NOT MEASURED, the measurement data is not at {DATA}; set DRPO_DATA to its folder")
        return
    policies = options.policy or [parse_policy(text) for text in POLICIES]
    bundles = under_policies(options.bundle, policies, options.tokenizer)
    asyncio.run(compare(bundles, HALVES[options.half]))


def under_policies(
    directory: Path, policies: Sequence[PolicySpec], tokenizer: Path | None
) -> Iterable[tuple[str, ServedBundle]]:
    """Yield the bundle under each policy, with the name of the policy."""
    embedder = open_embedder(read_manifest(directory).embedder.name)
    bundle = load_bundle(directory, embedder)
    for spec in policies:
        yield spec.name, as_served(with_policy(bundle, spec, tokenizer), f"{spec.name} {bundle.id}", embedder)


async def compare(bundles: Iterable[tuple[str, ServedBundle]], half: slice) -> None:
    async with cached_backend() as backend:
        await compare_english("policy", bundles, backend, TRAIN, half)


@asynccontextmanager
async def cached_backend() -> AsyncIterator[Backend]:
    """Yield the embedded model, with the cache of answers in front of it."""
    with closing(AnswerCache()) as cache:
        async with open_backends(SETTINGS.backends, say) as (backend,), caching(backend, cache, GEMMA.sha256) as cached:
            yield cached
        say(f"{cache.generated} answers generated, {cache.found} from the cache")


async def compare_english(
    what: str, bundles: Iterable[tuple[str, ServedBundle]], backend: Backend, split: str, part: slice = slice(None)
) -> None:
    """Print one line of the table per bundle as soon as it is known. `what` names the first column."""
    judge = open_embedder(DEFAULT_REWARD_EMBEDDER)
    general, sensitive = general_rows(split)[part], sensitive_rows(split)[part]
    print(f"{len(general)} general rows, {len(sensitive)} rows that sound unsafe, of {split}\n")
    print(f"| {what} | {' | '.join(COLUMNS)} |\n| --- |{' --- |' * len(COLUMNS)}")
    first: Sequence[MeasuredAnswer] = ()
    for name, served in bundles:
        async with serving(SETTINGS, [backend], served) as base_url:
            say(f"answering English with {name}")
            answers = await answer(base_url, general, LENGTH, judge)
            refusals = await answer(base_url, sensitive, REFUSAL_LENGTH, judge)
        first = first or answers
        print(f"| {name} | {' | '.join(cells(answers, first, refusals))} |", flush=True)


def cells(
    general: Sequence[MeasuredAnswer], first: Sequence[MeasuredAnswer], sensitive: Sequence[MeasuredAnswer]
) -> list[str]:
    """The figures of COLUMNS, with their 95 % intervals."""
    here, there = ([one.similarity or 0.0 for one in some] for some in (general, first))
    lead = bootstrap_mean([one - other for one, other in zip(here, there, strict=True)])
    found = {line.name: line.interval for line in (*measures(general), *measures(sensitive))}
    shares = [found[name] for name in COLUMNS[2:]]
    return [
        f"{bootstrap_mean(here).estimate:.3f}",
        f"{lead.estimate:+.3f} [{lead.low:+.3f}, {lead.high:+.3f}]",
        *(f"{share.estimate:.2f} [{share.low:.2f}, {share.high:.2f}]" for share in shares),
    ]


if __name__ == "__main__":
    main()
