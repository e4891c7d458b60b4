"""Measures how many arrivals per second a gateway serves well, and the CPU time of a request: docs/benchmarks/load.md.

    python -m tests.bench.open_loop --quick               shows whether it runs (2 minutes; its figures mean nothing)
    python -m tests.bench.open_loop --write               the knees, on a quiet machine (15 minutes)
    python -m tests.bench.open_loop --table cpu --write   CPU time per request (25 minutes; also on a busy machine)
    python -m tests.bench.open_loop --only "no proxy"     what client and backend can do without a gateway

Requests arrive at random times (a Poisson process), whether or not earlier ones have been answered. Each gets a stream
of 200 tokens, 40 per second. One query in five is new and has 2,000 characters. The gateway runs alone on core 0. The
client and the backend, both in C, share core 1. Latency counts from the planned arrival. "Added" is the time to the
first token, minus the median of this time for requests that the client sends straight to the backend in the same step.

The knee is the highest arrival rate at which the p99 of the added time is at most --bound, no request fails, none is
degraded, and streams end as fast as they arrive. The rate is doubled until it is above the knee, and then bisected.
"""

import argparse
import os
import platform
import resource
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Final

from tests.bench.open_loop import page
from tests.bench.open_loop.figures import (
    BASE,
    CPU_RATES,
    MIX,
    NO_PROXY,
    OURS,
    PACE,
    RELAY,
    ROUTER,
    TWO,
    Cpu,
    Figures,
    Knees,
    Search,
    read,
    write,
)
from tests.bench.open_loop.knee import Criteria, find
from tests.bench.open_loop.plan import Shape
from tests.bench.open_loop.programs import backend, build_programs
from tests.bench.open_loop.step import Bench, Step, measure, warm_up
from tests.bench.peers.gateways import Gateway, Start, bare_relay, drpo, no_proxy, vllm_router
from tests.bench.peers.load import bundle_words
from tests.bench.peers.machine import OTHERS_CORE, CannotRunError
from tools.steps import StepError

KNEES: Final = (RELAY, OURS, TWO, ROUTER)
CPUS: Final = (RELAY, OURS, TWO, BASE, ROUTER)
_DEFAULT: Final = Criteria()
_SECONDS: Final[Mapping[str, float]] = {"knee": 10.0, "cpu": 20.0}
_MAX_LOAD: Final = 0.5  # load average of a quiet machine
_HALF_SECONDS: Final = 3  # this step is so many times as long as others, because a goal is its p99
_QUICK_SECONDS: Final = 2.0
_QUICK: Final = Shape("quick", 40, 0.2)
_QUICK_RATE: Final = 10.0  # arrivals per second
_QUICK_CRITERIA: Final = Criteria(bound=1e6, largest=2 * _QUICK_RATE)


def main() -> None:
    """Measure, print the tables, and with --write put them into the page."""
    options = _parsed()
    if (os.cpu_count() or 1) < 2:
        raise SystemExit("open_loop: it needs two cores: one for the gateway, one for client and backend")
    os.sched_setaffinity(0, {OTHERS_CORE})
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(65536, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)
    try:
        about = _about()
        with _bench(options.seconds, options.pace) as bench, tempfile.TemporaryDirectory() as folder:
            table = _cpu if options.table == "cpu" else _knees
            found = table(bench, Path(folder), options, about)
    except (CannotRunError, StepError) as error:
        raise SystemExit(f"open_loop: {error}") from None
    print("\n" + (page.cpu(found.cpu) if found.cpu else page.knees(found.knees)))
    if options.write:
        write(found)
        page.update(read())
        _say(f"written: {page.PAGE.name}, figures.json. For deploy/SCALING.md: python -m tests.deploy.scaling")


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.open_loop",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--table", choices=("knee", "cpu"), default="knee", help="what to measure [%(default)s]")
    names = "; ".join(_STARTS)
    parser.add_argument(
        "--only", action="append", choices=list(_STARTS), metavar="NAME", help=f"a gateway, repeatable: {names}"
    )
    parser.add_argument("--seconds", type=float, help="how long requests are measured at a rate [10; for cpu 20]")
    parser.add_argument("--first", type=float, default=40.0, help="the first arrival rate, per second [40]")
    parser.add_argument("--bound", type=float, default=_DEFAULT.bound, help="of the p99 of the added time, ms [50]")
    parser.add_argument("--pace", type=float, default=PACE, help="tokens per second of a stream, as a test [40]")
    parser.add_argument("--turns", type=int, default=3, help="of the table cpu: each measures all gateways [3]")
    parser.add_argument("--quick", action="store_true", help="short streams at low rates, to see whether it runs")
    parser.add_argument("--write", action="store_true", help="write the figures, the page and its picture")
    options = parser.parse_args()
    if options.write and (options.quick or options.pace != PACE):
        parser.error("--write needs the streams that the page describes: leave out --quick and --pace")
    options.seconds = options.seconds or _SECONDS[options.table]
    if options.quick:
        options.seconds, options.first, options.turns = _QUICK_SECONDS, _QUICK_RATE, 1
        options.only = options.only or [RELAY, OURS]
    return options


@contextmanager
def _bench(seconds: float, pace: float) -> Iterator[Bench]:
    programs = build_programs(_say)
    with backend(programs, pace, OTHERS_CORE) as running:
        yield Bench(programs, running, bundle_words(), pace, seconds)


def _knees(bench: Bench, folder: Path, options: argparse.Namespace, about: Mapping[str, str]) -> Figures:
    """Find the knee of each gateway, one gateway after the other."""
    criteria = _QUICK_CRITERIA if options.quick else replace(_DEFAULT, bound=options.bound)
    shape, searches, seeds = _QUICK if options.quick else MIX, {}, count()
    for name in options.only or KNEES:
        with _running([name], bench, folder) as up:
            for gateway in up.values():
                searches[name] = _search(bench, name, gateway, shape, criteria, options.first, seeds)
    return Figures(Knees(**about, seconds=bench.seconds, bound=options.bound, searches=searches), None)


def _search(
    bench: Bench, name: str, gateway: Gateway, shape: Shape, criteria: Criteria, first: float, seeds: Iterator[int]
) -> Search:
    started = monotonic()

    def at(rate: float, bench: Bench = bench) -> Step:
        return _reported(name, measure(bench, gateway, rate, shape, f"{os.getpid()} {next(seeds)}"))

    found = find(at, first, criteria)
    half = at(found.rate / 2, replace(bench, seconds=_HALF_SECONDS * bench.seconds)) if found.rate else None
    _say(f"{name}: knee at {found.rate:.3g}/s ({found.reason}); {monotonic() - started:.0f} s")
    return Search(found, half)


def _cpu(bench: Bench, folder: Path, options: argparse.Namespace, about: Mapping[str, str]) -> Figures:
    """Measure all gateways in turn, so that other load on the machine affects all of them alike."""
    shapes = {_QUICK: _QUICK_RATE} if options.quick else CPU_RATES
    with _running(options.only or CPUS, bench, folder) as up:
        found: dict[str, dict[str, list[float | None]]] = {name: {one.name: [] for one in shapes} for name in up}
        for turn in range(options.turns):
            for shape, rate in shapes.items():
                for name, gateway in up.items():
                    step = measure(bench, gateway, rate, shape, f"{os.getpid()} {name} {turn}")
                    _reported(f"{name}, turn {turn + 1}, {shape.name}", step)
                    found[name][shape.name].append(None if step.failed or step.degraded else step.cpu)
    return Figures(None, Cpu(**about, rates={one.name: rate for one, rate in shapes.items()}, milliseconds=found))


@contextmanager
def _running(names: Sequence[str], bench: Bench, folder: Path) -> Iterator[dict[str, Gateway]]:
    """Yield the running gateways, with the known queries in their caches. A gateway that cannot run is left out."""
    with ExitStack() as stack:
        up = {}
        for name in names:
            try:
                up[name] = stack.enter_context(_STARTS[name](bench.backend.url, folder))
            except (CannotRunError, StepError) as error:
                _say(f"{name} is left out: {error}")
                continue
            warm_up(bench, up[name])
        yield up


def _reported(name: str, step: Step) -> Step:
    counts = f"{step.failed} failed, {step.degraded} degraded, {step.completed:.0%} ended in time"
    times = f"added p50 {step.p50:.1f} ms, p99 {step.p99:.1f} ms (direct p99 {step.direct_p99:.1f} ms)"
    client = f"client late by {step.late_p99:.1f} ms (p99), client and backend {step.busy:.2f} of a core"
    _say(f"{name}, {step.rate:.3g}/s: {times}; {counts}; CPU {step.cpu:.2f} ms a request; {client}")
    return step


def _about() -> Mapping[str, str]:
    """Return the day, the command and the machine.

    Call this function before anything is started: a high load average then shows that other work was running.
    """
    arguments = " ".join(f'"{one}"' if " " in one else one for one in sys.argv[1:])
    machine = f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}"
    load = os.getloadavg()[0]
    if load > _MAX_LOAD:
        machine += f", while other work kept it busy (load average {load:.1f})"
        _say(f"the load average is {load:.1f}: other work makes all times longer")
    command = f"python -m tests.bench.open_loop {arguments}".strip()
    return {"date": datetime.now(UTC).date().isoformat(), "command": command, "machine": machine}


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


_STARTS: Final[Mapping[str, Start]] = {
    NO_PROXY: no_proxy,
    RELAY: bare_relay,
    OURS: drpo,
    TWO: partial(drpo, workers=2),
    BASE: partial(drpo, kind="completion"),
    ROUTER: partial(vllm_router, say=_say),
}

if __name__ == "__main__":
    main()
