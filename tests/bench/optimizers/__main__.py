"""Compares prompt optimizers at equal cost: docs/benchmarks.md.

    python -m tests.bench.optimizers                          all runs, then the table
    ... --seeds 1 --budgets 200                               fewer runs
    ... --only gepa --only raced                              some optimizers
    ... --again raced                                         repeats the runs of an optimizer
    ... --table                                               prints only the table of the finished runs

The base model answers. All optimizers have the same rows, rewards, examples and starting prompt. Each optimizer may use
20 replies of the writer model, and 200 or 600 answers of the task model (meter.py defines what counts). The bundles
that the optimizers find are scored on validation rows. Results are kept in the cache folder, and answers in the cache
of tests/bench/policies/answer_cache.py: to continue a bench that was stopped, give the same command again.
"""

import argparse
import asyncio
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from proxy.backends.backend import Backend
from tests.bench.embedders import say
from tests.bench.optimizers.runs import START, Planned, Results, RunFailedError, make_run, planned, score_bundle
from tests.bench.optimizers.setting import OPTIMIZERS, draw
from tests.bench.optimizers.table import table
from tests.bench.policies.answers import cached_backend
from tests.measurement import DATA, VALIDATION
from tests.model_files import CHAT, model_file
from tools.keep import cache_root

_WRITER_CONTEXT = 6144  # tokens


def main() -> None:
    """Make the missing runs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (%(default)s)")
    parser.add_argument("--budgets", type=_numbers, default=[200, 600], help="limits of answers (200,600)")
    parser.add_argument("--only", action="append", choices=OPTIMIZERS, help="repeatable")
    parser.add_argument("--again", action="append", choices=OPTIMIZERS, default=[], help="repeatable")
    parser.add_argument("--validation", type=int, default=20, help="validation rows of each kind (%(default)s)")
    parser.add_argument("--table", action="store_true", help="make no run")
    parser.add_argument("--results", type=Path, default=cache_root() / "optimizers", help="%(default)s")
    options = parser.parse_args()
    if not DATA.is_dir():
        print(f"optimizers: NOT MEASURED, the measurement data is not at {DATA}; set DRPO_DATA to its folder")
        return
    results = Results(options.results)
    for name in options.again:
        results.forget(name)
    runs = planned(options.only or OPTIMIZERS, options.seeds, options.budgets)
    if not options.table:
        with suppress(asyncio.CancelledError, KeyboardInterrupt):
            asyncio.run(make_all(runs, results, options.validation))
    missing = [run for run in runs if results.of(run) is None]
    print(table(results.done, results.scores))
    print(f"\n{len(missing)} runs are missing: {'; '.join(map(str, missing))}" if missing else "")
    for name in [str(run) for run in missing if str(run) in results.failures]:
        print(f"FAILED: {name}: {results.failures[name]}")


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


async def make_all(runs: Sequence[Planned], results: Results, validation: int) -> None:
    """Make the runs whose results are missing, and score the bundles on `validation` rows of each kind."""
    if running := asyncio.current_task():  # the process of the optimizer ends with this one
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    missing = [run for run in runs if results.of(run) is None]
    started, calls = time.monotonic(), 0
    async with cached_backend() as task, cached_backend(model_file(CHAT, say), _WRITER_CONTEXT) as writer:
        for number, run in enumerate(missing):
            if number and (run.seed, run.answers) != (missing[number - 1].seed, missing[number - 1].answers):
                await _score_all(runs, results, task, validation)
            say(f"run {number + 1} of {len(missing)}: {run}{_estimate(started, calls, missing[number:])}")
            try:
                results.add(await make_run(run, task, writer, results.folder))
            except RunFailedError as error:
                say(f"{run}: FAILED: {error}")
                results.add_failure(run, str(error))
            calls += run.answers
        await _score_all(runs, results, task, validation)


async def _score_all(runs: Sequence[Planned], results: Results, task: Backend, validation: int) -> None:
    """Score the starting bundle and the bundles that were found, unless they already have scores."""
    found = [done.bundle for done in map(results.of, runs) if done is not None]
    rows = draw(VALIDATION, validation)
    missing = [it for it in dict.fromkeys([START, *found]) if len(results.scores.get(it, ())) < len(rows)]
    for number, name in enumerate(missing, start=1):
        say(f"scoring bundle {number} of {len(missing)} on {len(rows)} validation rows")
        bundle = results.folder / name if name != START else None
        results.add_scores(name, await score_bundle(bundle, rows, task))


def _estimate(started: float, calls: int, left: Sequence[Planned]) -> str:
    if not calls:
        return ""
    seconds = (time.monotonic() - started) / calls * sum(run.answers for run in left)
    return f", about {seconds / 60:.0f} minutes left"


if __name__ == "__main__":
    main()
