"""Tests the whole loop with real parts: model, workers, PostgreSQL, improve and experiment. Processes are killed."""

import asyncio
import itertools
import os
import shutil
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import openai
import orjson
import psycopg
import pytest

from index.bundle.bundle import read_bundle, write_bundle
from index.bundle.bundle_input import BundleInput
from index.embedders.registry import open_embedder
from index.types import Example, RetrievalPolicy
from optimizer.core.journal import read_journal
from optimizer.improve.rows import part_of
from proxy.backends.backend import Backend
from proxy.experiments.config import read_experiment
from tests.bench.policies.answer_cache import AnswerCache, caching
from tests.faults.process import Command, command
from tests.optimizer.improve.test_improve import replies, start, stopped_when
from tests.proxy.experiments.postgresql import PostgresqlServer

MODEL = "google/gemma-3-270m"
TOKENS = 20  # of an answer
AT_ONCE = 4
WANTED = {"sealed": 8, "train": 6, "validation": 4, "": 4}
"""How many questions of each part of the rows the users ask."""
FIRST = """
name = "first"
metrics = ["thumbs_up"]
[[arms]]
name = "raw"
variant = "raw-matched"
weight = 20
[[arms]]
name = "current"
variant = "aligned"
weight = 80
"""
SETTINGS = f"""
[models.task]
concurrency = 2
[reward]
weights = {{ rules = 1.0 }}
[search]
depth = 1
first = 2
queries = 6
max_tokens = {TOKENS}
[tune]
k = [0, 3]
order = []
queries = 4
[data]
raw = 2
[bundle]
write = "found"
[budget]
calls = 120
"""


def questions() -> list[str]:
    """Return different questions, as many of each part as are wanted."""
    left = Counter(WANTED)
    found = []
    for thing, what in itertools.product(
        ("tea", "rain", "iron", "bees", "chess", "jazz", "salt", "snow"), range(1, 40)
    ):
        question = f"What are {what} facts about {thing}?"
        if left[part := part_of(question)] > 0:
            left[part] -= 1
            found.append(question)
    return found


@dataclass
class Application:
    """An application with users, which sends requests and feedback until they are acknowledged.

    Attributes:
        server: The server.
        asked: The questions with an answer, by the id of the answer.
        rated: The acknowledged ratings, by the id of the answer.
        users: The user of each answer.
    """

    server: Command
    asked: dict[str, str] = field(default_factory=dict)
    rated: dict[str, float] = field(default_factory=dict)
    users: dict[str, str] = field(default_factory=dict)
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    async def ask_all(self, asked: Sequence[str], users: int) -> None:
        async with openai.AsyncOpenAI(base_url=self.server.url, api_key="none", max_retries=20) as client:
            await asyncio.gather(*(self._ask(client, n, one, users) for n, one in enumerate(asked)))

    async def _ask(self, client: openai.AsyncOpenAI, number: int, question: str, users: int) -> None:
        user, value = f"user-{number % users}", float(number % 3 == 0)
        async with self.turns:
            answer = await client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": question}],
                user=user,
                max_tokens=TOKENS,
            )
            self.asked[answer.id], self.users[answer.id] = question, user
            body = {"completion_id": answer.id, "metric": "thumbs_up", "value": bool(value)}
            for _ in range(2):  # a client that got no reply sends the feedback again
                await client.post("/feedback", body=body, cast_to=object)
            self.rated[answer.id] = value


def rows(url: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return list(connection.execute(statement.encode()))


def stored_ratings(url: str) -> dict[str, float]:
    """Return the value of each rated answer in the store. Each answer has one row."""
    found = rows(url, "SELECT subject, value FROM feedback WHERE metric = 'thumbs_up'")
    assert len({subject for subject, _ in found}) == len(found)
    return {str(subject): float(value) for subject, value in found}


@asynccontextmanager
async def store_that_hangs(url: str) -> AsyncIterator[Callable[[], bool]]:
    """Let readers of texts wait. Yield a function that says whether the optimizer waits."""
    with psycopg.connect(url, autocommit=True) as watching, psycopg.connect(url) as holding:
        holding.execute("LOCK TABLE contents IN ACCESS EXCLUSIVE MODE")
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'drpo-optimizer' "
            "AND wait_event_type = 'Lock'"
        )
        yield lambda: watching.execute(waiting).fetchone() == (1,)


def write_current(folder: Path) -> Path:
    """Write the bundle that is served at first: a plain prompt, without an example in any request."""
    sampling = {"max_tokens": TOKENS, "temperature": 0}
    example = Example("e", "What is water?", "Water is a clear liquid that people and animals drink.")
    draft = BundleInput("current", MODEL, "query-answer", "Answer.", [example], RetrievalPolicy(k=0), sampling, {})
    write_bundle(folder / "current", draft, open_embedder("multilingual"))
    return folder / "current"


def counts(out: Path) -> Mapping[str, Any]:
    return {name: orjson.loads((out / "harvest" / "harvest.json").read_bytes())[name] for name in ("read", "unused")}


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_loop_through_the_server_loses_nothing_and_counts_nothing_twice(
    postgresql: PostgresqlServer, tmp_path: Path
) -> None:
    store, current, experiments = postgresql.database("closedloop"), write_current(tmp_path), tmp_path / "experiments"
    experiments.mkdir()
    (experiments / "first.toml").write_text(FIRST)
    (tmp_path / "improve.toml").write_text(SETTINGS)
    flags = ("--workers", "2", "--store", store, "--store-content", "--experiment", str(experiments))
    async with command("--backend", "embedded", "--bundle", f"{MODEL}={current}", *flags, within=300) as server:
        application = Application(server)
        asking = asyncio.create_task(application.ask_all(questions(), users=10))
        while len(application.rated) < 10:
            await asyncio.sleep(0.02)
        os.kill(serving_workers(server)[0], signal.SIGKILL)
        await asking
        await server.logged("worker restarted", within=60)
        await asyncio.sleep(1)
        assert stored_ratings(store) == application.rated, "no acknowledged rating is lost, and none counts twice"
        recorded = rows(store, "SELECT completion_id FROM exposures")
        assert len(set(recorded)) == len(recorded)
        lost = set(application.asked) - {one for (one,) in recorded}
        assert len(lost) <= AT_ONCE, "at most what a worker had served in the quarter of a second before it died"

        with closing(AnswerCache(tmp_path / "answers.sqlite")) as cache:
            async with caching(Backend(server.url.removesuffix("/v1")), cache, "closed loop") as relay:
                common = ["--store", store, "--bundle", str(current), "--config", str(tmp_path / "improve.toml")]
                common += ["--base-url", f"{relay.url}/v1", "--out"]
                out = tmp_path / "killed" / "week-1"
                async with store_that_hangs(store) as is_read:
                    in_harvest, _ = await stopped_when(is_read, [*common, str(out)])
                assert not (out / "harvest" / "harvest.json").exists()
                in_run, _ = await stopped_when(lambda: replies(out) > 12, [*common, str(out)])
                assert (in_harvest, in_run) == (-signal.SIGKILL, -signal.SIGKILL)
                await improve([*common, str(out)])
                assert cache.found <= 2, "no answer is asked for again but those in flight at the kill"
                paid = cache.generated
                whole = tmp_path / "whole" / "week-1"
                await improve([*common, str(whole)])
                assert cache.generated == paid, "a run that is not killed asks for the same answers"
        assert counts(out) == counts(whole)
        assert counts(out)["read"] == {
            "requests": len(recorded),
            "with_text": len(recorded),
            "rated": len(set(application.rated) - lost),
            "commented": 0,
            "judged": 0,
        }
        for name in ("harvest/rows.jsonl", "harvest/examples.jsonl", "inputs/rows.jsonl", "metric.json"):
            assert (out / name).read_bytes() == (whole / name).read_bytes(), name
        assert (out / "bundle/manifest.json").read_bytes() == (whole / "bundle/manifest.json").read_bytes()
        assert scores(out) == scores(whole)
        assert "<h2>What to do next</h2>" in (out / "summary.html").read_text(encoding="utf-8")

        (experiments / "first.toml").unlink()
        shutil.copy(out / "experiment.toml", experiments)
        server.process.send_signal(signal.SIGHUP)
        await server.logged('"reloaded"', within=60)
        await asyncio.sleep(1)
        application.asked.clear()
        await application.ask_all(questions(), users=11)
        await asyncio.sleep(1)
        report = await report_of(server, "week-1")
    served = rows(store, "SELECT completion_id, arm, bundle FROM exposures WHERE experiment = 'week-1'")
    arms = {str(one): str(arm) for one, arm, _ in served}
    assert arms.keys() == application.asked.keys()
    experiment = read_experiment(out / "experiment.toml").experiment
    bundles = {(arm.name, read_bundle(Path(arm.bundle or "")).id[:12]) for arm in experiment.arms}
    assert {(arm, bundle) for _, arm, bundle in served} == bundles, "each arm is served with its bundle"
    units = Counter({application.users[one]: arm for one, arm in arms.items()}.values())
    assert report["exposed"] == dict(units)
    assert report["verdict"]["sentence"]


def serving_workers(server: Command) -> list[int]:
    return [pid for pid in server.workers() if b"proxy.server.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


async def improve(flags: Sequence[str]) -> None:
    process = await start(*flags)
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


def scores(out: Path) -> Counter[tuple[str, str, str, float]]:
    """Return how often each score of each candidate is in the journal."""
    found = [one for one in read_journal(out / "run") if one.get("note") == "score"]
    return Counter((one["stage"], one["candidate"], one["query"], one["score"]) for one in found)


async def report_of(server: Command, name: str) -> Any:
    """Return the report that the operator page shows."""
    async with aiohttp.ClientSession() as session, session.get(f"{server.admin_url}/experiments/{name}") as reply:
        assert reply.status == 200, await reply.text()
        return await reply.json()
