"""Measures how well a shortened query retrieves, by number of tokens that are read: table of docs/bundles.md.

    python -m tests.bench.query_length         prints the table

The reference is the query with 256 tokens. The figures are overlap@3 with its examples, and the time. The queries are
the validation rows of the measurement data and the development half of llmbar, which has no splits. The bank is the
default bundle. Only queries that a limit shortens are informative, so each figure comes with their number. `64 + 64`
means the first and the last 64 tokens.
"""

import time
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from index.embedders.multilingual import MultilingualEmbedder
from index.retrieval.retriever import MAX_QUERY_CHARACTERS
from index.types import Vectors
from tests.bench.embedders import NEAREST, Positions, bank
from tests.measurement import DATA, VALIDATION, is_for_development, read_rows, rows_of

READ = 256
LIMITS = ((64, 0), (32, 32), (96, 0), (64, 32), (128, 0), (64, 64), (192, 0))
REPEATS = 20
Tokens = NDArray[np.int64]


class TokenEmbedder:
    """The default embedder, applied to token ids that this module shortens."""

    def __init__(self) -> None:
        embedder = MultilingualEmbedder()
        self._session, self._tokenizer, self._words = embedder._session, embedder._tokenizer, embedder._words

    def tokens(self, text: str) -> Tokens:
        return np.array(self._tokenizer.encode(text, out_type=int, add_bos=True, add_eos=True), np.int64)

    def embed(self, some: Sequence[Tokens]) -> Vectors:
        inputs = ({"token_ids": tokens, "rows": self._words[tokens]} for tokens in some)
        return np.stack([self._session.run(None, one)[0] for one in inputs])


def cut(tokens: Tokens, first: int, last: int) -> Tokens:
    """The first and the last tokens of a text. The end token is one of them."""
    if len(tokens) <= first + last:
        return tokens
    return np.concatenate([tokens[: first if last else first - 1], tokens[-max(last, 1) :]])


def queries() -> Iterator[str]:
    """The validation rows, and the development half of llmbar."""
    for name in ("references", "drpo_train_queries", "xstest_prompts"):
        yield from (row["query"][:MAX_QUERY_CHARACTERS] for row in rows_of(f"{name}.jsonl", VALIDATION))
    instructions = (row["instruction"] for row in read_rows("llmbar.jsonl"))
    yield from (text[:MAX_QUERY_CHARACTERS] for text in instructions if is_for_development(text))


def nearest(asked: Vectors, examples: Vectors) -> Positions:
    return np.argsort(-(asked @ examples.T), axis=1, kind="stable")[:, :NEAREST]


def main() -> None:
    if not DATA.is_dir():
        print(f"query_length: NOT MEASURED, the measurement data is not at {DATA}; set DRPO_DATA to its folder")
        return
    model = TokenEmbedder()
    asked = [model.tokens(text) for text in dict.fromkeys(queries())]
    examples = model.embed([cut(model.tokens(example.query), READ, 0) for example in bank()])
    print(f"{len(asked)} queries, {len(examples)} examples\n")
    print("| tokens read | queries cut | overlap@3 of those | overlap@3 of all | ms, a query that is cut |")
    print("| --- | --- | --- | --- | --- |")
    for first, last in (*LIMITS, (READ, 0)):
        long = [tokens for tokens in asked if len(tokens) > first + last]
        expected = nearest(model.embed([cut(tokens, READ, 0) for tokens in long]), examples)
        found = nearest(model.embed([cut(tokens, first, last) for tokens in long]), examples)
        shares = [len(set(a) & set(b)) / NEAREST for a, b in zip(found, expected, strict=True)]
        interval = 1.96 * np.std(shares) / np.sqrt(len(long))
        overall = 1 - (len(long) - sum(shares)) / len(asked)
        name = f"{first} + {last}" if last else f"{first}"
        took = milliseconds(model, cut(max(asked, key=len), first, last))
        print(f"| {name} | {len(long)} | {np.mean(shares):.2f} ± {interval:.2f} | {overall:.3f} | {took:.1f} |")


def milliseconds(model: TokenEmbedder, tokens: Tokens) -> float:
    """The median time of a call."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        model.embed([tokens])
        times.append(time.perf_counter() - started)
    return float(np.median(times)) * 1_000


if __name__ == "__main__":
    main()
