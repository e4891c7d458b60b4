"""Measures how well an optimization run uses a slow judge, by level of the search: docs/benchmarks.md.

    python -m tests.bench.throughput            prints the table

A scripted judge takes 200 ms for each reply, 32 at a time. The other models answer at once. The ideal time is the
number of judge calls times the latency, divided by the concurrency. The models run in another process, on the same
machine as the run.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from optimizer.core.config import read_config
from optimizer.core.journal import Event, Journal, read_journal
from optimizer.stages.run import run
from tests.optimizer.scripted_models import open_scripted_models, write_run

LATENCY = 0.2  # seconds
CONCURRENCY = 32


def main() -> None:
    """Run the optimization and print each level."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        events = asyncio.run(_run(Path(folder)))
    print("| level | calls of the judge | ideal | took | took / ideal |")
    print("| --- | --- | --- | --- | --- |")
    for number, (calls, took) in enumerate(levels(events), start=1):
        ideal = calls * LATENCY / CONCURRENCY
        print(f"| {number} | {calls} | {ideal:.2f} s | {took:.2f} s | {took / ideal:.2f} |")


async def _run(folder: Path) -> Sequence[Event]:
    async with _served() as url:
        models = {f"models__{role}": {"concurrency": CONCURRENCY} for role in ("task", "optimizer", "judge")}
        search = {"depth": 3, "beam": 2, "actions": 3, "first": 64, "block": 16, "queries": 64}
        config = write_run(folder, url, rows=64, search=search, **models)
        with Journal(folder / "out") as journal:
            await run(read_config(config), folder / "out", journal, print)
    return read_journal(folder / "out")


@asynccontextmanager
async def _served() -> AsyncIterator[str]:
    """Run the scripted models in another process, and yield their base URL."""
    command = [sys.executable, "-c", "from tests.bench.throughput import serve; serve()"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.kill()
        await process.wait()


def serve() -> None:
    """Serve the models until the process is killed. The first line of output is the base URL."""

    async def forever() -> None:
        async with open_scripted_models(judge_latency=LATENCY) as (_, url):
            print(url, flush=True)
            await asyncio.Event().wait()

    asyncio.run(forever())


def levels(events: Sequence[Event]) -> Iterator[tuple[int, float]]:
    """Yield the number of judge calls and the seconds of each level."""
    began, calls = 0.0, 0
    for event in events:
        if event.get("note") == "stage" and event["stage"] == "prompt":
            began, calls = event["at"], 0
        elif event.get("call") == "reply" and event["role"] == "judge":
            calls += 1
        elif event.get("note") == "level":
            yield calls, event["at"] - began
            began, calls = event["at"], 0


if __name__ == "__main__":
    main()
