"""Compares a bundle with its rivals by the composite of their answers: tables of docs/learned-bundles.md.

    python -m tests.bench.rivals --bundle learned=DIR --bundle hand-written=hand-written --bundle urial=DIR
    ... --model-file FILE.gguf       a chat model in place of the embedded base model
    ... --kinds comply refuse        fewer rows, to choose between many bundles
    ... --out validation.json        the figures, for `drpo-optimizer ship --figures`
    DRPO_SEALED=1 ... --split sealed

The first bundle is compared with each other bundle and with the model alone (`raw`). All intervals of these differences
together have a confidence level of 95 % (Bonferroni). The real proxy answers the rows of references.jsonl with greedy
decoding and at most 128 tokens, as `drpo-proxy fit` does. Answers that were generated before come from the cache of
tests/bench/policies/answer_cache.py. Choices use training and validation rows. Sealed rows are read once, at the end.
"""

import argparse
import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Final

from index.bundle.bundle import default_bundle_directory, read_bundle
from index.bundle.provenance import Difference, Figures, figures_record, json_bytes
from index.bundle.shipped import GENERAL
from index.embedders.base import Embedder
from index.embedders.registry import DEFAULT_REWARD_EMBEDDER, open_embedder
from index.measures.confidence import Interval
from optimizer.data.dataset import Row
from optimizer.evaluation.measures import MeasuredAnswer
from proxy.backends.backend import Backend
from proxy.backends.embedded.model_file import MODEL_NAME
from tests.bench.bundle_answers import served_from
from tests.bench.embedders import say
from tests.bench.policies.answers import answer, cached_backend, serving
from tests.bench.policies.bundle_names import named_bundle
from tests.bench.policies.composite import KINDS, detectable, difference, measured, parts, similarity_difference
from tests.measurement import DATA, SEALED, TRAIN, VALIDATION, rows_of

RAW: Final = "raw"
LENGTH: Final = 128
SEALED_ROWS: Final[Mapping[str, int]] = {"general": 100, "comply": 31, "refuse": 32}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--bundle", action="append", type=named_bundle, metavar="NAME=DIR", help="repeatable (hand-written)"
    )
    parser.add_argument("--split", choices=(TRAIN, VALIDATION, SEALED), default=VALIDATION, help="(%(default)s)")
    parser.add_argument("--model-file", type=Path, metavar="GGUF", help="a chat model in place of the embedded model")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="of the rows (all)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the figures to a new file, as JSON")
    parser.add_argument("--model", default=MODEL_NAME, metavar="ID", help="name of the model in --out (%(default)s)")
    parser.add_argument("--no-raw", action="store_true", help="do not ask the model alone")
    options = parser.parse_args()
    if options.out and (options.out.exists() or set(options.kinds) != set(KINDS)):
        parser.error("--out needs a new file, and rows of all kinds")
    if not DATA.is_dir():
        print(f"rivals: NOT MEASURED, the measurement data is not at {DATA}; set DRPO_DATA to its folder")
        return
    rows = [row for row in reference_rows(options.split) if row.kind in options.kinds]
    bundles: dict[str, Path | None] = dict(options.bundle or [(GENERAL, default_bundle_directory())])
    if not options.no_raw:
        bundles[RAW] = None
    answers = asyncio.run(_compare(bundles, rows, options.model_file, options.split))
    if options.out:
        found = figures(answers, {name: one for name, one in bundles.items() if one}, options.split, options.model)
        options.out.write_bytes(json_bytes(figures_record(found)))


def reference_rows(split: str) -> tuple[Row, ...]:
    """Return the rows of references.jsonl of one split."""
    return tuple(Row(row["query"], row["tag"], row["reference"]) for row in rows_of("references.jsonl", split))


async def _compare(
    bundles: Mapping[str, Path | None], rows: Sequence[Row], model_file: Path | None, split: str
) -> Mapping[str, Sequence[MeasuredAnswer]]:
    judge = open_embedder(DEFAULT_REWARD_EMBEDDER)
    answers: dict[str, Sequence[MeasuredAnswer]] = {}
    async with cached_backend(model_file) as backend:
        for name, directory in bundles.items():
            started = perf_counter()
            answers[name] = await _answers(backend, directory, rows, judge)
            say(f"{name}: {len(rows)} answers in {perf_counter() - started:.0f} s")
            _print_parts(name, answers[name], is_first=len(answers) == 1)
    if {row.kind for row in rows} == set(KINDS):
        print_differences(answers, plans=split != SEALED)
    return answers


def figures(
    answers: Mapping[str, Sequence[MeasuredAnswer]], bundles: Mapping[str, Path], split: str, model: str
) -> Figures:
    """Return what was measured, with the values of the first bundle minus the values of each other bundle.

    Args:
        answers: The answers to the same rows, by the name of the bundle.
        bundles: The directory of each bundle. The model alone has none.
        split: The split of the rows.
        model: The name of the model.
    """
    (ours, own), *others = answers.items()
    named = " ".join(f"--bundle {name}={directory.name}" for name, directory in bundles.items())
    return Figures(
        split=split,
        model=model,
        date=datetime.now(UTC).date().isoformat(),
        command=f"python -m tests.bench.rivals {named} --split {split}",
        rows=Counter(one.row.kind for one in own),
        max_tokens=LENGTH,
        bundle=ours,
        ids={name: read_bundle(directory).id for name, directory in bundles.items()},
        measured={name: measured(some) for name, some in answers.items()},
        level=1 - 0.05 / max(1, len(others)),
        differences={
            name: Difference(difference(own, some, len(others)), similarity_difference(own, some))
            for name, some in others
        },
    )


async def _answers(
    backend: Backend, directory: Path | None, rows: Sequence[Row], judge: Embedder
) -> Sequence[MeasuredAnswer]:
    served = served_from(directory or default_bundle_directory())
    variant = RAW if directory is None else "aligned"
    async with serving(backend, served) as base_url:
        return await answer(base_url, rows, LENGTH, judge, variant)


def _print_parts(name: str, answers: Sequence[MeasuredAnswer], *, is_first: bool) -> None:
    if is_first:
        print("| bundle | composite | balanced accuracy | answers safe, refuses unsafe | similarity | ends | tokens |")
        print("| --- |" + " --- |" * 6)
    tokens = sum(one.answer.prompt_tokens for one in answers) / len(answers)
    safe, unsafe = (
        sum(one.refused == (kind == "refuse") for one in answers if one.row.kind == kind) for kind in KINDS[1:]
    )
    if {one.row.kind for one in answers} != set(KINDS):
        print(f"| {name} | - | - | {safe}, {unsafe} | - | - | {tokens:.0f} |", flush=True)
        return
    found = parts(answers)
    print(
        f"| {name} | {found.composite:.3f} | {found.balanced:.3f} | {safe}, {unsafe} | {found.similarity:.3f} "
        f"| {found.ends:.3f} | {tokens:.0f} |",
        flush=True,
    )


def print_differences(answers: Mapping[str, Sequence[MeasuredAnswer]], *, plans: bool) -> None:
    """Print the composite of the first bundle minus the composite of each other bundle.

    Args:
        answers: The answers to the same rows, by the name of the bundle.
        plans: Whether to print the smallest difference that a comparison on the sealed rows can find. This figure must
            be known before the sealed rows are read, so it is computed from other rows.
    """
    (ours, own), *others = answers.items()
    last = " smallest difference that the sealed rows show |" if plans else ""
    print(f"\n| {ours} less | composite | similarity |{last}")
    print(f"| --- | --- | --- |{' --- |' if plans else ''}")
    for name, some in others:
        composite = difference(own, some, len(others))
        smallest = f" {detectable(own, some, SEALED_ROWS, len(others)):.3f} |" if plans else ""
        similarity = similarity_difference(own, some)
        print(f"| {name} | {_signed(composite)} | {_signed(similarity)} |{smallest}")


def _signed(interval: Interval) -> str:
    return f"{interval.estimate:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


if __name__ == "__main__":
    main()
