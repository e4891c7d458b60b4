"""Measures the CPU time, latency and memory that a proxy adds to requests and streams: docs/benchmarks.md.

    python -m tests.bench.overhead                        all tables (half an hour)
    python -m tests.bench.overhead --only drpo-proxy --only "bare aiohttp relay"
    python -m tests.bench.overhead --table streams
    python -m tests.bench.overhead --against DIR          this checkout, another one and the relay, in turn

It compares drpo-proxy with no proxy, with a bare relay and with other gateways. The gateway runs alone on core 0. The
load and the backend share core 1. CPU time and memory are measured for the gateway alone. Each figure is the median of
the repeats, with minimum and maximum, and the order of the gateways rotates. Each gateway is installed once, pinned by
hash, into the cache folder. If a gateway cannot run, the reason is printed. The bench needs nginx and wrk.
"""

import argparse
import asyncio
import os
import resource
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from tests.bench.peers.gateways import Gateway, Start, bare_relay, drpo, gateways
from tests.bench.peers.load import Cell, Load, Streams, nginx, press, source, stream_all
from tests.bench.peers.machine import OTHERS_CORE, CannotRunError, proportional_memory
from tools.steps import StepError

CELLS: Final = (
    Cell("200 B", 200),
    Cell("2 KB", 2_000),
    Cell("2 KB in 20 turns", 2_000, turns=20),
    Cell("100 KB", 100_000),
    Cell("2 KB, each query new", 2_000, fresh=True),
)
_CONNECTIONS: Final = 32
_RELAY: Final = "bare aiohttp relay"
_T = TypeVar("_T")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", help="a gateway to measure; repeatable [all]")
    parser.add_argument("--table", choices=_TABLES, action="append", help="a table to print; repeatable [all]")
    parser.add_argument("--seconds", type=int, default=3, help="length of each measurement [3]")
    parser.add_argument("--repeats", type=int, default=3, help="of each measurement [3]")
    parser.add_argument("--against", type=Path, metavar="DIR", help="another checkout of drpo to compare with, alone")
    options = parser.parse_args()
    os.sched_setaffinity(0, {OTHERS_CORE})
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(65536, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)
    if options.against:
        _compare(options.against.resolve(), options.seconds, options.repeats)
        return
    chosen = {name: one for name, one in gateways(_say).items() if not options.only or name in options.only}
    for table in options.table or _TABLES:
        _TABLES[table](chosen, options.seconds, options.repeats)


def _requests(chosen: Mapping[str, Start], seconds: int, repeats: int) -> None:
    """Print the CPU time per request and the rate at 32 connections, and the latency at one connection."""
    with (
        tempfile.TemporaryDirectory() as name,
        nginx(Path(name)) as backend,
        _running(chosen, backend, Path(name)) as up,
    ):
        print(f"\n| CPU per request, {_CONNECTIONS} connections | {' | '.join(cell.name for cell in CELLS)} | memory |")
        print("| --- |" + " --- |" * (len(CELLS) + 1), flush=True)
        busy = {cell: _repeat(up, repeats, partial(_press, cell, _CONNECTIONS, seconds, Path(name))) for cell in CELLS}
        for gateway in up:
            cells = [_with_ratio(_cpus(busy[cell], gateway), _cpus(busy[cell], _RELAY)) for cell in CELLS]
            print(f"| {gateway} | {' | '.join(cells)} | {busy[CELLS[1]][gateway][-1].memory / 2**20:.0f} MiB |")
        _print_rates(up, busy)
        alone = {
            cell: _repeat(up, repeats, partial(_press, cell, 1, seconds, Path(name))) for cell in (CELLS[1], CELLS[4])
        }
        print("\n| p50 at one connection | 2 KB | 2 KB, each query new |\n| --- | --- | --- |")
        for gateway in up:
            times = [_spread([1e3 * one.p50 for one in found[gateway]], "ms", 2) for found in alone.values()]
            print(f"| {gateway} | {' | '.join(times)} |", flush=True)


def _compare(tree: Path, seconds: int, repeats: int) -> None:
    """Print the CPU time per request of this checkout, divided by that of another checkout, from successive runs."""
    here, there = "this checkout", "the other"
    chosen: dict[str, Start] = {_RELAY: bare_relay, here: drpo, there: partial(drpo, tree=tree)}
    with (
        tempfile.TemporaryDirectory() as name,
        nginx(Path(name)) as backend,
        _running(chosen, backend, Path(name)) as up,
    ):
        print(f"\n| CPU per request, {repeats} turns | {here} / relay | {there} / relay | {here} / {there} |")
        print("| --- | --- | --- | --- |", flush=True)
        for cell in CELLS[:4]:
            found = _repeat(up, repeats, partial(_press, cell, _CONNECTIONS, seconds, Path(name)))
            pairs = ((here, _RELAY), (there, _RELAY), (here, there))
            ratios = [_paired(found[one], found[other]) for one, other in pairs]
            print(f"| {cell.name} | {' | '.join(ratios)} |", flush=True)


def _paired(ones: Sequence[Load], others: Sequence[Load]) -> str:
    """Return the median of the ratios of each turn, and the quartiles."""
    ratios = [one.cpu / other.cpu for one, other in zip(ones, others, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
    return f"{middle:.3f} (quartiles {low:.3f} to {high:.3f})"


def _print_rates(up: Mapping[str, Gateway], busy: Mapping[Cell, Mapping[str, Sequence[Load]]]) -> None:
    print(f"\n| requests per second, {_CONNECTIONS} connections | {' | '.join(cell.name for cell in CELLS)} |")
    print("| --- |" + " --- |" * len(CELLS))
    for gateway in up:
        rates = [_spread([one.rate for one in busy[cell][gateway]], "", 0) for cell in CELLS]
        print(f"| {gateway} | {' | '.join(rates)} |", flush=True)


def _press(cell: Cell, connections: int, seconds: int, folder: Path, gateway: Gateway, repeat: int) -> Load:
    found = press(gateway, cell, connections, seconds, f"{os.getpid()} {repeat} ", folder)
    if found.failed:
        _say(f"{gateway.url}: {found.failed} of {found.requests} requests failed ({cell.name})")
    return found


def _streams(chosen: Mapping[str, Start], _seconds: int, repeats: int) -> None:
    """Print the figures of 100 streams at the pace of a model, 16 streams without a pause, and 1,000 slow streams."""
    ours = {"drpo-proxy, base model": partial(drpo, kind="completion")} if "drpo-proxy" in chosen else {}
    chosen = {**chosen, **ours}
    print("\n| streams | gap p99, 100 of 50 tokens/s | not whole | chunks per second, 16 flat out |", end="")
    print(" CPU per chunk | memory, 1,000 slow |\n| --- | --- | --- | --- | --- | --- |")
    paced = _stream(chosen, repeats, 100, 200, 0.02)
    fast = _stream(chosen, repeats, 16, 12_000, 0.0)
    slow = _stream(chosen, 1, 1000, 12, 1.0)
    for name in fast:
        gap = _spread([1e3 * one.gap_p99 for one in paced[name]], "ms", 1)
        lost = sum(one.lost for found in (paced, fast, slow) for one in found[name])
        relay = [one.rate for one in fast[_RELAY]] if _RELAY in fast else None
        rate = _with_ratio([one.rate for one in fast[name]], relay, "", 1.0)
        cpu = _spread([1e6 * one.cpu for one in fast[name]], "µs", 1)
        print(f"| {name} | {gap} | {lost} | {rate} | {cpu} | {slow[name][0].memory / 2**20:.0f} MiB |", flush=True)


def _stream(
    chosen: Mapping[str, Start], repeats: int, count: int, chunks: int, pause: float
) -> dict[str, list[Streams]]:
    with tempfile.TemporaryDirectory() as name, source(chunks, pause, sys.executable) as backend:
        with _running(chosen, backend, Path(name)) as up:
            return _repeat(up, repeats, lambda gateway, _: asyncio.run(stream_all(gateway, count, chunks)))


def _workers(_chosen: Mapping[str, Start], seconds: int, repeats: int) -> None:
    """Print the throughput of one and of two workers, which share all cores with the load and the backend."""
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    print("\n| workers, all on the same cores | requests per second | CPU per request | memory (PSS) |")
    print("| --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as name, nginx(Path(name)) as backend:
        starts: dict[str, Start] = {str(count): partial(drpo, workers=count, core=None) for count in (1, 2)}
        with _running(starts, backend, Path(name)) as up:
            found = _repeat(up, repeats, partial(_press, CELLS[1], _CONNECTIONS, seconds, Path(name)))
            for workers, loads in found.items():
                rate = _spread([one.rate for one in loads], "", 0)
                memory = f"{proportional_memory(up[workers].pid or 0) / 2**20:.0f} MiB"
                print(
                    f"| {workers} | {rate} | {_with_ratio([one.cpu for one in loads], None)} | {memory} |", flush=True
                )


_TABLES: Final[Mapping[str, Callable[[Mapping[str, Start], int, int], None]]] = {
    "requests": _requests,
    "streams": _streams,
    "workers": _workers,
}


@contextmanager
def _running(chosen: Mapping[str, Start], backend: str, folder: Path) -> Iterator[dict[str, Gateway]]:
    """Yield the running gateways. A gateway that cannot run is left out, with a message."""
    with ExitStack() as stack:
        up = {}
        for name, start in chosen.items():
            try:
                up[name] = stack.enter_context(start(backend, folder))
            except (CannotRunError, StepError) as error:
                _say(f"{name} is left out: {error}")
        yield up


def _repeat(up: Mapping[str, Gateway], repeats: int, measure: Callable[[Gateway, int], _T]) -> dict[str, list[_T]]:
    """Measure each gateway `repeats` times, in an order that rotates."""
    found: dict[str, list[_T]] = {name: [] for name in up}
    names = list(up)
    for repeat in range(repeats):
        turn = repeat % max(1, len(names))
        for name in names[turn:] + names[:turn]:
            found[name].append(measure(up[name], repeat))
    return found


def _cpus(found: Mapping[str, Sequence[Load]], gateway: str) -> list[float] | None:
    return [one.cpu for one in found[gateway]] if gateway in found else None


def _with_ratio(
    values: Sequence[float] | None, base: Sequence[float] | None, unit: str = "µs", scale: float = 1e6
) -> str:
    """Return the median, the minimum, the maximum, and the ratio to the median of `base`."""
    if not values or not any(values):
        return ""
    text = _spread([scale * one for one in values], unit, 0)
    return text if not base else f"{text}; {statistics.median(values) / statistics.median(base):.2f}x"


def _spread(values: Sequence[float], unit: str, digits: int) -> str:
    median = f"{statistics.median(values):,.{digits}f} {unit}".rstrip()
    return f"{median} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
