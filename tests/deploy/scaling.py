"""Computes the tables of docs/scaling.md from the measured figures in docs/benchmarks/proxy.md.

`python -m tests.deploy.scaling` writes the tables into the page. No GPU was measured, so the second table has one row
for each speed of a GPU.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tests.deploy.parts import ROOT

PAGE: Final = ROOT / "docs" / "scaling.md"
BENCH: Final = ROOT / "docs" / "benchmarks" / "proxy.md"
BEGIN, END = "<!-- computed: begin -->\n", "<!-- computed: end -->\n"
SPEEDS: Final = (500, 1_000, 2_500, 5_000, 10_000)  # tokens per second that one GPU generates, all its streams together
ANSWER: Final = 200  # tokens
FLEETS: Final = (10, 100, 1_000)  # GPUs
STREAM: Final = 40  # tokens per second that one stream gets
CORES_USED: Final = 0.6  # the share of its core that a worker uses on average, so that it can serve a burst
POD: Final = 2  # workers of one pod
STREAMS: Final = 1_000  # open streams of a worker at most: its memory was not measured with more
CPU, CHUNK, STREAMING = "CPU per request, 2 KB", "CPU per chunk", "memory, 1,000 slow"  # heads of columns
NEW_QUERY, EMBEDDER = "on top of a repeated query", "the default embedder"
UNKNOWN: Final = "not measured"


@dataclass(frozen=True, slots=True)
class Measured:
    """The measured figures. Times are in seconds of one core. The times of the router are None if not measured.

    Attributes:
        request: The time of a request.
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


def _cell(text: str, row: str, column: str) -> float | None:
    """Return a number from the first table that has the row and the column; None if no table has it.

    Args:
        text: The text of the page.
        row: The first cell of the row.
        column: A part of the head of the column.
    """
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        head, *rows = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in table.splitlines()]
        places = [place for place, cell in enumerate(head) if column in cell]
        cells = [cells for cells in rows if cells[0] == row]
        if places and cells and cells[0][places[0]]:
            return _number(cells[0][places[0]])
    return None


def _needed(text: str, row: str, column: str) -> float:
    found = _cell(text, row, column)
    assert found is not None, f"docs/benchmarks/proxy.md has no table with a row {row!r} and a column {column!r}"
    return found


def _number(cell: str) -> float:
    found = re.match(r"([\d,.]+)", cell)
    assert found, f"no number in {cell!r}: has the table of docs/benchmarks/proxy.md another form now?"
    return float(found[1].replace(",", ""))


def _seconds(microseconds: float | None) -> float | None:
    return None if microseconds is None else microseconds / 1e6


def measured(text: str) -> Measured:
    """Return the figures in the text of the benchmarks' page."""
    return Measured(
        request=_needed(text, "drpo-proxy", CPU) / 1e6,
        new_query=_needed(text, EMBEDDER, NEW_QUERY) / 1e3,
        relayed=_needed(text, "drpo-proxy", CHUNK) / 1e6,
        translated=_needed(text, "drpo-proxy, base model (translated)", CHUNK) / 1e6,
        router_request=_seconds(_cell(text, "vllm-router", CPU)),
        router_chunk=_seconds(_cell(text, "vllm-router", CHUNK)),
        worker_streaming=_needed(text, "drpo-proxy", STREAMING),
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
    return UNKNOWN if seconds is None else f"{round(seconds * 1e6, 1):,g} µs"


def _fleet(of: Measured, speed: int = 2_500) -> str:
    rows = []
    for gpus in FLEETS:
        tokens, streams = gpus * speed, gpus * speed / STREAM
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
        ("a request of 2 KB whose query was seen before", _microseconds(of.request)),
        (
            "additional time of a query that is long and new (measured on the slower machine)",
            f"{of.new_query * 1e3:,g} ms",
        ),
        ("one chunk of a stream, relayed (chat model)", _microseconds(of.relayed)),
        ("one chunk of a stream, translated (base model)", _microseconds(of.translated)),
        ("a request through vllm-router", _microseconds(of.router_request)),
        ("one chunk of a stream through vllm-router", _microseconds(of.router_chunk)),
        ("memory of a worker with 1,000 slow streams", f"{of.worker_streaming:g} MiB"),
    )
    return _table(("what was measured", "time of one core, or memory"), rows)


def written(text: str) -> str:
    """Return the text of the page with new tables."""
    of = measured(BENCH.read_text(encoding="utf-8"))
    before, rest = text.split(BEGIN)
    per_gpu = (
        "The second table says how many cores the proxy needs for one GPU. It holds for a base model, answers of "
        f"{ANSWER} tokens\nand one chunk per token. In the last three columns, a worker uses only {CORES_USED:.0%} of "
        "its core on average, so that it can\nalso serve a burst."
    )
    fleet = (
        "The third table says how many workers and pods you need for a number of GPUs. It holds for GPUs of 2,500 "
        f"tokens/s and\nstreams of {STREAM} tokens/s, if one query in ten is long and new."
    )
    tables = f"\n{_inputs(of)}\n{per_gpu}\n\n{_per_gpu(of)}\n{fleet}\n\n{_fleet(of)}\n"
    return before + BEGIN + tables + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
