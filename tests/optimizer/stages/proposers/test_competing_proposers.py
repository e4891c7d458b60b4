"""A run in which several proposers compete: the journal names them, and a killed run repeats all that they proposed."""

import asyncio
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from index.bundle.bundle import read_bundle
from optimizer.core.config_tables import PROPOSERS
from optimizer.core.journal import Event, read_journal
from optimizer.report.html_report import write_report
from optimizer.stages.proposers.novelty import SAME_AS_KNOWN, SAME_AS_PARENT
from tests.optimizer.scripted_models import PROMPT, open_scripted_models, run_config, write_run
from tests.optimizer.stages.test_run import start_process

ALL = ["writer", "edits", "examples", "retrieval"]
SEARCH: Mapping[str, Any] = {"propose": ALL, "depth": 3, "actions": 5, "beam": 2}
REWARD: Mapping[str, Any] = {"weights": {"judge": 0.5, "rules": 0.5}}


def notes(folder: Path, name: str) -> list[Event]:
    return [event for event in read_journal(folder) if event.get("note") == name]


async def test_journal_and_report_name_what_each_proposer_made_and_won(tmp_path: Path) -> None:
    async with open_scripted_models() as (_, url):
        result = await run_config(write_run(tmp_path, url, search=SEARCH, reward=REWARD), tmp_path / "out")
    first, *made = notes(tmp_path / "out", "candidate")
    assert "proposer" not in first
    assert {event["proposer"] for event in made} == set(ALL)
    assert all(event["change"] and event["part"] in ("prompt", "bank", "retrieval") for event in made)
    levels = notes(tmp_path / "out", "level")
    tried = {name: counts[0] for name, counts in levels[-1]["proposers"].items()}
    assert sum(tried.values()) == len(made)
    assert levels[-1]["proposers"]["writer"][1] > 0, "the writer's first rewrite is better than its parent"
    won = [key for level in levels for key in level["won"]]
    makers = {event["id"]: event["proposer"] for event in made}
    assert {name: counts[1] for name, counts in levels[-1]["proposers"].items()} == {
        name: sum(makers[key] == name for key in won) for name in ALL
    }
    assert read_bundle(result.bundle).prompt.count("+") > 0
    page = write_report(tmp_path / "out").read_text(encoding="utf-8")
    assert all(f'<th scope="row">{name}</th>' in page for name in ALL)


async def test_proposal_without_a_new_content_word_is_dropped_and_counted(tmp_path: Path) -> None:
    async with open_scripted_models() as (_, url):
        await run_config(write_run(tmp_path, url), tmp_path / "out")
    whys = [event["why"] for event in notes(tmp_path / "out", "dropped")]
    assert f"writer: {SAME_AS_PARENT}" in whys, "the scripted writer adds a dot"
    assert f"writer: {SAME_AS_KNOWN}" in whys
    prompts = {event["prompt"] for event in notes(tmp_path / "out", "candidate")}
    assert not {prompt for prompt in prompts if prompt.endswith("..")}


async def test_first_rewrites_see_what_failed_under_the_first_prompt(tmp_path: Path) -> None:
    async with open_scripted_models() as (models, url):
        await run_config(write_run(tmp_path, url, search={"depth": 1}), tmp_path / "out")
    (text,) = [text for model, text in models.requests if model == "optimizer"]
    assert f"Current system prompt:\n{PROMPT}\n" in text
    assert "answers to general queries: low score for clarity ---\n\nQuery: train question number" in text


@pytest.mark.parametrize("moment", [60, pytest.param(150, marks=pytest.mark.slow)])
async def test_killed_run_repeats_all_proposals(moment: int, tmp_path: Path) -> None:
    started: list[asyncio.subprocess.Process] = []

    def fault(_body: Mapping[str, Any]) -> None:
        if started and len(models.requests) >= moment:
            started.pop().send_signal(signal.SIGKILL)

    async with open_scripted_models(fault=fault) as (models, url):
        config = write_run(tmp_path, url, search=SEARCH, reward=REWARD)
        undisturbed = await run_config(config, tmp_path / "undisturbed")
        models.requests.clear()
        killed = await start_process("run", str(config), "--out", str(tmp_path / "killed"))
        started.append(killed)
        await killed.communicate()
        assert killed.returncode == -signal.SIGKILL
        answered = {event["key"] for event in read_journal(tmp_path / "killed") if event.get("call") == "reply"}
        models.paid.clear()
        models.bodies.clear()
        resumed = await start_process("resume", str(tmp_path / "killed"))
        output, _ = await resumed.communicate()
        assert resumed.returncode == 0, output.decode()
    assert not models.paid_by_call(answered), "no call whose reply is in the journal is sent again"
    manifest = (undisturbed.bundle / "manifest.json").read_bytes()
    assert (tmp_path / "killed" / "bundle" / "manifest.json").read_bytes() == manifest
    made = [[{**event, "at": 0} for event in notes(tmp_path / out, "level")] for out in ("undisturbed", "killed")]
    assert made[0] == made[1]


def test_proposers_of_the_tests_are_those_of_run_toml() -> None:
    assert set(ALL) < set(PROPOSERS)


async def test_search_from_nothing_fills_the_bank_from_the_pool(tmp_path: Path) -> None:
    pool = "".join(f'{{"query": "question number {n}", "response": "Answer {n}."}}\n' for n in range(40))
    (tmp_path / "pool.jsonl").write_text(pool)
    search = {"propose": ["examples"], "depth": 1, "actions": 3}
    async with open_scripted_models(scores=longer_prompts) as (models, url):
        config = write_run(
            tmp_path, url, search=search, bundle={"start": "empty", "write": "found"}, examples={"pool": "pool.jsonl"}
        )
        result = await run_config(config, tmp_path / "out")
    first = next(text for model, text in models.requests if model == "task")
    assert first.startswith("You are a helpful assistant.\ntrain question")
    bundle = read_bundle(result.bundle)
    assert bundle.prompt == "You are a helpful assistant."
    assert {one.response for one in bundle.examples} <= {f"Answer {n}." for n in range(40)}


async def test_search_from_nothing_that_finds_nothing_writes_a_bundle_without_examples(tmp_path: Path) -> None:
    search = {"propose": ["edits"], "depth": 1}
    async with open_scripted_models(scores=lambda _quality, _query: {"helpfulness": 3, "clarity": 4}) as (_, url):
        config = write_run(tmp_path, url, search=search, bundle={"start": "empty"}, tune={"k": [], "order": []})
        result = await run_config(config, tmp_path / "out")
    assert (read_bundle(result.bundle).prompt, len(read_bundle(result.bundle).examples)) == (
        "You are a helpful assistant.",
        0,
    )


def longer_prompts(_quality: int, _query: str) -> Mapping[str, int]:
    """Return the same scores for all prompts."""
    return {"helpfulness": 2, "clarity": 2}
