"""Tests of the command improve on scripted models and a real store, also if it is killed."""

import asyncio
import json
import signal
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from index.bundle.bundle import read_bundle
from optimizer.__main__ import main
from optimizer.core.config import read_config
from optimizer.core.journal import read_journal
from optimizer.data.preferences import read_preferences
from optimizer.improve.rows import part_of
from proxy.experiments.config import read_experiment
from tests.optimizer.improve.given import (
    LIKED,
    disliked_queries,
    expected_part,
    queries_of,
    write_bundle_and_config,
    write_store,
)
from tests.optimizer.scripted_models import CRITERIA, PROMPT, ScriptedModels, open_scripted_models

PARTS = ("train", "validation", "sealed")
ROOT = Path(__file__).resolve().parents[3]


async def improve(*flags: str) -> int:
    return await asyncio.to_thread(main, ["improve", *flags])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


async def test_feedback_becomes_a_better_bundle_and_an_experiment_that_the_proxy_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, out = write_store(tmp_path), tmp_path / "improve-1"
    async with open_scripted_models() as (models, url):
        flags = [*write_bundle_and_config(tmp_path, url), "--store", store, "--out", str(out)]
        assert await improve(*flags) == 0
        assert read_bundle(out / "bundle").prompt.startswith(PROMPT + "+")
        experiment = read_experiment(out / "experiment.toml").experiment
        assert (experiment.name, experiment.control) == ("improve-1", "current")
        assert [Path(arm.bundle or "") for arm in experiment.arms] == [tmp_path / "start", out / "bundle"]
        assert [metric.name for metric in experiment.metrics] == ["thumbs_up"]
        assert {guardrail.metric.name for guardrail in experiment.guardrails} == {
            "ended_by_itself",
            "error",
            "regenerated",
        }
        for query in disliked_queries(60):
            assert query in queries_of(out / "inputs" / "rows.jsonl", expected_part(query))
        page = (out / "summary.html").read_text(encoding="utf-8")
        assert "The new bundle is better than the current bundle" in page
        assert "prompt\n" in page
        assert f"planned_units = {experiment.planned_units}" in page
        assert f"drpo-proxy experiment report {out}/experiment.toml --store {store}" in capsys.readouterr().out
        before, requests = contents(out), len(models.requests)
        assert await improve(*flags) == 0
        assert contents(out) == before, "a finished step is not repeated"
        assert len(models.requests) == requests


@pytest.mark.parametrize("write", ["better", "found"])
async def test_search_that_kept_the_current_bundle_leaves_nothing_to_test(
    write: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, out = write_store(tmp_path), tmp_path / "out"
    async with open_scripted_models(scores=lambda _quality, _query: {"helpfulness": 3, "clarity": 4}) as (_, url):
        flags = write_bundle_and_config(tmp_path, url, f'[bundle]\nwrite = "{write}"\n')
        assert await improve(*flags, "--store", store, "--out", str(out)) == 0
    assert not (out / "experiment.toml").exists()
    assert not (out / "bundle").exists()
    output, page = capsys.readouterr().out, (out / "summary.html").read_text(encoding="utf-8")
    for found in (output, page):
        assert "The search kept its start, the current bundle" in found
        assert "Keep the current bundle" in found
        assert "new bundle" not in found


async def test_bundle_that_is_found_but_not_better_leaves_nothing_to_test(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def scores(quality: int, query: str) -> Mapping[str, int]:
        return dict.fromkeys(CRITERIA, 3 if part_of(query) == "sealed" else min(5, 1 + quality))

    store, out = write_store(tmp_path), tmp_path / "out"
    async with open_scripted_models(scores=scores) as (_, url):
        flags = write_bundle_and_config(tmp_path, url)
        assert await improve(*flags, "--store", store, "--out", str(out)) == 0
    assert not (out / "experiment.toml").exists()
    assert not (out / "bundle").exists()
    assert (
        "The search found nothing that is better than the current bundle by more than chance" in capsys.readouterr().out
    )


async def test_own_rows_keep_their_part_and_take_precedence_over_feedback(tmp_path: Path) -> None:
    store, out = write_store(tmp_path), tmp_path / "out"
    moved = next(query for query in disliked_queries(60) if expected_part(query) == "sealed")
    rows = [{"query": "My own question?", "split": "sealed"}, {"query": moved.upper(), "split": "train"}]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    more = '[data]\ntrain = "own.jsonl"\nsealed = "own.jsonl"\nraw = 4\n'
    async with open_scripted_models() as (_, url):
        flags = write_bundle_and_config(tmp_path, url, more)
        assert await improve(*flags, "--store", store, "--out", str(out)) == 0
    found = out / "inputs" / "rows.jsonl"
    assert "My own question?" in queries_of(found, "sealed")
    assert moved.upper() in queries_of(found, "train")
    assert moved not in queries_of(found, "sealed")
    assert "raw = 4" in (out / "run" / "run.toml").read_text()


async def test_flags_alone_are_enough_and_pairs_reach_the_run(tmp_path: Path) -> None:
    subjects = [subject for subject in LIKED if part_of(f"What is {subject}?") != "sealed"]
    queries = {part: next(one for one in disliked_queries(60) if expected_part(one) == part) for part in PARTS}
    comments = {query: f"A wish about {part}." for part, query in queries.items()}
    store, out = write_store(tmp_path, commented={subjects[0]: "Say more."}, comments=comments), tmp_path / "out"
    async with open_scripted_models() as (_, url):
        write_bundle_and_config(tmp_path, url)
        flags = ["--bundle", str(tmp_path / "start"), "--base-url", url, "--kind", "chat"]
        assert await improve(*flags, "--store", store, "--out", str(out)) == 0
    before = contents(out)
    assert await improve(*flags, "--store", store, "--out", str(out)) == 0, "a finished folder needs no server"
    assert contents(out) == before
    found = read_preferences(out / "inputs" / "preferences.jsonl")
    (pair,) = found.pairs
    assert set(found.comments) == {"A wish about train.", "A wish about validation."}
    assert (pair.query, pair.rejected, pair.comment) == (f"What is {subjects[0]}?", "Dunno.", "Say more.")
    config = read_config(out / "run" / "run.toml", out / "inputs")
    assert config.data.preferences == out / "inputs" / "preferences.jsonl"
    assert config.models["task"].model == "task", "the first model that the server lists"
    assert config.budget.calls == 5_000
    assert config.reward.weights == {"rules": 0.25, "taste": 0.5}, "no row has a reference"
    assert found.ratings
    assert not [one for one in found.ratings if part_of(one.query) == "sealed"]


async def start(*flags: str) -> asyncio.subprocess.Process:
    command = [sys.executable, "-m", "optimizer", "improve", *flags]
    pipes = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.STDOUT}
    return await asyncio.create_subprocess_exec(*command, cwd=ROOT, **pipes)  # type: ignore[arg-type]


async def stopped_when(is_time: Callable[[], bool], flags: Sequence[str], by: int = signal.SIGKILL) -> tuple[int, str]:
    """Start the command and stop it at a moment. Return its exit code and its output."""
    process = await start(*flags)
    reading = asyncio.create_task(process.communicate())
    while not is_time():
        assert process.returncode is None, (await reading)[0].decode()
        await asyncio.sleep(0.005)
    process.send_signal(by)
    output, _ = await reading
    assert process.returncode is not None
    return process.returncode, output.decode()


def replies(out: Path) -> int:
    """Return how many calls in the journal have a reply; 0 without a journal."""
    path = out / "run" / "events.jsonl"
    return sum(event.get("call") == "reply" for event in read_journal(out / "run")) if path.exists() else 0


def paid_replies(models: ScriptedModels, out: Path) -> Counter[str]:
    """Return, for each call with a reply in the journal, how many replies the server has sent.

    There are two if the command was killed after the first reply was sent and before it was in the journal.
    """
    return models.paid_by_call({event["key"] for event in read_journal(out / "run") if event.get("call") == "reply"})


@pytest.mark.timeout(400)  # it starts the command five times
async def test_command_killed_in_the_harvest_and_in_the_run_continues_and_counts_nothing_twice(tmp_path: Path) -> None:
    store = write_store(tmp_path)
    async with open_scripted_models(latency=0.01) as (models, url):
        common = [*write_bundle_and_config(tmp_path, url), "--store", store, "--out"]
        undisturbed = tmp_path / "whole" / "same"
        assert await improve(*common, str(undisturbed)) == 0
        models.paid.clear()
        models.bodies.clear()
        out = tmp_path / "killed" / "same"
        killed, _ = await stopped_when((out / "improve.json").exists, [*common, str(out)])
        killed_again, _ = await stopped_when(lambda: replies(out) > 40, [*common, str(out)])
        assert (killed, killed_again) == (-signal.SIGKILL, -signal.SIGKILL)
        after_kill = paid_replies(models, out)
        interrupted, said = await stopped_when(lambda: replies(out) > 80, [*common, str(out)], signal.SIGINT)
        assert interrupted == 130
        assert "give the same command again" in said
        after_interrupt = paid_replies(models, out)
        process = await start(*common, str(out))
        output, _ = await process.communicate()
        assert process.returncode == 0, output.decode()
        for paid in (after_kill, after_interrupt):
            assert min(paid.values()) >= 1
            assert models.paid_by_call(paid) == paid, "a reply in the journal is never asked for again"
    for name in ("bundle/manifest.json", "inputs/rows.jsonl", "metric.json", "harvest/harvest.json"):
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes(), name
    written = (undisturbed / "experiment.toml").read_text().replace(str(undisturbed), str(out))
    assert (out / "experiment.toml").read_text() == written


@pytest.mark.parametrize(
    ("given", "changed", "message"),
    [
        ({"disliked": 0}, {}, "has no request"),
        ({"logs_content": False}, {}, "--store-content"),
        ({"disliked": 3}, {}, "too little feedback"),
        ({}, {"--bundle": "nowhere"}, "no directory nowhere"),
        ({}, {"--store": "sqlite:none"}, "this file does not exist"),
        ({}, {"--base-url": None}, "no model server is named"),
        ({}, {"--config": "none.toml"}, "cannot be read"),
        ({}, {"--at-least": "0"}, "--at-most must be below"),
    ],
)
async def test_error_says_what_is_wrong_and_what_to_do(
    given: dict[str, object],
    changed: dict[str, str | None],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    named = write_bundle_and_config(tmp_path, "http://127.0.0.1:9/v1")
    flags: dict[str, str | None] = dict(zip(named[::2], named[1::2], strict=True))
    flags |= {"--store": write_store(tmp_path, **given), "--out": str(tmp_path / "out"), **changed}  # type: ignore[arg-type]
    given_flags = [part for name, value in flags.items() if value is not None for part in (name, value)]
    assert await improve(*given_flags) == 1
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("store", "another store"),
        ("bundle", "another bundle"),
        ("feedback", "another feedback"),
        ("files", "other files"),
    ],
)
async def test_folder_of_another_improvement_is_not_continued(
    change: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    flags = [*write_bundle_and_config(tmp_path, "http://127.0.0.1:9/v1"), "--out", str(out)]
    store = write_store(tmp_path, disliked=3)
    if change == "files":
        out.mkdir()
        (out / "notes.txt").touch()
    else:
        assert await improve(*flags, "--store", store) == 1, "too little feedback"
    if change == "store":
        (tmp_path / "s.sqlite3").rename(tmp_path / "t.sqlite3")
        store = f"sqlite:{tmp_path}/t.sqlite3"
    more = {"bundle": ["--bundle", "hand-written"], "feedback": ["--words", "9"]}.get(change, [])
    capsys.readouterr()
    assert await improve(*flags, "--store", store, *more) == 1
    assert message in capsys.readouterr().err
