"""Measures whether a question in a long text decides what is retrieved: table of docs/bundles.md.

    python -m tests.bench.query_length         prints the table

A question stands at the end or at the beginning of a text of 2,000 characters on another subject. Overlap@3 is the
share of the three examples nearest to the question alone that are found for the long text. `same vote` is how often the
neighbours' votes for refusals exceed half of all votes as for the question alone. The questions are the validation rows
of at most 200 characters. The bank is the default bundle.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from index.embedders.base import Embedder
from index.embedders.registry import DEFAULT_EMBEDDER, open_embedder
from index.retrieval.passages import query_passages
from tests.bench.embedder_votes import EXPONENT, SUBJECT, VOTERS
from tests.bench.embedders import NEAREST, bank
from tests.measurement import DATA, VALIDATION, general_rows, sensitive_rows

LENGTH: Final = 2_000
NEWS: Final = (
    "The council approved the budget for the coming year on Monday evening.",
    "Road works on the northern bypass will last until the end of May.",
    "Two schools receive new roofs, and the swimming pool stays open in winter.",
    "A spokeswoman said that fees for parking would not rise.",
)
CODE: Final = (
    "def area(width, height):\n    return width * height\n",
    "class Shape:\n    def __init__(self, name):\n        self.name = name\n",
    "for shape in shapes:\n    print(shape.name, shape.area())\n",
)
READ: Final[Mapping[str, Callable[[str], Sequence[str]]]] = MappingProxyType(
    {
        "the whole text": lambda text: [text],
        "the first and the last 200 characters, the better one": lambda text: [text[:200], text[-200:]],
        "passages (what drpo reads)": query_passages,
    }
)

Numbers = NDArray[np.float32]


class Similarities:
    """The similarities of a query to the examples of the bank. Each passage is embedded once."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._bank = embedder.embed([example.query for example in bank()])
        self._known: dict[str, Numbers] = {}

    def of(self, passages: Iterable[str]) -> Numbers:
        """The similarities of the passage that is nearest to an example."""
        return max((self._of_one(passage) for passage in passages), key=lambda one: float(one.max()))

    def _of_one(self, passage: str) -> Numbers:
        if passage not in self._known:
            self._known[passage] = self._bank @ self._embedder.embed([passage])[0]
        return self._known[passage]


def main() -> None:
    if not DATA.is_dir():
        print(f"query_length: NOT MEASURED, the measurement data is not at {DATA}; set DRPO_DATA to its folder")
        return
    embedder = open_embedder(DEFAULT_EMBEDDER)
    similarities = Similarities(embedder)
    rows = (*sensitive_rows(VALIDATION), *general_rows(VALIDATION))
    asked = [row.query for row in rows if len(row.query) <= 200]
    print(f"{len(asked)} questions: overlap@3, same vote\n")
    print("| read | text | question at the end | at the beginning | ms |\n| --- | --- | --- | --- | --- |")
    for read, passages in READ.items():
        for subject, sentences in {"club": SUBJECT, "news": NEWS, "code": CODE}.items():
            ends = [f"{filler(sentences, question)}\n\n{question}" for question in asked]
            starts = [f"{question}\n\n{filler(sentences, question)}" for question in asked]
            cells = [agreement(similarities, asked, texts, passages) for texts in (ends, starts)]
            print(f"| {read} | {subject} | {' | '.join(cells)} | {milliseconds(embedder, ends, passages):.2f} |")


def filler(sentences: Sequence[str], question: str) -> str:
    """Whole sentences that fill a text of 2,000 characters beside the question."""
    text = ""
    for sentence in itertools.cycle(sentences):
        if len(text) + len(sentence) + len(question) + 3 > LENGTH:
            return text.strip()
        text += f"{sentence.rstrip()} " if "\n" not in sentence else f"{sentence}\n"
    return text


def agreement(
    similarities: Similarities, asked: Sequence[str], texts: Sequence[str], passages: Callable[[str], Sequence[str]]
) -> str:
    alone = [similarities.of([question]) for question in asked]
    found = [similarities.of(passages(text)) for text in texts]
    overlap = np.mean([len(nearest(one) & nearest(other)) / NEAREST for one, other in zip(alone, found, strict=True)])
    votes = np.mean([refuses(one) == refuses(other) for one, other in zip(alone, found, strict=True)])
    return f"{overlap:.2f}, {votes:.2f}"


def nearest(similarities: Numbers) -> set[int]:
    return set(np.argsort(-similarities, kind="stable")[:NEAREST].tolist())


def refuses(similarities: Numbers) -> bool:
    """Whether refusals have more than half of the votes."""
    voters = np.argsort(-similarities, kind="stable")[:VOTERS]
    votes = np.maximum(similarities[voters], 0) ** EXPONENT
    refusals = np.array(["refusal" in example.tags for example in bank()])[voters]
    return bool(votes @ refusals > votes.sum() / 2)


def milliseconds(embedder: Embedder, texts: Sequence[str], passages: Callable[[str], Sequence[str]]) -> float:
    """The median time to embed the passages of a text."""
    times = []
    for text in texts:
        started = time.perf_counter()
        embedder.embed(passages(text))
        times.append((time.perf_counter() - started) * 1e3)
    return float(np.median(times))


if __name__ == "__main__":
    main()
