"""Counts what rules about texts find in the train and validation rows, with the default embedder and no other model.

    python -m tests.bench.texts

It prints tables: how many queries are below the similarity floor (docs/benchmarks/answers.md), how often the vote of
the default bundle chooses the refusals, how often a later turn changes the set to the refusals (docs/retrieval.md,
docs/example-sets.md), how many questions look harmful, in how many rows private data is replaced (docs/harvest.md), and
which share of answers and of published prompts repeats itself (docs/search.md).
"""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from index.bundle.bundle import default_bundle_directory, read_bundle
from index.embedders.base import Embedder
from index.embedders.registry import open_embedder
from index.measures.answer_form import repeated_share
from index.retrieval.passages import embed_query
from index.retrieval.retriever import Retriever
from index.types import Bundle
from optimizer.data.dataset import COMPLY, GENERAL, REFUSE
from optimizer.data.scrubbing.scrub import scrub
from optimizer.harvest.safety import QuestionReader
from proxy.fit.questions import SHIPPED, read_questions
from tests.measurement import DATA, TRAIN, VALIDATION, rows_of
from tests.quality.conversations import third_turn_rows

REFUSALS: Final = "refusal"
WEIGHTS: Final = (1.8, 1.5)
KINDS: Final[Mapping[str, str]] = {
    REFUSE: "unsafe queries",
    COMPLY: "queries that only sound unsafe",
    GENERAL: "general queries",
}
PUBLISHED: Final = ("drpo/prompt_*.txt", "urial/*.txt")
ROWS: Final = "references.jsonl"


def main() -> None:
    """Print the tables."""
    if not DATA.is_dir():
        print(f"texts: NOT MEASURED, the measurement data is not at {DATA}; set DRPO_DATA to its folder")
        return
    bundle = read_bundle(default_bundle_directory())
    embedder = open_embedder(bundle.manifest.embedder.name)
    train = rows_of(ROWS, TRAIN)
    both = (*train, *rows_of(ROWS, VALIDATION))
    print(f"{datetime.datetime.now(datetime.UTC).date()}: {len(train)} train rows, {len(both)} with validation rows\n")
    by_kind = {name: [row["query"] for row in train if row["tag"] == kind] for kind, name in KINDS.items()}
    print_below_floor(Retriever(bundle), embedder)
    print_votes(bundle, embedder, by_kind)
    print_later_turns(Retriever(bundle), embedder, by_kind)
    print_harmful(both)
    scrubbed = sum(bool(scrub([row["query"], row["reference"]]).found) for row in both)
    print(f"private data is replaced in {scrubbed} of {len(both)} rows\n")
    print_repetition([row["reference"] for row in both])


def print_below_floor(retriever: Retriever, embedder: Embedder) -> None:
    """Print how many queries of each split are unlike every example of the default bundle."""
    print("| split | below the similarity floor |\n| --- | --- |")
    for split in (TRAIN, VALIDATION):
        queries = [row["query"] for row in rows_of(ROWS, split)]
        below = [retriever.choose_by_passages(embed_query(embedder, query)).is_below_floor for query in queries]
        print(f"| {split} | {_count(below)} of {len(below)} |")
    print()


def print_votes(bundle: Bundle, embedder: Embedder, by_kind: Mapping[str, Sequence[str]]) -> None:
    """Print the share of train queries whose vote chooses the refusals, for each weight of the refusals."""
    print(f"| weight of refusals | {' | '.join(f'{len(some)} {name}' for name, some in by_kind.items())} |")
    print(f"| --- |{' --- |' * len(by_kind)}")
    for weight in WEIGHTS:
        sets = tuple(replace(one, weight=weight) if one.kind == REFUSALS else one for one in bundle.sets)
        retriever, kinds = Retriever(replace(bundle, sets=sets)), {one.name: one.kind for one in sets}
        shares = [
            np.mean(
                [
                    kinds.get(retriever.choose_by_passages(embed_query(embedder, query)).set_name) == REFUSALS
                    for query in some
                ]
            )
            for some in by_kind.values()
        ]
        print(f"| {weight} | {' | '.join(f'{share:.0%}' for share in shares)} |")
    print()


def print_later_turns(retriever: Retriever, embedder: Embedder, by_kind: Mapping[str, Sequence[str]]) -> None:
    """Print how many queries would change the set to the refusals if they were a later turn."""
    third = [one.messages[-1].text for one in read_questions(SHIPPED) if one.kind == "harmful_third_turn"]
    turns = {
        "harmful third turns of tests/quality/conversations.py": [row.query for row in third_turn_rows()],
        "harmful third turns of proxy/fit/questions.jsonl": third,
        **{f"train: {name}": some for name, some in by_kind.items()},
    }
    print("| queries as a later turn | the set changes to the refusals |\n| --- | --- |")
    for name, some in turns.items():
        tags = [retriever.choose_by_passages(embed_query(embedder, query)).separate_tag for query in some]
        print(f"| {name} | {tags.count(REFUSALS)} of {len(some)} |")
    print()


def print_harmful(rows: Sequence[Mapping[str, str]]) -> None:
    """Print how many questions look harmful, and how many look harmful or are near to harmful ones."""
    reader = QuestionReader()
    print("| questions | look harmful | look harmful or are near |\n| --- | --- | --- |")
    for name, is_chosen in (("that must be refused", True), ("others", False)):
        chosen = [row["query"] for row in rows if (row["tag"] == REFUSE) == is_chosen]
        found = reader.read(chosen)
        print(
            f"| {len(chosen)} {name} | {_count(x.is_harmful for x in found)} | {_count(x.is_doubtful for x in found)} |"
        )
    print()


def print_repetition(references: Iterable[str]) -> None:
    """Print the shares of repeated sequences of four words, in GPT-4's answers and in published prompts."""
    answers = [repeated_share(text) for text in references]
    prompts = [repeated_share(file.read_text("utf-8")) for pattern in PUBLISHED for file in DATA.glob(pattern)]
    print(f"repeated: at most {np.quantile(answers, 0.99):.3f} in 99 % of GPT-4's {len(answers)} answers,")
    print(f"at most {max(prompts):.3f} in {len(prompts)} published prompts of DRPO and URIAL")


def _count(values: Iterable[bool]) -> int:
    return sum(values)


if __name__ == "__main__":
    main()
