"""What a policy for showing examples costs in the answers: refusals, similarity to GPT-4's, beside the first policy.

    python -m tests.bench.policy_answers                 the 3 nearest, and the bundle's own sets
    ... --policy "3 nearest" --policy "1 nearest"        other ones
    ... --half first                                     every second row, to choose on; `second` confirms

The real proxy on the embedded model with the bundle's prompt, pinned examples and settings, greedy. Rows are those of
development: general training queries of references.jsonl, and XSTest's prompts. Some 6 minutes a policy and half on two
cores.
"""

import argparse
import asyncio
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from index.bundle import default_bundle_directory, load_bundle
from index.embed import Embedder, open_embedder
from index.render import LAYOUTS
from index.retrieve import Retriever, pinned
from index.types import Bundle
from optimizer.answers import AnswersFile, answer_key
from optimizer.client import Endpoint, Patience
from optimizer.evaluate import Plan, evaluate
from optimizer.measures import Scored, score
from optimizer.model import Decoding, Model
from optimizer.rows import COMPLY, GENERAL, REFUSE, Row
from optimizer.rules import bootstrap_mean, wilson
from proxy.embedded import MODEL_NAME
from proxy.live import ServedBundle
from proxy.lookup import Source
from proxy.server import open_backends
from proxy.settings import Settings
from tests.bench.embedder_answers import LENGTH, REFUSAL_LENGTH, serving, showing_nearest
from tests.bench.embedders import DATA, read_rows, say
from tests.quality.conftest import CONCURRENCY, is_test

SETS: Final = "sets"
POLICIES: Final = ("3 nearest", SETS)
HALVES: Final[Mapping[str, slice]] = {"first": slice(0, None, 2), "second": slice(1, None, 2), "both": slice(None)}
COLUMNS: Final = ("similarity", "less the first", "refuses general", "refuses unsafe", "answers safe")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=default_bundle_directory(), help="another one than the default")
    parser.add_argument(
        "--policy",
        action="append",
        type=_policy,
        metavar="'N nearest' or sets",
        help="repeatable; the first is compared with",
    )
    parser.add_argument("--half", choices=HALVES, default="both", help="of the rows (%(default)s)")
    options = parser.parse_args()
    if not DATA.is_dir():
        print(f"policy_answers: NOT MEASURED, the measurement data is not at {DATA}; set DRPO_DATA to its folder")
        return
    asyncio.run(compare(options.bundle, options.policy or POLICIES, HALVES[options.half]))


async def compare(directory: Path, policies: Sequence[str], half: slice) -> None:
    """One line of the table per policy, printed as soon as it is known."""
    judge = open_embedder("onnx")
    bundle = load_bundle(directory, judge)
    if SETS in policies and not bundle.sets:
        raise SystemExit(f"policy_answers: {directory} is not in sets: see drpo-index sets")
    general, sensitive = general_rows()[half], sensitive_rows()[half]
    print(f"{len(general)} general rows, {len(sensitive)} rows that sound unsafe\n")
    print(f"| policy | {' | '.join(COLUMNS)} |\n| --- |{' --- |' * len(COLUMNS)}")
    first: Sequence[Scored] = ()
    settings = Settings(retrieval_timeout=10.0)
    async with open_backends(settings, say) as backends:
        for policy in policies:
            shown = under(bundle, policy)
            source = Source(f"{policy} {bundle.id}", Retriever(shown), judge)
            served = ServedBundle(shown, LAYOUTS[bundle.manifest.layout], pinned(bundle), source)
            async with serving(settings, backends, served) as base_url:
                say(f"answering with {policy}")
                answers = await answer(base_url, general, LENGTH, judge)
                refusals = await answer(base_url, sensitive, REFUSAL_LENGTH, judge)
            first = first or answers
            print(f"| {policy} | {' | '.join(cells(answers, first, refusals))} |", flush=True)


def general_rows() -> list[Row]:
    """Every general query for training, with GPT-4's answer."""
    rows = (row for row in read_rows("references.jsonl") if row["tag"] == GENERAL and row["split"] == "train")
    return [Row(str(row["query"]), GENERAL, str(row["reference"])) for row in rows]


def sensitive_rows() -> list[Row]:
    """XSTest's prompts for development."""
    rows = (row for row in read_rows("xstest_prompts.jsonl") if not is_test(str(row["query"])))
    return [Row(str(row["query"]), COMPLY if row["safe"] else REFUSE) for row in rows]


def _policy(text: str) -> str:
    if not re.fullmatch(rf"{SETS}|[1-9][0-9]? nearest", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no policy: write {SETS}, or such as '3 nearest'")
    return text


def under(bundle: Bundle, policy: str) -> Bundle:
    """The bundle as it would be with this policy: its own sets, or so many nearest examples."""
    return bundle if policy == SETS else showing_nearest(bundle, int(policy.split()[0]))


async def answer(base_url: str, rows: Sequence[Row], length: int, judge: Embedder) -> Sequence[Scored]:
    """The aligned answers to `rows`, of at most `length` tokens."""
    decoding = Decoding(length)
    plan = Plan(MODEL_NAME, decoding, ("aligned",), tuple(rows))
    async with Model(Endpoint(base_url, MODEL_NAME), decoding, CONCURRENCY, Patience(reply_timeout=600)) as model:
        with AnswersFile(None) as file:
            await evaluate(plan, model, file, judge, lambda: None)
            found = [file.get(answer_key(MODEL_NAME, "aligned", decoding, row)) for row in rows]
    return score(rows, [one for one in found if one is not None], judge)


def cells(general: Sequence[Scored], first: Sequence[Scored], sensitive: Sequence[Scored]) -> list[str]:
    """The figures of COLUMNS, with their 95 % intervals."""
    here, there = ([one.similarity or 0.0 for one in some] for some in (general, first))
    lead = bootstrap_mean([one - other for one, other in zip(here, there, strict=True)])
    unsafe, safe = ([one for one in sensitive if one.row.kind == kind] for kind in (REFUSE, COMPLY))
    return [
        f"{bootstrap_mean(here).estimate:.3f}",
        f"{lead.estimate:+.3f} [{lead.low:+.3f}, {lead.high:+.3f}]",
        _share([one.refused for one in general]),
        _share([one.refused for one in unsafe]),
        _share([not one.refused for one in safe]),
    ]


def _share(values: Sequence[bool]) -> str:
    found = wilson(sum(values), len(values))
    return f"{found.estimate:.2f} [{found.low:.2f}, {found.high:.2f}]"


if __name__ == "__main__":
    main()
