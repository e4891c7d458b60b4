"""Runs the rounds of a taste: users rate answers, `improve` makes a bundle, and users test it in an experiment."""

import asyncio
import json
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import orjson

from index.bundle.bundle import default_bundle_directory, read_bundle, write_bundle
from index.bundle.bundle_input import BundleInput
from index.embedders.registry import open_embedder
from proxy.backends.embedded.model_file import MODEL_NAME
from proxy.experiments.analysis.report_builder import report_of
from proxy.experiments.command import outcomes_of
from proxy.experiments.config import read_experiment
from proxy.experiments.records import Feedback
from proxy.experiments.store.dsn import dsn_of
from proxy.experiments.store.store import Batch, Store
from tests.bench.embedders import say
from tests.bench.tastes.hidden import TASTES
from tests.bench.tastes.population import asks, thumb
from tests.bench.tastes.world import Answered, Model, ask_all, open_proxy, read_answers

TEMPERATURE: Final = 0.7
_PROMPT: Final = "Below are queries from people, each with the answer of a helpful assistant."
_ARM: Final = """
[[arms]]
name = "{name}"
bundle = "{bundle}"
weight = 50
"""
_RUN: Final = """[bundle]
write = "found"
[data]
raw = 0
[budget]
calls = {calls}
[search]
propose = ["examples"]
beam = 1
actions = 2
depth = 1
queries = 60
alpha = 0.02
[tune]
k = []
order = []
policy = []
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """The settings of the simulation.

    Attributes:
        out: The folder with the journal and all results.
        questions: The questions.
        users: Number of users whose ratings are harvested.
        testers: Number of users of each experiment.
        each: Number of questions that a user asks.
        draws: Number of answers to each question that the first bundle samples.
        calls: Number of calls that a run of the optimizer may make.
        tokens: The maximum length of an answer in tokens.
        rounds: Number of improvements.
        seed: The seed.
    """

    out: Path
    questions: Sequence[str]
    users: int
    testers: int
    each: int
    draws: int
    calls: int
    tokens: int
    rounds: int
    seed: str

    @property
    def start(self) -> Path:
        """The directory of the first bundle."""
        return self.out / "start"

    @property
    def recorded(self) -> Path:
        """The folder of the first answers, which all tastes share."""
        return self.out / "recorded"


def experiment_text(name: str, control: Path, treatment: Path) -> str:
    """Return an experiment file with two bundles, which may be the same."""
    head = f'name = "{name}"\ncontrol = "control"\nmetrics = ["thumbs_up"]\nplanned_units = 400\n'
    arms = (("control", control), ("treatment", treatment))
    return head + "".join(_ARM.format(name=arm, bundle=bundle.resolve()) for arm, bundle in arms)


def write_start(plan: Plan) -> None:
    """Write the first bundle: a plain prompt, and the nearest one of the examples of the hand-written bundle.

    Its requests are short, because the bench needs thousands of answers on a CPU.
    """
    if plan.start.exists():
        return
    bundle = read_bundle(default_bundle_directory())
    manifest = bundle.manifest
    policy = replace(manifest.retrieval, policy="nearest", k=1, neutral_set=None, similarity_floor=None)
    draft = BundleInput(
        name="start",
        model=manifest.model,
        layout=manifest.layout,
        retrieval=policy,
        sampling={**manifest.sampling, "temperature": TEMPERATURE, "max_tokens": plan.tokens},
        prompt=_PROMPT,
        examples=tuple(replace(one, pinned=False) for one in bundle.examples),
        provenance={},
    )
    write_bundle(plan.start, draft, open_embedder(manifest.embedder.name))


async def record(plan: Plan, model: Model) -> None:
    """Let the users ask the first bundle, in an experiment of two equal arms. Nobody rates yet."""
    folder = plan.recorded
    if (folder / "done").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "recorded.toml"
    file.write_text(experiment_text("recorded", plan.start, plan.start), encoding="utf-8")
    wanted = asks(plan.users, plan.each, len(plan.questions), plan.draws, plan.seed)
    say(f"{len(wanted)} requests of {plan.users} users to the first bundle")
    before = model.cache.generated
    async with open_proxy(model, plan.start, file, f"sqlite:{folder}/store.sqlite3") as url:
        await ask_all(url, wanted, plan.questions, folder / "answers.jsonl", None)
    say(f"{model.cache.generated - before} answers generated")
    (folder / "done").touch()


async def run_taste(plan: Plan, model: Model, name: str) -> Mapping[str, Any]:
    """Run all rounds of a taste, or continue them. Return what was found."""
    folder = plan.out / name
    folder.mkdir(exist_ok=True)
    _rate_recorded(plan, folder, name)
    found: dict[str, Any] = {"taste": name, "first": _share(read_answers(plan.recorded / "answers.jsonl"), name)}
    bundle = plan.start
    for number in range(1, plan.rounds + 1):
        result = await _round(plan, model, name, bundle, number)
        found[f"round {number}"] = result
        made = folder / f"improve-{number}" / "bundle"
        bundle = made if result["decision"] == "better" else bundle
    if bundle != plan.start and plan.rounds > 1:
        found["last against first"] = await _last_against_first(plan, model, name, bundle)
    return found


def _rate_recorded(plan: Plan, folder: Path, name: str) -> None:
    """Copy the store of the first answers, and add the ratings of this taste by the function that the proxy uses."""
    store = folder / "store.sqlite3"
    if store.exists():
        return
    made = folder / "new.sqlite3"
    shutil.copyfile(plan.recorded / "store.sqlite3", made)
    rated = [
        Feedback(one.request_id, "thumbs_up", _thumb(plan, name, "recorded", one), None, 1.0)
        for one in read_answers(plan.recorded / "answers.jsonl")
    ]
    with Store(dsn_of(f"sqlite:{made}")) as opened:
        opened.write(Batch((), (), (), rated))
    made.rename(store)


def _thumb(plan: Plan, name: str, phase: str, one: Answered) -> float:
    return thumb(one.ask, one.answer, TASTES[name], f"{plan.seed}:{name}", phase)


def _share(answers: Sequence[Answered], name: str) -> float:
    """Return the share of answers that meet a taste."""
    return round(sum(TASTES[name](one.answer) for one in answers) / max(1, len(answers)), 3)


async def _round(plan: Plan, model: Model, name: str, bundle: Path, number: int) -> Mapping[str, Any]:
    """Improve a bundle, and test the new bundle on the users. A finished round is not repeated."""
    folder = plan.out / name
    result = folder / f"round-{number}.json"
    if result.exists():
        found: Mapping[str, Any] = json.loads(result.read_bytes())
        return found
    before = model.cache.generated
    out = folder / f"improve-{number}"
    log = await _improve(plan, model, folder, bundle, number)
    by_run = model.cache.generated - before
    if not (out / "bundle").exists():
        return _keep(result, {"decision": "no new bundle", "generated": by_run, "log": log})
    tested = await _test(plan, model, name, bundle, out / "experiment.toml", f"round-{number}")
    return _keep(result, {**tested, "generated": model.cache.generated - before, "by the run": by_run})


def _keep(path: Path, found: Mapping[str, Any]) -> Mapping[str, Any]:
    temporary = path.with_suffix(".new")
    temporary.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    temporary.rename(path)
    return found


async def _improve(plan: Plan, model: Model, folder: Path, bundle: Path, number: int) -> str:
    """Run the command improve, or continue it. Return its last lines."""
    config, out = folder / "run.toml", folder / f"improve-{number}"
    config.write_text(_RUN.format(calls=plan.calls), encoding="utf-8")
    name_server(out / "run" / "run.toml", model.url)
    command = [
        *(sys.executable, "-m", "optimizer", "improve", "--store", f"sqlite:{folder}/store.sqlite3"),
        *("--bundle", str(bundle), "--out", str(out), "--base-url", f"{model.url}/v1"),
        *("--model", MODEL_NAME, "--config", str(config)),
    ]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=pipe,
        stderr=asyncio.subprocess.STDOUT,
        stdin=asyncio.subprocess.DEVNULL,
        env={**os.environ, "DRPO_API_KEY": model.key},
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    with (folder / f"improve-{number}.log").open("ab") as file:
        file.write(output)
    text = output.decode("utf-8", "replace")
    if process.returncode:
        raise SystemExit(f"improve ended with {process.returncode}:\n{text[-3000:]}")
    return text[-600:]


def name_server(begun: Path, url: str) -> None:
    """Write the address of the model server into a run that has begun: the port is new at each start."""
    if begun.exists():
        text = begun.read_text(encoding="utf-8")
        begun.write_text(re.sub(r"http://127\.0\.0\.1:\d+", url, text), encoding="utf-8")


async def _last_against_first(plan: Plan, model: Model, name: str, bundle: Path) -> Mapping[str, Any]:
    """Compare the last bundle with the first one on the users. Their answers are in the cache already."""
    folder = plan.out / name
    result = folder / "last-against-first.json"
    if result.exists():
        found: Mapping[str, Any] = json.loads(result.read_bytes())
        return found
    file = folder / "last-against-first.toml"
    file.write_text(experiment_text("last-against-first", plan.start, bundle), encoding="utf-8")
    return _keep(result, await _test(plan, model, name, plan.start, file, "last-against-first"))


async def _test(plan: Plan, model: Model, name: str, bundle: Path, file: Path, phase: str) -> Mapping[str, Any]:
    """Serve an experiment to the users, and return its verdict."""
    folder = plan.out / name
    store = f"sqlite:{folder}/store.sqlite3"
    wanted = asks(plan.testers, plan.each, len(plan.questions), 1, f"{plan.seed}:{phase}")
    say(f"{name}: {len(wanted)} requests of {plan.testers} users to the experiment of {phase}")
    async with open_proxy(model, bundle, file, store) as url:
        await ask_all(
            url, wanted, plan.questions, folder / f"{phase}.jsonl", lambda one: _thumb(plan, name, phase, one)
        )
    return _verdict(file, store)


def _verdict(file: Path, store: str) -> Mapping[str, Any]:
    """Return what the report of an experiment says."""
    report = report_of(read_experiment(file).experiment, outcomes_of(dsn_of(store)))
    first = report.comparisons[0]
    return {
        "decision": report.verdict.decision,
        "sentence": report.verdict.sentence,
        "liked": [first.control_mean.mean, first.arm_mean.mean],
        "users": [first.control_mean.units, first.arm_mean.units],
        "difference": first.anytime and [first.anytime.low, first.anytime.high],
    }
