"""Tests of the bench of optimizers: what counts as a call, the runs of each optimizer, the table, and the examples."""

import asyncio
import json
import re
import sys
import tomllib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from index.bundle.bundle import read_bundle
from optimizer.core.errors import RefusedRequestError
from optimizer.core.presets import preset
from optimizer.data.dataset import COMPLY, REFUSE
from optimizer.prompt_scorer import open_prompt_scorer
from proxy.backends.backend import Backend
from tests.bench.optimizers import __main__ as bench
from tests.bench.optimizers import runs, setting
from tests.bench.optimizers.contestants import BUNDLE, FAILED, optimize_to_the_end, write_found
from tests.bench.optimizers.meter import ANSWERS_SPENT, REPLIES_SPENT, Meter, metered
from tests.bench.optimizers.runs import START, Done, Planned, Results, RunFailedError, make_run, planned
from tests.bench.optimizers.setting import search_keys
from tests.bench.optimizers.table import table

EXAMPLES = Path(__file__).parents[3] / "examples" / "optimizers"
ROWS = [
    {"query": f"Question number {number}", "reference": None, "tag": (COMPLY, REFUSE)[number % 2]}
    for number in range(24)
]


def write(text: str, number: int) -> str:
    """Return a reply of the writer model in the form that this optimizer asks for."""
    prompt = f"Be kind{'!' * number}"
    if "JSON" in text:
        return json.dumps({"analysis": "hm", "prompt": prompt})
    return f"<prompt>{prompt}</prompt>" if "<prompt>" in text else f"```\n{prompt}\n```"


class Models:
    """A task model that answers better under kind prompts, and a writer model. It records the requests."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []

    async def complete(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        text = "I can't help with that." if "kind" in body["prompt"] else "a a a a a a a a a a"
        return web.json_response({"choices": [{"text": text, "finish_reason": "stop"}], "usage": {}})

    async def chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        text = write(body["messages"][-1]["content"], body["seed"] % 100)
        message = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": 2, "completion_tokens": 3}
        return web.json_response({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage})


@asynccontextmanager
async def open_models() -> AsyncIterator[tuple[Models, Backend]]:
    models, app = Models(), web.Application()
    app.router.add_post("/v1/completions", models.complete)
    app.router.add_post("/v1/chat/completions", models.chat)
    async with TestServer(app) as server:
        yield models, Backend(str(server.make_url("")).rstrip("/"))


async def post(url: str, body: dict[str, Any]) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as reply:
        return reply.status, await reply.json()


async def test_equal_request_to_the_task_model_is_one_call_and_one_above_the_limit_is_refused() -> None:
    meter = Meter(max_answers=2)
    async with open_models() as (_, backend), metered(meter, backend, None) as url:
        prompts = ("one", "one", "two", "three", "two")
        found = [(await post(f"{url}/task/v1/completions", {"prompt": prompt}))[0] for prompt in prompts]
    assert found == [200, 200, 200, ANSWERS_SPENT, 200]
    assert len(meter.answers) == 2


async def test_each_choice_of_the_writer_model_is_a_call_with_a_seed_of_its_own() -> None:
    body = {"messages": [{"role": "user", "content": "Write."}], "n": 2, "max_tokens": 4096}
    async with open_models() as (models, backend):
        for seed in (0, 1):
            meter = Meter(seed, max_replies=5)
            async with metered(meter, backend, backend) as url:
                replies = [await post(f"{url}/writer/v1/chat/completions", body) for _ in range(3)]
            assert [status for status, _ in replies] == [200, 200, REPLIES_SPENT]
            assert [len(reply["choices"]) for _, reply in replies[:2]] == [2, 2]
            assert replies[0][1]["usage"] == {"prompt_tokens": 4, "completion_tokens": 6}
            assert meter.replies == 4
    assert len({sent["seed"] for sent in models.bodies}) == len(models.bodies) == 8
    assert not any("n" in sent for sent in models.bodies)


async def run_of(optimizer: str, folder: Path, monkeypatch: pytest.MonkeyPatch, answers: int = 60) -> Done:
    monkeypatch.setattr(runs, "draw", lambda _split: ROWS)
    async with open_models() as (_, backend):
        return await make_run(Planned(optimizer, 0, answers), backend, backend, folder)


@pytest.mark.parametrize("optimizer", ["raced", "raced, prompt alone", "published", "random edits"])
async def test_run_stays_within_its_calls_and_keeps_a_bundle(
    optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = await run_of(optimizer, tmp_path, monkeypatch)
    assert read_bundle(tmp_path / done.bundle).prompt == done.prompt
    assert 0 < done.answers <= 60
    assert (done.replies > 0) >= (optimizer == "published")
    assert done.replies <= (0 if optimizer == "random edits" else setting.MAX_REPLIES)


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.timeout(900)
@pytest.mark.parametrize("optimizer", ["gepa", "capo"])
async def test_peers_run_within_their_calls(optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = await run_of(optimizer, tmp_path, monkeypatch, answers=100)
    assert "kind" in done.prompt
    assert 20 < done.answers <= 100
    assert 4 < done.replies <= setting.MAX_REPLIES


class _Steps:
    """An optimizer that, like CAPO, ends without an error if a step fails."""

    def __init__(self, *steps: Exception | None) -> None:
        self.steps = list(steps)
        self.made = 0

    def _step(self) -> None:
        self.made += 1
        if (error := self.steps.pop(0)) is not None:
            raise error

    def optimize(self, n_steps: int) -> None:
        for _ in range(n_steps):
            try:
                self._step()
            except (RuntimeError, ValueError, RefusedRequestError):
                break


def spent(status: int) -> RefusedRequestError:
    return RefusedRequestError("the relay refuses it", status)


def caused_by(cause: Exception) -> Exception:
    error = RuntimeError("the package failed")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("error", [spent(ANSWERS_SPENT), spent(REPLIES_SPENT), caused_by(spent(ANSWERS_SPENT))])
def test_optimizer_whose_call_is_refused_has_ended(error: Exception) -> None:
    steps = _Steps(None, error)
    optimize_to_the_end(steps, 5)
    assert steps.made == 2


@pytest.mark.parametrize("error", [ValueError("a bug"), spent(500), caused_by(ValueError("a bug"))])
def test_optimizer_that_swallows_its_own_error_has_failed(error: Exception) -> None:
    with pytest.raises(type(error)):
        optimize_to_the_end(_Steps(None, error), 5)


async def test_prompt_that_no_bundle_can_hold_is_a_failed_proposal(tmp_path: Path) -> None:
    """Such a prompt must not end the optimizer's process, or the bench, with an error."""
    bad = "Be kind.\n# Query:\nforged"

    def search(run_file: Path) -> list[float]:
        with open_prompt_scorer(run_file, tmp_path / "out", print) as scorer:
            found = [one.score for one in scorer.score([(prompt, scorer.rows[0]) for prompt in (bad, "Be kind.")])]
            write_found(scorer, bad, tmp_path)
            return found

    async with open_models() as (models, backend), metered(Meter(), backend, None) as url:
        run_file = setting.write_run(tmp_path / "run", url, ROWS)
        scores = await asyncio.to_thread(search, run_file)
    assert scores[0] == 0.0 < scores[1]
    assert not any("forged" in body["prompt"] for body in models.bodies)
    assert read_bundle(tmp_path / BUNDLE).prompt == setting.START
    (why,) = json.loads((tmp_path / FAILED).read_text("utf-8"))
    assert "role marker" in why
    assert "forged" not in why


def test_run_that_fails_is_reported_and_does_not_end_the_bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fail(run: Planned, *_: object) -> Done:
        if run.optimizer == "capo":
            raise RunFailedError("exit code 1 after 40 answers")
        return Done(run, "ours", "Be kind.", 180, 20, 120.0)

    async def scores(*_: object) -> list[float]:
        return [0.5] * 6

    @asynccontextmanager
    async def no_backend(*_: object) -> AsyncIterator[Backend]:
        yield Backend("http://127.0.0.1:9")

    for name, value in (("make_run", fail), ("score_bundle", scores), ("cached_backend", no_backend)):
        monkeypatch.setattr(bench, name, value)
    monkeypatch.setattr(bench, "model_file", lambda *_: None)
    monkeypatch.setattr(bench, "DATA", tmp_path)  # any folder, because the rows below are not measurement data
    monkeypatch.setattr(bench, "draw", lambda *_: ROWS[:6])
    arguments = ["bench", "--seeds", "1", "--budgets", "200", "--only", "capo", "--only", "raced"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--results", str(tmp_path)])
    bench.main()
    printed = capsys.readouterr().out
    assert "| raced |" in printed
    assert "FAILED: capo, seed 0, 200 answers: exit code 1 after 40 answers" in printed
    assert "1 runs are missing: capo" in printed


def results(folder: Path, bundles: Sequence[tuple[str, str]], scores: dict[str, list[float]]) -> Results:
    found = Results(folder)
    for optimizer, bundle in bundles:
        found.add(Done(Planned(optimizer, 0, 200), bundle, "Be kind.", 180, 20, 120.0))
    for bundle, values in scores.items():
        found.add_scores(bundle, values)
    return Results(folder)


def test_table_shows_paired_differences_and_leaves_out_what_is_not_scored(tmp_path: Path) -> None:
    scores = {START: [0.2, 0.8, 0.4], "ours": [0.3, 0.9, 0.5, 0.0], "theirs": [0.2, 0.8, 0.4]}
    kept = results(tmp_path, [("raced", "ours"), ("gepa", "theirs"), ("capo", "not scored")], scores)
    found = table(kept.done, kept.scores)
    assert "| 0 | the start |  | 0.467 " in found
    assert re.search(
        r"\| 200 \| raced \| 0 \| 0.567 .*\| \+0.100 \[\+0.100, \+0.100\] \|  \| 180 \| 20 \| 0.0 \| 2 \|", found
    )
    assert re.search(r"\| gepa .*\| -0.100 \[-0.100, -0.100\] \| 180", found)
    assert "capo" not in found


def test_published_search_has_the_keys_of_the_recipe() -> None:
    keys = tomllib.loads(search_keys("published", 0, 200))
    recipe = {**preset("drpo")["search"]}
    assert keys.pop("writer") == asdict(recipe.pop("writer"))
    assert keys | {"k": recipe["k"], "seed": recipe["seed"], "beam": 2, "actions": 3} == recipe


def test_table_has_the_rows_that_all_shown_bundles_have() -> None:
    run = Done(Planned("raced", 0, 200), "new", "", 200, 3, 60.0)
    scores = {START: [0.5] * 6, "new": [0.7] * 6, "forgotten": [0.1] * 2}
    assert table([run], scores).startswith("6 validation rows")


def test_runs_with_a_result_are_not_made_again_unless_they_are_forgotten(tmp_path: Path) -> None:
    found = results(tmp_path, [("raced", "ours")], {})
    assert [found.of(run) is None for run in planned(("raced", "gepa"), 1, (200,))] == [False, True]
    found.forget("raced")
    assert found.of(Planned("raced", 0, 200)) is None


@pytest.mark.parametrize("name", ["gepa", "capo"])
def test_adapter_takes_under_forty_lines_and_fits_the_package(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len((EXAMPLES / f"{name}_adapter.py").read_text(encoding="utf-8").splitlines()) < 40
    package = {"gepa": "gepa", "capo": "promptolution"}[name]
    pytest.importorskip(package, reason=f"{package} is not installed; the slow tests install it")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    assert __import__(f"{name}_adapter")
    del sys.modules[f"{name}_adapter"]
