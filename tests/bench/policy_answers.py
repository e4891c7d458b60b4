"""Measures refusals and the similarity of answers to GPT-4's under each policy for examples: table of docs/bundles.md.

    python -m tests.bench.policy_answers                 the 3 nearest examples, and the bundle's own sets
    ... --policy "3 nearest" --policy "1 nearest"        other policies
    ... --half first                                     every second row, for a choice; `second` confirms it

The real proxy answers with the embedded model and with the bundle's prompt, pinned examples and settings, greedy. The
first policy is the baseline of the differences. A policy is chosen by these figures, so the rows are training rows:
general queries of references.jsonl, and XSTest's prompts. One policy and one half take 6 minutes on two cores.
"""

import argparse
import asyncio
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from index.bundle.bundle import default_bundle_directory, load_bundle, read_manifest
from index.embedders.registry import DEFAULT_REWARD_EMBEDDER, open_embedder
from index.measures.confidence import bootstrap_mean
from index.types import Bundle
from optimizer.evaluation.measures import MeasuredAnswer, measures
from proxy.core.settings import InjectionSettings, Settings
from proxy.server.lifecycle import open_backends
from tests.bench.embedder_answers import LENGTH, REFUSAL_LENGTH, answer, as_served, serving, showing_nearest
from tests.bench.embedders import say
from tests.measurement import DATA, TRAIN, general_rows, sensitive_rows

SETS: Final = "sets"
POLICIES: Final = ("3 nearest", SETS)
HALVES: Final[Mapping[str, slice]] = {"first": slice(0, None, 2), "second": slice(1, None, 2), "both": slice(None)}
COLUMNS: Final = ("similarity", "less the first", "refuses general", "refuses unsafe", "answers safe")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--bundle", type=Path, default=default_bundle_directory(), help="a bundle other than the default"
    )
    parser.add_argument(
        "--policy",
        action="append",
        type=_policy,
        metavar="'N nearest' or sets",
        help="repeatable; the first is the baseline",
    )
    parser.add_argument("--half", choices=HALVES, default="both", help="of the rows (%(default)s)")
    options = parser.parse_args()
    if not DATA.is_dir():
        print(f"policy_answers: NOT MEASURED, the measurement data is not at {DATA}; set DRPO_DATA to its folder")
        return
    asyncio.run(compare(options.bundle, options.policy or POLICIES, HALVES[options.half]))


async def compare(directory: Path, policies: Sequence[str], half: slice) -> None:
    """One line of the table per policy, printed as soon as it is known."""
    embedder, judge = open_embedder(read_manifest(directory).embedder.name), open_embedder(DEFAULT_REWARD_EMBEDDER)
    bundle = load_bundle(directory, embedder)
    if SETS in policies and not bundle.sets:
        raise SystemExit(f"policy_answers: {directory} is not in sets: see drpo-index sets")
    general, sensitive = general_rows(TRAIN)[half], sensitive_rows(TRAIN)[half]
    print(f"{len(general)} general rows, {len(sensitive)} rows that sound unsafe\n")
    print(f"| policy | {' | '.join(COLUMNS)} |\n| --- |{' --- |' * len(COLUMNS)}")
    first: Sequence[MeasuredAnswer] = ()
    settings = Settings(injection=InjectionSettings(retrieval_timeout=10.0))
    async with open_backends(settings.backends, say) as backends:
        for policy in policies:
            shown = with_policy(bundle, policy)
            served = as_served(shown, f"{policy} {bundle.id}", embedder)
            async with serving(settings, backends, served) as base_url:
                say(f"answering with {policy}")
                answers = await answer(base_url, general, LENGTH, judge)
                refusals = await answer(base_url, sensitive, REFUSAL_LENGTH, judge)
            first = first or answers
            print(f"| {policy} | {' | '.join(cells(answers, first, refusals))} |", flush=True)


def _policy(text: str) -> str:
    if not re.fullmatch(rf"{SETS}|[1-9][0-9]? nearest", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no policy: write {SETS} or '3 nearest'")
    return text


def with_policy(bundle: Bundle, policy: str) -> Bundle:
    """The bundle under a policy: its own sets, or the given number of nearest examples."""
    return bundle if policy == SETS else showing_nearest(bundle, int(policy.split()[0]))


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
