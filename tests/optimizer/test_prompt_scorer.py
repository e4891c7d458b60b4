"""Tests that another optimizer's prompts are scored as a run scores them, and that nothing is asked twice."""

import asyncio
import gc
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from index.bundle.bundle import read_bundle
from optimizer.core.errors import BudgetSpentError, RefusedRequestError
from optimizer.core.journal import read_journal
from optimizer.prompt_scorer import ScoredAnswer, open_prompt_scorer
from tests.optimizer.scripted_models import PROMPT, open_scripted_models, run_config, write_run


def score(run_file: Path, folder: Path, prompt: str) -> list[ScoredAnswer]:
    with open_prompt_scorer(run_file, folder) as scorer:
        return scorer.score([(prompt, row) for row in scorer.rows[:4]])


def write_twice(run_file: Path, folder: Path) -> list[str]:
    with open_prompt_scorer(run_file, folder) as scorer:
        return scorer.write(["Write a prompt."]) + scorer.write(["Write a prompt."])


async def test_scores_are_those_of_a_run(tmp_path: Path) -> None:
    async with open_scripted_models() as (_, base_url):
        run_file = write_run(tmp_path, base_url, reward={"weights": {"rules": 0.5, "judge": 0.5}})
        await run_config(run_file, tmp_path / "run")
        scored = await asyncio.to_thread(score, run_file, tmp_path / "scorer", PROMPT)
    events = [event for event in read_journal(tmp_path / "run") if event.get("note") == "score"]
    of_run = {event["answer"]: event["score"] for event in events if event["stage"] == "prompt"}
    assert {one.answer: one.score for one in scored}.items() <= of_run.items()
    assert all("rules: ends 1.00" in one.feedback and "clarity" in one.feedback for one in scored)


async def test_nothing_is_asked_again_also_after_an_interruption(tmp_path: Path) -> None:
    async with open_scripted_models() as (models, base_url):
        run_file = write_run(tmp_path, base_url)
        first = await asyncio.to_thread(score, run_file, tmp_path / "scorer", "Be kind.+")
        asked = models.paid.total()
        assert await asyncio.to_thread(score, run_file, tmp_path / "scorer", "Be kind.+") == first
        assert models.paid.total() == asked > 0
        await asyncio.to_thread(score, run_file, tmp_path / "scorer", "Be brief.")
        assert models.paid.total() > asked


async def test_writer_model_is_asked_anew_for_an_equal_text(tmp_path: Path) -> None:
    numbers = iter(range(10))

    def write(body: Mapping[str, Any]) -> tuple[int, bytes] | None:
        message = {"role": "assistant", "content": f"prompt {next(numbers)}"}
        return 200, json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode()

    async with open_scripted_models(fault=write) as (_, base_url):
        run_file = write_run(tmp_path, base_url)
        assert await asyncio.to_thread(write_twice, run_file, tmp_path / "scorer") == ["prompt 0", "prompt 1"]
        assert await asyncio.to_thread(write_twice, run_file, tmp_path / "scorer") == ["prompt 0", "prompt 1"]


async def test_budget_of_run_toml_holds(tmp_path: Path) -> None:
    async with open_scripted_models() as (models, base_url):
        run_file = write_run(tmp_path, base_url, budget={"calls": 3})
        with pytest.raises(BudgetSpentError):
            await asyncio.to_thread(score, run_file, tmp_path / "scorer", PROMPT)
        assert models.paid.total() <= 3


def write_bundles(run_file: Path, folder: Path, *prompts: str) -> None:
    with open_prompt_scorer(run_file, folder) as scorer:
        for number, prompt in enumerate(prompts):
            scorer.write_bundle(prompt, folder / f"bundle {number}")


async def test_written_bundle_is_the_start_with_another_prompt(tmp_path: Path) -> None:
    async with open_scripted_models() as (_, base_url):
        run_file = write_run(tmp_path, base_url)
        await asyncio.to_thread(write_bundles, run_file, tmp_path / "scorer", "Be kind.", PROMPT)
    kind, same = (read_bundle(tmp_path / "scorer" / f"bundle {number}") for number in range(2))
    start = read_bundle(tmp_path / "start")
    assert (kind.prompt, same.prompt) == ("Be kind.", PROMPT)
    assert kind.examples == same.examples == start.examples
    assert kind.manifest.retrieval == start.manifest.retrieval


def refused_scores(run_file: Path, folder: Path) -> None:
    with open_prompt_scorer(run_file, folder) as scorer:
        for prompt in ("Be kind.", "Be brief."):
            with pytest.raises(RefusedRequestError, match="402"):
                scorer.score([(prompt, row) for row in scorer.rows[:4]])
    gc.collect()


async def test_refused_calls_print_no_stack_trace(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The first refusal cancels the callers of the other calls, so nobody waits for the errors of these calls."""
    async with open_scripted_models(fault=lambda _body: (402, b'{"error": {"message": "spent"}}')) as (_, base_url):
        run_file = write_run(tmp_path, base_url, budget={"calls": 1000})
        await asyncio.to_thread(refused_scores, run_file, tmp_path / "scorer")
    assert not [record for record in caplog.records if record.name == "asyncio"]
