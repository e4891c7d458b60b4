"""What a search costs as the bank grows, and whether the event loop stands still while new queries come.

    python -m tests.bench.retrieval                      the table of docs/bundles.md, then the loop
    python -m tests.bench.retrieval --sizes 64 1000      some sizes
    python -m tests.bench.retrieval --part loop          the loop alone

Banks are real short texts with their MiniLM vectors (tests/bench/corpus.py: made once, ten minutes); the queries are
1,000 others of them. Where a bank is larger than there are texts, the rest are mixtures: two real vectors of the same
cluster in random shares, with noise; the table says so. A bundle is written by index/bundle/bundle.py as `drpo-index
build`
would, and kept outside the clone. Each size is measured in fresh processes: load (hashes, lines, clusters, index; no
embedder), `Retriever.nearest` with the vector given, recall against the exact search of the same bank under the same
policy; memory of two processes that hold the same bundle at the same time.
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

from index.bundle.bundle import BundleInput, read_bundle, write_bundle
from index.embedders.registry import open_embedder
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
EXACT_AT_MOST = 2 * 10**8  # rows compared for the recall: 200 queries of a million
NOISE = 0.3
SEED = 1


class Known:
    """An embedder for texts whose vectors are known."""

    def __init__(self, texts: Sequence[str], vectors: Vectors) -> None:
        self.spec = EmbedderSpec("onnx", open_embedder("onnx").spec.revision, vectors.shape[1])
        self._rows = {text: row for row, text in enumerate(texts)}
        self._vectors = vectors

    def embed(self, texts: Sequence[str]) -> Vectors:
        return self._vectors[[self._rows[text] for text in texts]]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Measures retrieval as the bank grows.")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="N", help="examples in a bank")
    parser.add_argument("--part", choices=("table", "loop"), help="one part alone")
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
    """(QUERIES, dimension): of texts that are in no bank."""
    parts = len(corpus.texts()) // corpus.PART
    return corpus.vectors((parts - 1) * corpus.PART)[-QUERIES:].copy()


def real_texts() -> int:
    """How many texts are for banks."""
    return len(corpus.texts()) // corpus.PART * corpus.PART - QUERIES


def bundle_of(size: int) -> Path:
    """A bundle of `size` examples, written now if it was not before."""
    place = corpus.folder() / f"bundle-{open_embedder('onnx').spec.revision}-{size}"
    if not place.exists():
        say(f"writing a bundle of {size:,} examples")
        texts, vectors = bank(size)
        examples = [Example(f"e{n}", text, f"An answer to the text of number {n}.") for n, text in enumerate(texts)]
        draft = BundleInput("bench", "none", "query-answer", "A prompt.", examples, RetrievalPolicy(), {}, {})
        started = time.perf_counter()
        write_bundle(place, draft, Known(texts, vectors), say)
        say(f"written in {time.perf_counter() - started:.0f} s")
    return place


def bank(size: int) -> tuple[list[str], Vectors]:
    real = real_texts()
    texts, vectors = corpus.texts()[: min(size, real)], corpus.vectors(0, min(size, real))
    if size <= real:
        return texts, vectors
    made = mixtures(vectors, size - real)
    return texts + [f"{texts[n % real]} ({n})" for n in range(size - real)], np.concatenate([vectors, made])


def mixtures(vectors: Vectors, count: int) -> Vectors:
    """(count, dimension): between two vectors of a cluster, with noise."""
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


def measure(place: Path) -> dict[str, float]:
    """In a fresh process: seconds to load, milliseconds of a search, recall."""
    queries = held_out()
    started = time.perf_counter()
    bundle = read_bundle(place)
    retriever = Retriever(bundle)
    loaded = time.perf_counter() - started
    exact = Retriever(replace(bundle, clusters=None))
    times, exact_times, shares = [], [], []
    for query in queries[:WARM_UP]:
        retriever.nearest(query)
    compared = max(1, min(QUERIES, EXACT_AT_MOST // len(bundle.vectors)))
    for number, query in enumerate(queries):
        started = time.perf_counter()
        found = retriever.nearest(query)
        times.append(time.perf_counter() - started)
        if number < compared:
            started = time.perf_counter()
            expected = exact.nearest(query)
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
    """Of the hits of an exact search, those found."""
    if not expected:
        return 1.0
    return len({hit.position for hit in expected} & {hit.position for hit in found}) / len(expected)


def hold(place: Path) -> None:
    """Load, search, say so, and keep everything until stdin ends."""
    queries = held_out()
    before = memory()
    retriever = Retriever(read_bundle(place))
    for query in queries:
        retriever.nearest(query)
    del queries
    print(json.dumps(before), flush=True)
    sys.stdin.readline()
    print(json.dumps(memory()), flush=True)
    sys.stdin.readline()


def memory() -> dict[str, float]:
    """MB of this process: resident, its share (Pss), and private."""
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    kilobytes = {name.rstrip(":"): int(number) for name, number, _ in map(str.split, lines)}
    private = kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]
    return {"resident": kilobytes["Rss"] / 1e3, "share": kilobytes["Pss"] / 1e3, "private": private / 1e3}


def memory_of_two(place: Path) -> dict[str, float]:
    """What each of two processes with the same bundle has more than before it was loaded."""
    command = [sys.executable, "-m", "tests.bench.retrieval", "--hold", str(place)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]  # type: ignore[call-overload]
    try:
        before = [json.loads(one.stdout.readline()) for one in both]
        after = [ask(one) for one in both]
    finally:
        for one in both:
            one.stdin.close()
            one.wait()
    return {name: float(np.mean([a[name] - b[name] for a, b in zip(after, before, strict=True)])) for name in before[0]}


def ask(one: "subprocess.Popen[str]") -> dict[str, float]:
    assert one.stdin is not None
    assert one.stdout is not None
    one.stdin.write("\n")
    one.stdin.flush()
    told: dict[str, float] = json.loads(one.stdout.readline())
    return told


def print_table(sizes: Sequence[int]) -> None:
    real = real_texts()
    print(
        "| examples | searched | p50, ms | p99, ms | exact, ms | recall@3 | load, s | MB of each of two: private, all |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for size in sizes:
        try:
            place = bundle_of(size)
        except (BundleError, MemoryError) as error:
            print(f"| {size:,} | NOT MEASURED: {type(error).__name__} {error} |")
            continue
        found = run_measure(place)
        two = memory_of_two(place)
        searched = f"{found['probes']:.0f} of {len(np.load(place / 'centroids.npy')):,}" if found["probes"] else "exact"
        made = f" ({size - real:,} of them mixtures)" if size > real else ""
        times = (f"{found[name]:.2f}" for name in ("p50", "p99", "exact"))
        cells = (*times, f"{found['recall']:.3f}", f"{found['load']:.2f}")
        kept = f"{two['private']:.0f} of {two['resident']:.0f}"
        print(f"| {size:,}{made} | {searched} | {' | '.join(cells)} | {kept} |", flush=True)


def run_measure(place: Path) -> dict[str, float]:
    say(f"measuring {place.name}")
    command = [sys.executable, "-m", "tests.bench.retrieval", "--measure", str(place)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


# The loop


def print_loop(size: int) -> None:
    """How late a timer of one millisecond is while nothing happens, and while new queries come one after the other."""
    import uvloop

    say(f"watching the event loop, {size:,} examples")
    embedder = open_embedder("onnx")
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
        late = uvloop.run(lateness(source, texts[:asked]))
        over = f"{np.count_nonzero(late > 5)} of {len(late):,}"
        print(f"| {name} | {np.quantile(late, 0.99):.2f} ms | {late.max():.2f} ms | {over} |", flush=True)


async def lateness(source: BundleSearch, texts: Sequence[str]) -> np.ndarray:
    """Milliseconds by which each tick was late, while all of `texts` are asked for once, or for three seconds."""
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
