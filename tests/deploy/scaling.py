"""Computes the tables of docs/scaling.md from the measured figures.

CPU times are those of tests/bench/open_loop, and memory is that of docs/benchmarks/proxy.md.
`python -m tests.deploy.scaling` writes the tables into the page. No GPU was measured, so the second table has one row
for each speed of a GPU.
"""

import math
import re
import statistics
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tests.bench.open_loop.figures import BASE, KNOWN, NEW, OURS, ROUTER, STREAM, Cpu, read
from tests.bench.open_loop.plan import Shape
from tests.deploy.parts import ROOT

PAGE: Final = ROOT / "docs" / "scaling.md"
BENCH: Final = ROOT / "docs" / "benchmarks" / "proxy.md"
BEGIN, END = "<!-- computed: begin -->\n", "<!-- computed: end -->\n"
SPEEDS: Final = (500, 1_000, 2_500, 5_000, 10_000)  # tokens per second that one GPU generates, all its streams together
ANSWER: Final = 200  # tokens
FLEETS: Final = (10, 100, 1_000)  # GPUs
PACE: Final = 40  # tokens per second that one stream gets
CORES_USED: Final = 0.6  # the share of its core that a worker uses on average, so that it can serve a burst
POD: Final = 2  # workers of one pod
STREAMS: Final = 1_000  # the maximum number of open streams of a worker: its memory was not measured with more
STREAMING: Final = "memory, 1,000 slow"  # the head of a column
UNKNOWN: Final = "not measured"


@dataclass(frozen=True, slots=True)
class Measured:
    """The measured figures. Times are in seconds of one core. The times of the router are None if not measured.

    Attributes:
        request: The time of a request for one token of a base model, with its chunk.
        new_query: The additional time if the query is long and new.
        relayed: The time of a chunk that is relayed.
        translated: The time of a chunk that is converted from a text completion to chat.
        router_request: The time of a request through vllm-router.
        router_chunk: The time of a chunk through vllm-router.
        worker_streaming: The memory of a worker with 1,000 open streams, in MiB.
    """

    request: float
    new_query: float
    relayed: float
    translated: float
    router_request: float | None
    router_chunk: float | None
    worker_streaming: float


def _memory(text: str) -> float:
    """Return the memory of a worker with 1,000 open streams, in MiB, from the last table that has it."""
    found = ""
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        head, *rows = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in table.splitlines()]
        places = [place for place, cell in enumerate(head) if STREAMING in cell]
        cells = [cells for cells in rows if cells[0] == OURS]
        if places and cells:
            found = cells[0][places[0]].split()[0].replace(",", "")
    assert found, f"{BENCH.name} has no table with a row {OURS!r} and a column {STREAMING!r}"
    return float(found)


def _time(cpu: Cpu, gateway: str, shape: Shape) -> float:
    """Return the CPU time of a request in seconds: the median of the turns."""
    return statistics.median(cpu.times(gateway, shape)) / 1e3


def _chunk(cpu: Cpu, gateway: str) -> float:
    """Return the CPU time of a chunk in seconds: the additional time of a stream compared with a reply of one token."""
    longer = _time(cpu, gateway, STREAM) - _time(cpu, gateway, KNOWN)
    return longer / (STREAM.tokens - KNOWN.tokens)


def measured(cpu: Cpu, text: str) -> Measured:
    """Return the measured figures.

    Args:
        cpu: The CPU times.
        text: The text of the page that says how much memory a worker needs.
    """
    has_router = all(cpu.times(ROUTER, shape) for shape in (KNOWN, STREAM))
    return Measured(
        request=_time(cpu, BASE, KNOWN),
        new_query=_time(cpu, BASE, NEW) - _time(cpu, BASE, KNOWN),
        relayed=_chunk(cpu, OURS),
        translated=_chunk(cpu, BASE),
        router_request=_time(cpu, ROUTER, KNOWN) if has_router else None,
        router_chunk=_chunk(cpu, ROUTER) if has_router else None,
        worker_streaming=_memory(text),
    )


def _cores(of: Measured, speed: float, new: float) -> float:
    """Return the cores for `speed` tokens/s of a base model. The share `new` of the queries is long and new."""
    return speed * of.translated + speed / ANSWER * (of.request + new * of.new_query)


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
    shares = ("no query is", "one query in ten is", "each query is")
    cores = [f"cores per GPU if {share} long and new" for share in shares]
    gpus = [f"GPUs per worker if {share} long and new" for share in shares]
    return _table(("tokens/s of one GPU", "answers/s of one GPU", *cores, *gpus), rows)


def _router_cores(of: Measured, tokens: float) -> str:
    if of.router_chunk is None or of.router_request is None:
        return UNKNOWN
    return f"{tokens * of.router_chunk + tokens / ANSWER * of.router_request:.1f}"


def _microseconds(seconds: float | None) -> str:
    return UNKNOWN if seconds is None else f"{seconds * 1e6:,.0f} µs"


def _fleet(of: Measured, speed: int = 2_500) -> str:
    rows = []
    for gpus in FLEETS:
        tokens, streams = gpus * speed, gpus * speed / PACE
        workers = math.ceil(max(_cores(of, tokens, 0.1) / CORES_USED, streams / STREAMS))
        pods = max(2, math.ceil(workers / POD))
        rows.append(
            (
                f"{gpus:,}",
                f"{tokens / ANSWER:,.0f}",
                f"{streams:,.0f}",
                f"{workers:,}",
                f"{pods:,}",
                f"{streams / pods:,.0f}",
                f"{POD * of.worker_streaming:,.0f} MiB",
                _router_cores(of, tokens),
            )
        )
    head = (
        "GPUs",
        "answers/s",
        "open streams",
        "workers",
        f"pods of {POD} workers",
        "streams per pod",
        "memory per pod, at most",
    )
    return _table((*head, "cores of vllm-router"), rows)


def _inputs(of: Measured) -> str:
    rows = (
        ("a request of 2 KB whose query was seen before, with one token", _microseconds(of.request)),
        ("additional time of a query that is long and new", f"{of.new_query * 1e3:.1f} ms"),
        ("one chunk of a stream, relayed (chat model)", _microseconds(of.relayed)),
        ("one chunk of a stream, translated (base model)", _microseconds(of.translated)),
        ("a request through vllm-router, with one token", _microseconds(of.router_request)),
        ("one chunk of a stream through vllm-router", _microseconds(of.router_chunk)),
        ("memory of a worker with 1,000 slow streams", f"{of.worker_streaming:g} MiB"),
    )
    return _table(("what was measured", "time of one core, or memory"), rows)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_on_hyphens=False, break_long_words=False)


def written(text: str) -> str:
    """Return the text of the page with new tables."""
    cpu = read().cpu
    assert cpu, "no CPU times: run `python -m tests.bench.open_loop --table cpu --write`"
    of = measured(cpu, BENCH.read_text(encoding="utf-8"))
    before, rest = text.split(BEGIN)
    per_gpu = (
        "The second table says how many cores the proxy needs for one GPU. It holds for a base model, answers of "
        f"{ANSWER} tokens\nand one chunk per token. In the last three columns, a worker uses only {CORES_USED:.0%} of "
        "its core on average, so that it can\nalso serve a burst."
    )
    fleet = (
        "The third table says how many workers and pods you need for a number of GPUs. It holds for GPUs of 2,500 "
        f"tokens/s and\nstreams of {PACE} tokens/s, if one query in ten is long and new."
    )
    source = f"The CPU times were measured on {cpu.date} on {cpu.machine}: `{cpu.command}`."
    tables = f"\n{_inputs(of)}\n{_wrapped(source)}\n\n{per_gpu}\n\n{_per_gpu(of)}\n{fleet}\n\n{_fleet(of)}\n"
    return before + BEGIN + tables + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
