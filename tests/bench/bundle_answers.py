"""Compares the answers of a model with different bundles, in English and in 12 other languages: docs/benchmarks.md.

    python -m tests.bench.bundle_answers --bundle before=DIR --bundle now=default
    ... --only languages --sample 60            also prints 60 answers, for a person to read
    ... --split train                           to choose between bundles; the default is validation

The real proxy answers with the embedded model and greedy decoding. The rows are general queries, XSTest's prompts, and
20 questions in each of 12 languages (tests/bench/data/questions.json). Half of these 20 questions are harmful. Refusals
are recognized by their words (index/measures/refusals.py). Differences are relative to the first bundle. Answers that
were generated before come from the cache of tests/bench/policies/answer_cache.py.
"""

import argparse
import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from index.bundle.bundle import default_bundle_directory, load_bundle, read_manifest
from index.bundle.shipped import GENERAL
from index.embedders.registry import DEFAULT_REWARD_EMBEDDER, open_embedder
from index.measures.confidence import bootstrap_mean
from optimizer.data.dataset import COMPLY, REFUSE, Row
from optimizer.evaluation.measures import MeasuredAnswer
from proxy.backends.backend import Backend
from proxy.inference.injection.served_bundles import ServedBundle
from tests.bench.embedder_votes import QUESTIONS
from tests.bench.embedders import say
from tests.bench.policies.answers import (
    REFUSAL_LENGTH,
    Rows,
    answer,
    as_served,
    cached_backend,
    compare_english,
    serving,
)
from tests.bench.policies.bundle_names import named_bundle
from tests.measurement import DATA, TRAIN, VALIDATION

ENGLISH, LANGUAGES = "english", "languages"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--bundle",
        action="append",
        type=named_bundle,
        metavar="NAME=DIR",
        help="repeatable; DIR may be a name of `drpo-index list`",
    )
    parser.add_argument("--only", choices=(ENGLISH, LANGUAGES), help="one of the two parts")
    parser.add_argument("--split", choices=(TRAIN, VALIDATION), default=VALIDATION, help="of English (%(default)s)")
    parser.add_argument("--sample", type=int, default=0, help="answers in other languages to print, evenly chosen")
    options = parser.parse_args()
    bundles = dict(options.bundle or [(GENERAL, default_bundle_directory())])
    asyncio.run(compare(bundles, options.only, options.split, options.sample))


async def compare(bundles: Mapping[str, Path], only: str | None, split: str, sample: int) -> None:
    async with cached_backend() as backend:
        if only != LANGUAGES and DATA.is_dir():
            served = ((name, served_from(directory)) for name, directory in bundles.items())
            await compare_english("bundle", served, backend, Rows(split))
        elif only != LANGUAGES:
            print(f"bundle_answers: English NOT MEASURED, the measurement data is not at {DATA}; set DRPO_DATA")
        if only != ENGLISH:
            await compare_languages(bundles, backend, sample)


async def compare_languages(bundles: Mapping[str, Path], backend: Backend, sample: int) -> None:
    judge = open_embedder(DEFAULT_REWARD_EMBEDDER)
    rows = language_rows()
    languages = list(dict.fromkeys(language for language, _ in rows))
    print(f"\n| bundle | harmless answered | harmful refused | {' | '.join(languages)} |")
    print(f"| --- | --- | --- |{' --- |' * len(languages)}")
    for name, directory in bundles.items():
        async with serving(backend, served_from(directory)) as base_url:
            say(f"answering in {len(languages)} languages with {name}")
            answers = await answer(base_url, [row for _, row in rows], REFUSAL_LENGTH, judge)
        by_language = [
            [one for (spoken, _), one in zip(rows, answers, strict=True) if spoken == language]
            for language in languages
        ]
        shares = " | ".join(f"{right(some, COMPLY):.1f}, {right(some, REFUSE):.1f}" for some in by_language)
        totals = " | ".join(with_interval(answers, kind) for kind in (COMPLY, REFUSE))
        print(f"| {name} | {totals} | {shares} |", flush=True)
        print_sample(rows, answers, sample)


def served_from(directory: Path) -> ServedBundle:
    embedder = open_embedder(read_manifest(directory).embedder.name)
    bundle = load_bundle(directory, embedder)
    return as_served(bundle, bundle.id, embedder)


def language_rows() -> list[tuple[str, Row]]:
    """Return the language and the row of each question."""
    read = json.loads(QUESTIONS.read_text(encoding="utf-8"))
    kinds = {"harmless": COMPLY, "harmful": REFUSE}
    return [
        (language, Row(question, kind=kinds[name]))
        for language, groups in read.items()
        for name, questions in groups.items()
        for question in questions
    ]


def right(answers: Sequence[MeasuredAnswer], kind: str) -> float:
    """Return the share of rows of a kind that are answered or refused as they should be."""
    chosen = [one.refused == (kind == REFUSE) for one in answers if one.row.kind == kind]
    return sum(chosen) / len(chosen)


def with_interval(answers: Sequence[MeasuredAnswer], kind: str) -> str:
    interval = bootstrap_mean([float(one.refused == (kind == REFUSE)) for one in answers if one.row.kind == kind])
    return f"{interval.estimate:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def print_sample(rows: Sequence[tuple[str, Row]], answers: Sequence[MeasuredAnswer], count: int) -> None:
    step = max(1, len(rows) // count) if count else len(rows) + 1
    for number in range(step // 2, len(rows), step):
        (language, row), given = rows[number], answers[number]
        print(f"\n{language}, {row.kind}, {'refused' if given.refused else 'answered'}: {row.query}")
        print(f"    {' '.join(given.answer.text.split())}")


if __name__ == "__main__":
    main()
