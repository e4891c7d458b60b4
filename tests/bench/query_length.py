"""Measures whether a question in a long text decides what is retrieved: table of docs/retrieval.md.

    python -m tests.bench.query_length         prints the table

A question stands at the end or at the beginning of a text of 2,000 characters on another subject. Overlap@3 is the
share of the question's three nearest examples that are also found for the long text. `same vote` is the share of long
texts for which the vote has the same result as for the question: refusals get more than half of all votes, or not. The
questions are the validation rows of at most 200 characters. The bank is the default bundle.
"""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np

from index.embedders.base import Embedder
from index.embedders.registry import DEFAULT_EMBEDDER, open_embedder
from index.retrieval.passages import query_passages
from index.types import Vectors
from tests.bench.embedder_votes import LONG, SUBJECT, Similarities, nearest, overlap, short_queries, votes
from tests.measurement import DATA, VALIDATION

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


@dataclass(frozen=True, slots=True)
class PassageSimilarities:
    """The similarities of the passage of each text that is nearest to an example."""

    near: Similarities
    passages: Callable[[str], Sequence[str]]

    def __call__(self, texts: Sequence[str]) -> Vectors:
        found = (self.near(self.passages(text)) for text in texts)
        return np.stack([some[some.max(axis=1).argmax()] for some in found])


def main() -> None:
    if not DATA.is_dir():
        print(f"query_length: NOT MEASURED, the measurement data is not at {DATA}; set DRPO_DATA to its folder")
        return
    embedder = open_embedder(DEFAULT_EMBEDDER)
    near = Similarities(embedder)
    asked = [text for text in short_queries(VALIDATION) if len(text) <= 200]
    print(f"{len(asked)} questions: overlap@3, same vote\n")
    print("| read | text | question at the end | at the beginning | ms |\n| --- | --- | --- | --- | --- |")
    for read, passages in READ.items():
        for subject, sentences in {"club": SUBJECT, "news": NEWS, "code": CODE}.items():
            ends = [f"{filler(sentences, question)}\n\n{question}" for question in asked]
            starts = [f"{question}\n\n{filler(sentences, question)}" for question in asked]
            cells = [agreement(near, asked, texts, passages) for texts in (ends, starts)]
            print(f"| {read} | {subject} | {' | '.join(cells)} | {milliseconds(embedder, ends, passages):.2f} |")


def filler(sentences: Sequence[str], question: str) -> str:
    """Return whole sentences that, with the question, make a text of 2,000 characters."""
    text = ""
    for sentence in itertools.cycle(sentences):
        if len(text) + len(sentence) + len(question) + 3 > LONG:
            return text.strip()
        text += f"{sentence.rstrip()} " if "\n" not in sentence else f"{sentence}\n"
    return text


def agreement(
    near: Similarities, asked: Sequence[str], texts: Sequence[str], passages: Callable[[str], Sequence[str]]
) -> str:
    """Return overlap@3 with the questions alone, and how often the vote is the same."""
    near_texts = PassageSimilarities(near, passages)
    same = (votes(near_texts, texts) > 0.5) == (votes(near, asked) > 0.5)
    return f"{overlap(nearest(near_texts, texts), nearest(near, asked)):.2f}, {same.mean():.2f}"


def milliseconds(embedder: Embedder, texts: Sequence[str], passages: Callable[[str], Sequence[str]]) -> float:
    """Return the median time to embed the passages of a text."""
    times = []
    for text in texts:
        started = time.perf_counter()
        embedder.embed(passages(text))
        times.append((time.perf_counter() - started) * 1e3)
    return float(np.median(times))


if __name__ == "__main__":
    main()
