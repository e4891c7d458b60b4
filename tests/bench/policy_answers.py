"""Measures refusals and the similarity to GPT-4's answers under each retrieval policy: docs/benchmarks.md.

    python -m tests.bench.policy_answers                 the 3 nearest examples, and the bundle's own sets
    ... --policy "3 nearest" --policy "1 nearest"        other policies (tests/bench/policies/spec.py lists them)
    ... --policy "12 sets of 384 and 2 nearest within 96 floor 0.3" --tokenizer tokenizer.json
    ... --half first                                     every second row; `second` confirms a choice
    ... --model-file FILE.gguf --refusals                a chat model, and only the queries that sound unsafe
    ... --split validation                               to choose between finished candidates

The real proxy answers with the embedded model, greedy decoding, and the bundle's prompt, pinned examples and settings.
Differences are relative to the first policy. A policy is chosen by these figures, so the default is training rows:
general queries of references.jsonl, and XSTest's prompts. One half of the rows under one policy takes 6 minutes on two
cores. With a chat model of 1.5 billion parameters, the queries that sound unsafe take 5 minutes. Answers that were
generated before come from the cache of tests/bench/policies/answer_cache.py.
"""

import argparse
import asyncio
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from index.bundle.bundle import default_bundle_directory, load_bundle, read_manifest
from index.embedders.registry import open_embedder
from proxy.inference.injection.served_bundles import ServedBundle
from tests.bench.policies.answers import Rows, as_served, cached_backend, compare_english
from tests.bench.policies.bundle_names import bundle_directory
from tests.bench.policies.spec import PolicySpec, parse_policy, with_policy
from tests.measurement import DATA, TRAIN, VALIDATION

POLICIES: Final = ("3 nearest", "own")
HALVES: Final[Mapping[str, slice]] = {"first": slice(0, None, 2), "second": slice(1, None, 2), "both": slice(None)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--bundle", type=bundle_directory, default=default_bundle_directory(), help="a bundle other than the default"
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


async def compare(bundles: Iterable[tuple[str, ServedBundle]], rows: Rows, model_file: Path | None) -> None:
    async with cached_backend(model_file) as backend:
        await compare_english("policy", bundles, backend, rows)


if __name__ == "__main__":
    main()
