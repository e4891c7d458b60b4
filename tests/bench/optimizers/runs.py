"""Makes the runs of the optimizers, and keeps their results, so that a stopped bench can be continued."""

import asyncio
import json
import os
import shutil
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from index.bundle.bundle import read_bundle
from optimizer.prompt_scorer import open_prompt_scorer
from proxy.backends.backend import Backend
from tests.bench.embedders import say
from tests.bench.optimizers.contestants import BUNDLE, FAILED
from tests.bench.optimizers.meter import Meter, metered
from tests.bench.optimizers.setting import MAX_REPLIES, as_row, draw, search_keys, write_run
from tests.bench.peers.install import python_of
from tests.measurement import TRAIN

START: Final = ""
"""The key of the starting bundle in `Results.scores`."""
_PEERS: Final = ("gepa", "capo")
_PROGRESS_INTERVAL: Final = 30.0  # seconds
_ROOT: Final = Path(__file__).parents[3]


@dataclass(frozen=True, slots=True)
class Planned:
    """One run: an optimizer with a seed and a limit of answers."""

    optimizer: str
    seed: int
    answers: int

    def __str__(self) -> str:
        return f"{self.optimizer}, seed {self.seed}, {self.answers} answers"


@dataclass(frozen=True, slots=True)
class Done:
    """The result of a run.

    Attributes:
        run: The run.
        bundle: The name of the bundle that it found, in the folder of the results.
        prompt: The system prompt of this bundle.
        answers: The number of its calls to the task model.
        replies: The number of its calls to the writer model.
        seconds: Its duration, without the time for answers that an earlier run had generated.
        failed: The number of its proposals that no bundle can hold.
    """

    run: Planned
    bundle: str
    prompt: str
    answers: int
    replies: int
    seconds: float
    failed: int = 0


class RunFailedError(Exception):
    """An optimizer ended with an error, or without a bundle."""


class Results:
    """The results so far, in a folder: those of runs, and the scores of bundles on validation rows.

    Attributes:
        folder: The folder.
        done: The results of runs.
        scores: The score on each validation row, by the name of the bundle. The name of the starting bundle is empty.
        failures: Why the last try of a run failed, by the name of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / "results.json"
        kept = json.loads(self._path.read_text("utf-8")) if self._path.exists() else {}
        self.done = [Done(**{**one, "run": Planned(**one["run"])}) for one in kept.get("done", [])]
        self.scores: dict[str, list[float]] = kept.get("scores", {})
        self.failures: dict[str, str] = kept.get("failures", {})

    def of(self, run: Planned) -> Done | None:
        return next((one for one in self.done if one.run == run), None)

    def add(self, done: Done) -> None:
        self.done = [one for one in self.done if one.run != done.run] + [done]
        self.failures.pop(str(done.run), None)
        self._write()

    def add_failure(self, run: Planned, why: str) -> None:
        self.failures[str(run)] = why
        self._write()

    def add_scores(self, bundle: str, scores: Sequence[float]) -> None:
        self.scores[bundle] = list(scores)
        self._write()

    def forget(self, optimizer: str) -> None:
        """Forget the runs of an optimizer whose code has changed."""
        self.done = [one for one in self.done if one.run.optimizer != optimizer]

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part, kept = self._path.with_suffix(".part"), {"done": [asdict(one) for one in self.done]}
        part.write_text(json.dumps({**kept, "scores": self.scores, "failures": self.failures}), "utf-8")
        part.replace(self._path)


async def make_run(run: Planned, task: Backend, writer: Backend, kept: Path) -> Done:
    """Run one optimizer in a process of its own, print its progress, and keep its bundle in the folder `kept`.

    Raises:
        RunFailedError: The optimizer failed.
    """
    meter = Meter(run.seed, run.answers, MAX_REPLIES)
    started = time.monotonic()
    with TemporaryDirectory() as place:
        async with metered(meter, task, writer) as url:
            folder = Path(place)
            search = search_keys(run.optimizer, run.seed, run.answers)
            run_file = write_run(folder, url, draw(TRAIN), search)
            command = await asyncio.to_thread(_command, run, run_file, folder)
            process = await asyncio.create_subprocess_exec(*command, env=_environment(), cwd=_ROOT)
            try:
                await _with_progress(process, run, meter)
            except asyncio.CancelledError:
                process.terminate()
                await process.wait()
                raise
        if process.returncode or not (folder / BUNDLE).exists():
            raise RunFailedError(f"exit code {process.returncode} after {len(meter.answers)} answers")
        failed = json.loads((folder / FAILED).read_text("utf-8")) if (folder / FAILED).exists() else []
        bundle = read_bundle(folder / BUNDLE)
        shutil.copytree(folder / BUNDLE, kept / bundle.id, dirs_exist_ok=True)
    seconds = time.monotonic() - started
    done = Done(run, bundle.id, bundle.prompt, len(meter.answers), meter.replies, seconds, len(failed))
    for why, count in Counter(failed).items():
        say(f"{run}: {count} failed proposals: {why}")
    say(f"{run}: ended after {done.answers} answers and {done.replies} replies, {done.seconds:.0f} s")
    return done


def _command(run: Planned, run_file: Path, folder: Path) -> list[str]:
    python = str(python_of("optimizers", say)) if run.optimizer in _PEERS else sys.executable
    numbers = ["--seed", str(run.seed), "--answers", str(run.answers)]
    return [python, "-m", "tests.bench.optimizers.contestants", run.optimizer, str(run_file), str(folder), *numbers]


def _environment() -> dict[str, str]:
    """Return the environment variables of the peers' process.

    The environment of the peers has only their packages, so the packages of this project come from its own environment.
    """
    path = [str(_ROOT), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(path))}


async def _with_progress(process: Any, run: Planned, meter: Meter) -> None:
    ended = asyncio.create_task(process.wait())
    started = time.monotonic()
    while not (await asyncio.wait([ended], timeout=_PROGRESS_INTERVAL))[0]:
        answers = len(meter.answers)
        pace = answers / (time.monotonic() - started)
        left = f", at most {(run.answers - answers) / pace / 60:.0f} minutes left" if answers else ""
        say(f"{run}: {answers} answers, {meter.replies} of {MAX_REPLIES} replies{left}")


async def score_bundle(bundle: Path | None, rows: Sequence[dict[str, Any]], task: Backend) -> list[float]:
    """Return the score of a bundle on each row. None stands for the starting bundle."""
    with TemporaryDirectory() as place:
        async with metered(Meter(), task, None) as url:
            run_file = write_run(Path(place), url, rows, start=str(bundle or ""))

            def score() -> list[float]:
                with open_prompt_scorer(run_file, Path(place), say) as scorer:
                    return [one.score for one in scorer.score([(scorer.start.prompt, as_row(row)) for row in rows])]

            return await asyncio.to_thread(score)


def planned(optimizers: Sequence[str], seeds: int, budgets: Sequence[int]) -> list[Planned]:
    """Return all runs in their order: the cheap ones first, so that a stopped bench has a whole table."""
    first = Planned("", 0, 0)
    return [
        replace(first, optimizer=optimizer, seed=seed, answers=answers)
        for seed in range(seeds)
        for answers in budgets
        for optimizer in optimizers
    ]
