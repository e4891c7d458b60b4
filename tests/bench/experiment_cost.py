"""What an experiment costs a request, and how much feedback is taken: drpo-proxy with one against without.

    python -m tests.bench.experiment_cost [--seconds 3] [--repeats 5]

The proxy has core 0, load and backend (nginx) core 1. Both arms are `aligned`, so that what is served is the same. The
store is SQLite, on the disk of the temporary folder; each answer to feedback is a commit that was synchronised.
Needs nginx and wrk.
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
_VOTERS: Final = 64
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
        with_one = partial(drpo, backend, folder, more=more)
        with drpo(backend, folder) as off, with_one() as on:
            _chat(off, on, folder, options.seconds, options.repeats)
            _votes(on, options.seconds, options.repeats)


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
        ratios = [with_one / without for without, with_one in pairs]
        told = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        print(f"| {cell.name} | {medians[0]:.0f} µs | {medians[1]:.0f} µs | {told} |", flush=True)


def _votes(gateway: Gateway, seconds: int, repeats: int) -> None:
    print(f"\n| POST /v1/feedback, {_VOTERS} connections | per second | CPU each | p99 | failed |")
    print("| --- | --- | --- | --- | --- |")
    headers = "\n".join(f"{name}: {value}" for name, value in gateway.headers.items())
    command = [program("wrk", "wrk"), "--threads", "1", "--connections", str(_VOTERS), "--latency"]
    command += ["--duration", f"{seconds}s", "--script", str(HERE / "feedback.lua"), f"{gateway.url}/v1/feedback"]
    for repeat in range(repeats):
        environment = {**os.environ, "HEADERS": headers, "SEED": f"{os.getpid()}-{repeat}"}
        before = usage(gateway.pid) if gateway.pid else None
        said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        after = usage(gateway.pid) if gateway.pid else None
        told = json.loads(said.split("RESULT ", 1)[1])
        cpu = (after.seconds - before.seconds) / max(1, told["requests"]) if after and before else 0.0
        rate = told["requests"] / (told["microseconds"] / 1e6)
        times = f"{rate:,.0f} | {1e6 * cpu:.0f} µs | {told['p99'] / 1e3:.0f} ms | {told['failed']} |"
        print(f"| run {repeat + 1} | {times}", flush=True)


if __name__ == "__main__":
    main()
