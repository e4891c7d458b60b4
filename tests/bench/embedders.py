"""Measures how well and how fast embedders retrieve, compared with the default embedder's network in float32.

    python -m tests.bench.embedders                    prints the table
    python -m tests.bench.embedders --retrieved FILE   also writes which examples each embedder finds for each query

The queries are the validation rows of the measurement data (tests/measurement.py). The bank is the default bundle.
Overlap@3 is the share of float32's three nearest examples that are among the embedder's three nearest, with a 95 %
interval over the queries. Time and memory are those of a new process with one thread that embeds one short query at a
time. Memory is what the embedder adds to Python with numpy.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import psutil
from numpy.typing import NDArray

from index.bundle.bundle import default_bundle_directory, read_bundle
from index.embedders.minilm import MiniLMEmbedder
from index.embedders.multilingual import MultilingualEmbedder
from index.types import Example, Vectors
from tests.measurement import DATA, VALIDATION, rows_of
from tests.quality.float32_encoder import Float32Encoder

Positions = NDArray[np.intp]

ROOT = Path(__file__).parents[2]
SEED = 1
NEAREST = 3
MIN_QUERIES = 100
WARM_UP, CALLS = 50, 1_000
MAX_SHORT_QUERY = 80  # characters
FLOAT32 = "multilingual encoder, float32"


class Embeds(Protocol):
    def embed(self, texts: Sequence[str]) -> Vectors: ...


class Random:
    """Gives each text a random vector, for comparison."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(SEED)

    def embed(self, texts: Sequence[str]) -> Vectors:
        vectors = self._random.standard_normal((len(texts), 384))
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def openers(folder: Path) -> dict[str, Callable[[], Embeds]]:
    """Return functions that open the embedders, by the embedders' names in the table.

    Args:
        folder: An existing folder for the float32 network.
    """
    return {
        FLOAT32: partial(Float32Encoder, folder),
        "multilingual encoder, int8 (`multilingual`, the default)": MultilingualEmbedder,
        "MiniLM, int8 (`minilm`)": MiniLMEmbedder,
        "random choice": Random,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Compares embedders on the default bundle.")
    parser.add_argument(
        "--retrieved", type=Path, metavar="FILE", help="write the ids of the examples found, as JSON lines"
    )
    parser.add_argument("--cost-of", nargs=2, metavar=("EMBEDDER", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.cost_of:
        name, folder = options.cost_of
        print(json.dumps(cost(openers(Path(folder))[name])))
    elif not DATA.is_dir():
        print(f"embedders: NOT MEASURED, the measurement data is not at {DATA}; set DRPO_DATA to its folder")
    else:
        compare(options.retrieved)


def compare(retrieved: Path | None) -> None:
    examples, asked = bank(), queries()
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, Positions] = {}
        costs: dict[str, dict[str, float]] = {}
        for name, open_one in openers(Path(folder)).items():
            say(f"measuring {name}")
            found[name] = nearest(open_one(), examples, asked)
            costs[name] = cost_in_a_fresh_process(name, Path(folder))
    print_table(found, costs, len(asked), len(examples))
    if retrieved:
        write_retrieved(retrieved, found, examples, asked)


def bank() -> list[Example]:
    """Return the examples that can be retrieved. Pinned examples are shown with every request and never retrieved."""
    return [example for example in read_bundle(default_bundle_directory()).examples if not example.pinned]


def queries() -> list[str]:
    names = ("references.jsonl", "drpo_train_queries.jsonl", "xstest_prompts.jsonl")
    asked = list(dict.fromkeys(str(row["query"]) for name in names for row in rows_of(name, VALIDATION)))
    if len(asked) < MIN_QUERIES:
        raise SystemExit(f"only {len(asked)} queries at {DATA}: at least {MIN_QUERIES} are needed")
    return asked


def nearest(embedder: Embeds, examples: Sequence[Example], asked: Sequence[str]) -> Positions:
    """Return the positions of the most similar examples of each query, the most similar first: (queries, 3)."""
    similarities = embedder.embed(asked) @ embedder.embed([example.query for example in examples]).T
    return np.argsort(-similarities, axis=1, kind="stable")[:, :NEAREST]


def cost_in_a_fresh_process(name: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.embedders", "--cost-of", name, str(folder)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def cost(open_one: Callable[[], Embeds]) -> dict[str, float]:
    """Return the milliseconds per short query, and the bytes of memory that the embedder adds."""
    texts = [example.query for example in bank() if len(example.query) <= MAX_SHORT_QUERY]
    before = psutil.Process().memory_info().rss
    embedder = open_one()
    embedder.embed(["word " * 300])  # the longest text that is read, which a real process embeds sooner or later
    times = []
    for number in range(WARM_UP + CALLS):
        start = time.perf_counter()
        embedder.embed([texts[number % len(texts)]])
        times.append(time.perf_counter() - start)
    p50, p99 = np.quantile(times[WARM_UP:], [0.5, 0.99]) * 1_000
    return {"p50": p50, "p99": p99, "memory": psutil.Process().memory_info().rss - before}


def print_table(found: dict[str, Positions], costs: dict[str, dict[str, float]], asked: int, examples: int) -> None:
    print(f"{asked} queries, {examples} examples\n")
    print("| embedder | overlap@3 with float32 | p50, ms | p99, ms | memory, MB |\n| --- | --- | --- | --- | --- |")
    for name in found:
        share, half = overlap(found, name)
        row = (f"{share:.3f} ± {half:.3f}", *(f"{costs[name][key]:.2f}" for key in ("p50", "p99")))
        print(f"| {name} | {' | '.join(row)} | {costs[name]['memory'] / 1e6:.0f} |")


def overlap(found: dict[str, Positions], name: str) -> tuple[float, float]:
    """Return overlap@3 of an embedder with float32, and half of the width of its 95 % interval."""
    pairs = zip(found[name], found[FLOAT32], strict=True)
    shares = [len(set(one) & set(other)) / NEAREST for one, other in pairs]
    return float(np.mean(shares)), float(1.96 * np.std(shares) / np.sqrt(len(shares)))


def write_retrieved(path: Path, found: dict[str, Positions], examples: Sequence[Example], asked: Sequence[str]) -> None:
    """Write one line per query: the query, and for each embedder the ids of the nearest examples, the nearest first."""
    with path.open("w", encoding="utf-8") as file:
        for row, query in enumerate(asked):
            ids = {name: [examples[position].id for position in positions[row]] for name, positions in found.items()}
            file.write(json.dumps({"query": query, "retrieved": ids}, ensure_ascii=False) + "\n")


def say(step: str) -> None:
    print(re.sub(r"`", "", f"{step} ..."), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
