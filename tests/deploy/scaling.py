"""The tables of deploy/SCALING.md, worked out from what tests/bench/README.md says was measured.

`python -m tests.deploy.scaling` writes them anew. Nothing of a GPU was measured: its speed is the reader's, in columns.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tests.deploy.parts import DEPLOY, ROOT

PAGE: Final = DEPLOY / "SCALING.md"
BENCH: Final = ROOT / "tests" / "bench" / "README.md"
BEGIN, END = "<!-- computed: begin -->\n", "<!-- computed: end -->\n"
SPEEDS: Final = (500, 1_000, 2_500, 5_000, 10_000)  # tokens per second that one GPU generates, all its streams together
ANSWER: Final = 200  # tokens
FLEETS: Final = (10, 100, 1_000)  # GPUs
STREAM: Final = 40  # tokens per second that one stream gets
CORES_USED: Final = 0.6  # of a core, so that a burst finds room
POD: Final = 2  # workers


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds of one core for a request, a new long query, and a chunk (relayed, translated); the router's own; MiB."""

    request: float
    embedding: float
    relayed: float
    translated: float
    router_request: float
    router_chunk: float
    worker: float
    worker_streaming: float


def _row(text: str, name: str, table: int) -> list[str]:
    """The cells of a row, of the so-maniest table that has one of that name."""
    rows = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in rows[table].strip("|").split("|")]


def _number(cell: str) -> float:
    found = re.match(r"([\d,.]+)", cell)
    assert found, f"no number in {cell!r}: has the table of tests/bench/README.md another form now?"
    return float(found[1].replace(",", ""))


def measured() -> Measured:
    """What the benchmarks' page says now."""
    text = BENCH.read_text(encoding="utf-8")
    ours, router = _row(text, "drpo-proxy", 0), _row(text, "vllm-router", 0)
    streams, base = _row(text, "drpo-proxy", 1), _row(text, "drpo-proxy, base model (translated)", 0)
    embedding = re.search(r"of which the embedding of its first 256 tokens (?:is|was)\s+(\d+)", text)
    assert embedding, "tests/bench/README.md no longer says what a long new query's embedding takes"
    return Measured(
        request=_number(ours[2]) / 1e6,
        embedding=float(embedding[1]) / 1e3,
        relayed=_number(streams[3]) / 1e6,
        translated=_number(base[3]) / 1e6,
        router_request=_number(router[2]) / 1e6,
        router_chunk=_number(_row(text, "vllm-router", 1)[3]) / 1e6,
        worker=_number(ours[-1]),
        worker_streaming=_number(streams[4]),
    )


def _cores(of: Measured, speed: float, new: float) -> float:
    """Cores for so many tokens per second of a base model, where a share `new` of the queries is long and new."""
    return speed * of.translated + speed / ANSWER * (of.request + new * of.embedding)


def _table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    lines = [list(head)]
    lines += [["---"] * len(lines[0]), *(list(row) for row in rows)]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)


def _per_gpu(of: Measured) -> str:
    rows = [
        (
            f"{speed:,}",
            f"{speed / ANSWER:g}",
            *(f"{_cores(of, speed, new):.3f}" for new in (0, 0.1, 1)),
            *(f"{CORES_USED / _cores(of, speed, new):,.1f}" for new in (0, 0.1, 1)),
        )
        for speed in SPEEDS
    ]
    cores = [f"cores, {share} new" for share in ("no query", "one in ten", "each")]
    gpus = [f"GPUs per worker, {share} new" for share in ("no query", "one in ten", "each")]
    return _table(("tokens/s of a GPU", "answers/s", *cores, *gpus), rows)


def _fleet(of: Measured, speed: int = 2_500) -> str:
    rows = []
    for gpus in FLEETS:
        tokens, streams = gpus * speed, gpus * speed / STREAM
        workers = math.ceil(_cores(of, tokens, 0.1) / CORES_USED)
        pods = max(2, math.ceil(workers / POD))
        memory = POD * of.worker + streams / pods * (of.worker_streaming - of.worker) / 1_000
        router = tokens * of.router_chunk + tokens / ANSWER * of.router_request
        rows.append(
            (
                f"{gpus:,}",
                f"{tokens / ANSWER:,.0f}",
                f"{streams:,.0f}",
                f"{workers:,}",
                f"{pods:,}",
                f"{streams / pods:,.0f}",
                f"{memory:,.0f} MiB",
                f"{router:.1f}",
            )
        )
    head = ("GPUs", "answers/s", "streams open", "workers", f"pods of {POD}", "streams per pod", "memory per pod")
    return _table((*head, "cores of vllm-router"), rows)


def _inputs(of: Measured) -> str:
    rows = (
        ("a request of 2 KB, known query", f"{of.request * 1e6:,.0f} µs"),
        ("a query of 2,000 characters never seen before: its embedding, on top", f"{of.embedding * 1e3:,.0f} ms"),
        ("a chunk, relayed (chat model)", f"{of.relayed * 1e6:g} µs"),
        ("a chunk, translated (base model)", f"{of.translated * 1e6:g} µs"),
        ("vllm-router: a request, a chunk", f"{of.router_request * 1e6:,.0f} µs, {of.router_chunk * 1e6:g} µs"),
        ("memory of a worker; with 1,000 slow streams", f"{of.worker:g} MiB; {of.worker_streaming:g} MiB"),
    )
    return _table(("what was measured", "time of one core, or memory"), rows)


def written(text: str) -> str:
    """The page with its tables made anew."""
    of = measured()
    before, rest = text.split(BEGIN)
    tables = (
        f"\n{_inputs(of)}\nFor a base model, answers of {ANSWER} tokens, one chunk per token, a worker used to "
        f"{CORES_USED:.0%}:\n\n{_per_gpu(of)}\nFor GPUs of 2,500 tokens/s, streams of {STREAM} tokens/s, one query in "
        f"ten long and new:\n\n{_fleet(of)}\n"
    )
    return before + BEGIN + tables + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
