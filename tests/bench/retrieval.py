"""Measures the time, recall and memory of a search by size of the bank: docs/benchmarks.md.

    python -m tests.bench.retrieval                      the table, then the delay of the event loop
    python -m tests.bench.retrieval --sizes 64 1000      some sizes
    python -m tests.bench.retrieval --part loop          the event loop alone

Banks consist of real short texts with their vectors (tests/bench/corpus.py, which takes ten minutes once). The
queries are 1,000 other texts. A bank that is larger than the number of texts is filled with mixtures: two real vectors
of the same cluster in random shares, with noise. The table marks them.

The bundle is written by index/bundle/bundle.py, as `drpo-index build` does, and kept in the cache folder. Each size is
measured in new processes: the time to load (without the embedder), the time of `Retriever.choose` with a given vector,
the recall against the exact search of the same bank, and the memory of two processes that hold the bundle together.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from index.bundle.bundle import read_bundle, write_bundle
from index.bundle.bundle_input import BundleInput
from index.embedders.registry import DEFAULT_EMBEDDER, open_embedder
from index.errors import BundleError
from index.retrieval.retriever import Retriever
from index.types import EmbedderSpec, Example, Hit, RetrievalPolicy, Vectors
from proxy.core.metrics import create_metrics
from proxy.inference.injection.retrieval import Retrieval
from proxy.inference.injection.retrieval_worker import BundleSearch
from tests.bench import corpus
from tests.bench.embedders import say

ROOT = Path(__file__).parents[2]
SIZES = (64, 1_000, 10_000, 100_000, 175_000, 1_000_000)
QUERIES, WARM_UP = 1_000, 50
MAX_COMPARISONS = 2 * 10**8  # rows that are compared to measure the recall: 200 queries on a million rows
NOISE = 0.3
SEED = 1


class GivenVectors:
    """An embedder that knows the vectors of some texts, and embeds only these texts."""

    def __init__(self, texts: Sequence[str], vectors: Vectors) -> None:
        self.spec = EmbedderSpec(DEFAULT_EMBEDDER, open_embedder(DEFAULT_EMBEDDER).spec.revision, vectors.shape[1])
        self._rows = {text: row for row, text in enumerate(texts)}
        self._vectors = vectors

    def embed(self, texts: Sequence[str]) -> Vectors:
        return self._vectors[[self._rows[text] for text in texts]]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Measures retrieval by size of the bank.")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="N", help="examples in a bank")
    parser.add_argument("--part", choices=("table", "loop"), help="only one part")
    parser.add_argument("--prepare", action="store_true", help="only make the vectors and bundles that are missing")
    parser.add_argument("--measure", type=Path, metavar="DIR", help=argparse.SUPPRESS)
    parser.add_argument("--hold", type=Path, metavar="DIR", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        print(json.dumps(measure(options.measure)))
    elif options.hold:
        hold(options.hold)
    elif not (corpus.folder() / "texts.txt").exists() and not _can_fetch():
        return
    elif options.prepare:
        for size in options.sizes:
            bundle_of(size)
    else:
        if options.part != "loop":
            print_table(options.sizes)
        if options.part != "table":
            print_loop(min(100_000, max(options.sizes)))


def _can_fetch() -> bool:
    try:
        corpus.texts()
    except corpus.CorpusError as error:
        print(f"retrieval: NOT MEASURED, {error}")
        return False
    return True


# The banks


def held_out() -> Vectors:
    """Return the vectors of texts that are in no bank: (QUERIES, dimension)."""
    parts = len(corpus.texts()) // corpus.PART
    return corpus.vectors((parts - 1) * corpus.PART)[-QUERIES:].copy()


def real_texts() -> int:
    """Return the number of texts that banks are made of."""
    return len(corpus.texts()) // corpus.PART * corpus.PART - QUERIES


def bundle_of(size: int) -> Path:
    """Return the folder of a bundle of `size` examples, which is written if it is missing."""
    folder = corpus.folder() / f"bundle-{open_embedder(DEFAULT_EMBEDDER).spec.revision}-{size}"
    if not folder.exists():
        say(f"writing a bundle of {size:,} examples")
        texts, vectors = bank(size)
        examples = [Example(f"e{n}", text, f"An answer to the text of number {n}.") for n, text in enumerate(texts)]
        draft = BundleInput("bench", "none", "query-answer", "A prompt.", examples, RetrievalPolicy(), {}, {})
        started = time.perf_counter()
        write_bundle(folder, draft, GivenVectors(texts, vectors), say)
        say(f"written in {time.perf_counter() - started:.0f} s")
    return folder


def bank(size: int) -> tuple[list[str], Vectors]:
    real = real_texts()
    texts, vectors = corpus.texts()[: min(size, real)], corpus.vectors(0, min(size, real))
    if size <= real:
        return texts, vectors
    made = mixtures(vectors, size - real)
    return texts + [f"{texts[n % real]} ({n})" for n in range(size - real)], np.concatenate([vectors, made])


def mixtures(vectors: Vectors, count: int) -> Vectors:
    """Return vectors, each between two vectors of a cluster, with noise: (count, dimension)."""
    from index.bundle.clusters import sort_into_clusters

    random = np.random.default_rng(SEED)
    order, clusters = sort_into_clusters(vectors)
    made = np.empty((count, vectors.shape[1]), np.float32)
    for start in range(0, count, corpus.PART):
        ones = random.integers(0, len(vectors), min(corpus.PART, count - start))
        own = np.searchsorted(clusters.offsets, ones, side="right") - 1
        others = random.integers(clusters.offsets[own], clusters.offsets[own + 1])
        share = random.uniform(0.3, 0.7, (len(ones), 1))
        noise = random.standard_normal((len(ones), vectors.shape[1])) * (NOISE / vectors.shape[1] ** 0.5)
        rows = share * vectors[order[ones]] + (1 - share) * vectors[order[others]] + noise
        made[start : start + len(ones)] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return made


# One size


def measure(folder: Path) -> dict[str, float]:
    """Return the seconds to load, the milliseconds of a search, and the recall. Call it in a new process."""
    queries = held_out()
    started = time.perf_counter()
    bundle = read_bundle(folder)
    retriever = Retriever(bundle)
    loaded = time.perf_counter() - started
    exact = Retriever(replace(bundle, clusters=None))
    times, exact_times, shares = [], [], []
    for query in queries[:WARM_UP]:
        retriever.choose(query)
    compared = max(1, min(QUERIES, MAX_COMPARISONS // len(bundle.vectors)))
    for number, query in enumerate(queries):
        started = time.perf_counter()
        found = retriever.choose(query).nearest
        times.append(time.perf_counter() - started)
        if number < compared:
            started = time.perf_counter()
            expected = exact.choose(query).nearest
            exact_times.append(time.perf_counter() - started)
            shares.append(share(expected, found))
    p50, p99 = np.quantile(times, [0.5, 0.99]) * 1_000
    return {
        "load": loaded,
        "p50": p50,
        "p99": p99,
        "exact": float(np.median(exact_times)) * 1_000,
        "recall": float(np.mean(shares)),
        "probes": bundle.manifest.probes or 0,
    }


def share(expected: Sequence[Hit], found: Sequence[Hit]) -> float:
    """Return the share of the hits of an exact search that were found."""
    if not expected:
        return 1.0
    return len({hit.position for hit in expected} & {hit.position for hit in found}) / len(expected)


def hold(folder: Path) -> None:
    """Load a bundle, search it, report the memory, and hold the bundle until stdin ends."""
    queries = held_out()
    before = memory()
    retriever = Retriever(read_bundle(folder))
    for query in queries:
        retriever.choose(query)
    del queries
    print(json.dumps(before), flush=True)
    sys.stdin.readline()
    print(json.dumps(memory()), flush=True)
    sys.stdin.readline()


def memory() -> dict[str, float]:
    """Return the memory of this process in MB: resident, proportional (PSS) and private."""
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    kilobytes = {name.rstrip(":"): int(number) for name, number, _ in map(str.split, lines)}
    private = kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]
    return {"resident": kilobytes["Rss"] / 1e3, "share": kilobytes["Pss"] / 1e3, "private": private / 1e3}


def memory_of_two(folder: Path) -> dict[str, float]:
    """Return the memory in MB that a bundle adds to each of two processes that hold it together."""
    command = [sys.executable, "-m", "tests.bench.retrieval", "--hold", str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]  # type: ignore[call-overload]
    try:
        before = [json.loads(one.stdout.readline()) for one in both]
        after = [memory_reported_by(one) for one in both]
    finally:
        for one in both:
            one.stdin.close()
            one.wait()
    return {name: float(np.mean([a[name] - b[name] for a, b in zip(after, before, strict=True)])) for name in before[0]}


def memory_reported_by(one: "subprocess.Popen[str]") -> dict[str, float]:
    assert one.stdin is not None
    assert one.stdout is not None
    one.stdin.write("\n")
    one.stdin.flush()
    reported: dict[str, float] = json.loads(one.stdout.readline())
    return reported


def print_table(sizes: Sequence[int]) -> None:
    real = real_texts()
    print(
        "| examples | searched | p50, ms | p99, ms | exact, ms | recall@3 | load, s | MB of each of two: private, all |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for size in sizes:
        try:
            folder = bundle_of(size)
        except (BundleError, MemoryError) as error:
            print(f"| {size:,} | NOT MEASURED: {type(error).__name__} {error} |")
            continue
        found = run_measure(folder)
        two = memory_of_two(folder)
        searched = (
            f"{found['probes']:.0f} of {len(np.load(folder / 'centroids.npy')):,}" if found["probes"] else "exact"
        )
        made = f" ({size - real:,} of them mixtures)" if size > real else ""
        times = (f"{found[name]:.2f}" for name in ("p50", "p99", "exact"))
        cells = (*times, f"{found['recall']:.3f}", f"{found['load']:.2f}")
        kept = f"{two['private']:.0f} of {two['resident']:.0f}"
        print(f"| {size:,}{made} | {searched} | {' | '.join(cells)} | {kept} |", flush=True)


def run_measure(folder: Path) -> dict[str, float]:
    say(f"measuring {folder.name}")
    command = [sys.executable, "-m", "tests.bench.retrieval", "--measure", str(folder)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


# The loop


def print_loop(size: int) -> None:
    """Print the delay of a timer of one millisecond when the proxy is idle and when it embeds new queries."""
    import uvloop

    say(f"watching the event loop, {size:,} examples")
    embedder = open_embedder(DEFAULT_EMBEDDER)
    source = BundleSearch("bench", Retriever(read_bundle(bundle_of(size))), embedder)
    texts = corpus.texts()[-QUERIES:]
    times = []
    for text in texts[:300]:
        started = time.perf_counter()
        embedder.embed([text])
        times.append((time.perf_counter() - started) * 1e3)
    print(f"\nembedding one of these queries: p50 {np.median(times):.2f} ms, p99 {np.quantile(times, 0.99):.2f} ms\n")
    print("| the event loop, served from a bank of", f"{size:,} | late, p99 | late, worst | of it over 5 ms |")
    print("| --- | --- | --- | --- |")
    for name, asked in (("nothing happens", 0), ("new queries, as fast as they are answered, 16 at a time", 600)):
        late = uvloop.run(delays(source, texts[:asked]))
        over = f"{np.count_nonzero(late > 5)} of {len(late):,}"
        print(f"| {name} | {np.quantile(late, 0.99):.2f} ms | {late.max():.2f} ms | {over} |", flush=True)


async def delays(source: BundleSearch, texts: Sequence[str]) -> np.ndarray:
    """Return the delay of each tick in milliseconds while each text is retrieved once.

    If there are no texts, the ticks of three seconds are measured.
    """
    retrieval, late = Retrieval(60.0, create_metrics()), []
    stop = asyncio.Event()

    async def tick() -> None:
        while not stop.is_set():
            due = time.perf_counter() + 0.001
            await asyncio.sleep(0.001)
            late.append((time.perf_counter() - due) * 1e3)

    async def ask_some(some: Sequence[str]) -> None:
        for text in some:
            assert (await retrieval.find(source, text)).degraded is None

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0 if texts else 3)
    await asyncio.gather(*(ask_some(texts[start::16]) for start in range(16)))
    stop.set()
    await ticking
    retrieval.close()
    return np.array(late)


if __name__ == "__main__":
    main()
