"""Measures the CPU time that an experiment adds to a request, and the feedback rate: docs/benchmarks.md.

    python -m tests.bench.experiment_cost [--seconds 3] [--repeats 5]

It compares drpo-proxy with and without an experiment. The proxy runs on core 0. The load and the backend (nginx) share
core 1. Both arms are `aligned`, so that the proxies serve the same requests in the same way. The store is SQLite, on
the disk of the temporary folder. Each reply to feedback follows a synchronous commit. The bench needs nginx and wrk.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from functools import partial
from pathlib import Path
from typing import Final

from tests.bench.peers.gateways import Gateway, drpo
from tests.bench.peers.load import HERE, Cell, nginx, press
from tests.bench.peers.machine import OTHERS_CORE, program, usage

_CONNECTIONS: Final = 32
_FEEDBACK_CONNECTIONS: Final = 64
_CELLS: Final = (Cell("2 KB", 2_000), Cell("2 KB, each query new", 2_000, fresh=True))
_FILE: Final = """
name = "bench"
metrics = ["thumbs_up"]
control = "one"
[[arms]]
name = "one"
variant = "aligned"
weight = 50
[[arms]]
name = "two"
variant = "aligned"
weight = 50
"""


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=3, help="length of each measurement [3]")
    parser.add_argument("--repeats", type=int, default=5, help="of each measurement [5]")
    options = parser.parse_args()
    os.sched_setaffinity(0, {OTHERS_CORE})
    with tempfile.TemporaryDirectory() as name, nginx(Path(name)) as backend:
        folder = Path(name)
        (folder / "experiment.toml").write_text(_FILE, encoding="utf-8")
        more = ["--experiment", str(folder / "experiment.toml"), "--store", f"sqlite:{folder}/bench.sqlite3"]
        with_experiment = partial(drpo, backend, folder, more=more)
        with drpo(backend, folder) as off, with_experiment() as on:
            _chat(off, on, folder, options.seconds, options.repeats)
            _feedback(on, options.seconds, options.repeats)


def _chat(off: Gateway, on: Gateway, folder: Path, seconds: int, repeats: int) -> None:
    print(f"\n| CPU per request, {_CONNECTIONS} connections | without | with an experiment | ratio of each pair |")
    print("| --- | --- | --- | --- |")
    for cell in _CELLS:
        pairs = []
        for repeat in range(repeats):
            seed = f"{os.getpid()} {repeat} "
            order = (off, on) if repeat % 2 else (on, off)
            found = {one.url: press(one, cell, _CONNECTIONS, seconds, seed, folder) for one in order}
            pairs.append((1e6 * found[off.url].cpu, 1e6 * found[on.url].cpu))
        medians = [statistics.median(side) for side in zip(*pairs, strict=True)]
        ratios = [on_cpu / off_cpu for off_cpu, on_cpu in pairs]
        ratio = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        print(f"| {cell.name} | {medians[0]:.0f} µs | {medians[1]:.0f} µs | {ratio} |", flush=True)


def _feedback(gateway: Gateway, seconds: int, repeats: int) -> None:
    print(f"\n| POST /v1/feedback, {_FEEDBACK_CONNECTIONS} connections | per second | CPU each | p99 | failed |")
    print("| --- | --- | --- | --- | --- |")
    headers = "\n".join(f"{name}: {value}" for name, value in gateway.headers.items())
    command = [program("wrk", "wrk"), "--threads", "1", "--connections", str(_FEEDBACK_CONNECTIONS), "--latency"]
    command += ["--duration", f"{seconds}s", "--script", str(HERE / "feedback.lua"), f"{gateway.url}/v1/feedback"]
    for repeat in range(repeats):
        environment = {**os.environ, "HEADERS": headers, "SEED": f"{os.getpid()}-{repeat}"}
        before = usage(gateway.pid) if gateway.pid else None
        output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        after = usage(gateway.pid) if gateway.pid else None
        counts = json.loads(output.split("RESULT ", 1)[1])
        cpu = (after.seconds - before.seconds) / max(1, counts["requests"]) if after and before else 0.0
        rate = counts["requests"] / (counts["microseconds"] / 1e6)
        times = f"{rate:,.0f} | {1e6 * cpu:.0f} µs | {counts['p99'] / 1e3:.0f} ms | {counts['failed']} |"
        print(f"| run {repeat + 1} | {times}", flush=True)


if __name__ == "__main__":
    main()
