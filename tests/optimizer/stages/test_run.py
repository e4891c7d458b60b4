"""A whole run on scripted models.

It finds the better prompt, pays each call once even if the process is killed, stays within its budget, and writes a
bundle with the result of the sealed evaluation.
"""

import asyncio
import random
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from index.bundle.bundle import load_bundle
from index.embedders.registry import DEFAULT_EMBEDDER, open_embedder
from index.measures.confidence import Interval
from optimizer.__main__ import main
from optimizer.cli.run_command import show_result
from optimizer.core.config import read_config
from optimizer.core.errors import BudgetSpentError, ConfigError
from optimizer.core.journal import Journal, read_journal
from optimizer.core.model_tables import ModelTable
from optimizer.estimation.estimate import estimate
from optimizer.report.html_report import report_page
from optimizer.report.run_summary import summarize_run
from optimizer.stages.run_context import open_run_context
from tests.optimizer.scripted_models import CRITERIA, PROMPT, open_scripted_models, run_config, stable_number, write_run

ROOT = Path(__file__).resolve().parents[3]


def prompt_of(bundle: Path) -> str:
    return load_bundle(bundle, open_embedder(DEFAULT_EMBEDDER)).prompt


async def test_run_finds_a_better_prompt_confirms_it_on_sealed_queries_and_writes_it(tmp_path: Path) -> None:
    async with open_scripted_models() as (models, url):
        reward = {"weights": {"judge": 1.0}, "confirm": 5}
        result = await run_config(write_run(tmp_path, url, reward=reward), tmp_path / "out")
    assert prompt_of(result.bundle) == PROMPT + "+++"
    assert result.sealed.against["baseline"].preferred == Interval(1.0, 1.0, 1.0)
    assert result.sealed.improved
    assert result.sealed.against["baseline"].difference.low > 0
    assert max(models.paid.values()) == 1
    provenance = load_bundle(result.bundle, open_embedder(DEFAULT_EMBEDDER)).manifest.provenance
    assert provenance["sealed"]["improved"] is True  # type: ignore[index]  # free form


@pytest.mark.parametrize("bundle", [{}, {"write": "found"}], ids=str)
async def test_run_without_improvement_writes_the_baseline_and_says_that_it_is_not_new(
    bundle: Mapping[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_scripted_models(scores=lambda _quality, query: {"helpfulness": 3, "clarity": 4}) as (_, url):
        result = await run_config(write_run(tmp_path, url, bundle=bundle), tmp_path / "out")
        show_result(result, ModelTable(url, "task"))
    assert not result.sealed.improved
    assert (result.kept_start, result.is_found) == (True, False)
    assert prompt_of(result.bundle) == PROMPT
    for text in (capsys.readouterr().out, report_page(summarize_run(read_journal(tmp_path / "out")))):
        assert "The search kept its start, the baseline" in text
        assert "new bundle" not in text


async def test_first_candidate_that_differs_from_the_baseline_is_a_new_bundle(tmp_path: Path) -> None:
    async with open_scripted_models(scores=lambda _quality, query: {"helpfulness": 3, "clarity": 4}) as (_, url):
        config = write_run(tmp_path, url, bundle={"prompt": "Another prompt.", "write": "found"})
        result = await run_config(config, tmp_path / "out")
    assert (result.kept_start, result.is_found) == (False, True)


async def test_repeated_run_makes_no_call_and_writes_the_same_bundle(tmp_path: Path) -> None:
    async with open_scripted_models() as (models, url):
        config = write_run(tmp_path, url)
        first = await run_config(config, tmp_path / "out")
        manifest, requests = (first.bundle / "manifest.json").read_bytes(), len(models.requests)
        events = len(read_journal(tmp_path / "out"))
        second = await run_config(config, tmp_path / "out")
        assert (second.bundle / "manifest.json").read_bytes() == manifest
        assert len(models.requests) == requests
        assert len(read_journal(tmp_path / "out")) == events, "a note that is in the journal is not written again"


async def test_budget_is_never_exceeded_and_its_end_is_reported(tmp_path: Path) -> None:
    async with open_scripted_models(latency=0.002) as (models, url):
        config = write_run(tmp_path, url, budget={"tokens": 9_000})
        with pytest.raises(BudgetSpentError, match="the budget of tokens is spent"):
            await run_config(config, tmp_path / "out")
        assert sum(models.paid.values()) * 30 <= 9_000
        assert any(event.get("note") == "spent" for event in read_journal(tmp_path / "out"))
        result = await run_config(write_run(tmp_path, url), tmp_path / "out")
        assert result.sealed.improved, "the run continues with a larger budget"
        assert max(models.paid.values()) == 1


async def test_run_with_few_calls_ends_with_its_sealed_evaluation_and_continues_with_more(tmp_path: Path) -> None:
    async with open_scripted_models(latency=0.002) as (models, url):
        result = await run_config(write_run(tmp_path, url, budget={"calls": 150}), tmp_path / "out")
        assert result.spent_out
        assert sum(models.paid.values()) <= 150
        assert any(event.get("note") == "spent" for event in read_journal(tmp_path / "out"))
        result = await run_config(write_run(tmp_path, url), tmp_path / "out")
        assert result.sealed.improved, "the run continues with a larger budget"
        assert max(models.paid.values()) == 1


async def test_search_leaves_budget_for_the_sealed_evaluation(tmp_path: Path) -> None:
    async with open_scripted_models() as (_, url):
        search = {"beam": 4, "first": 16, "actions": 6, "propose": ["writer", "edits"]}
        result = await run_config(write_run(tmp_path, url, budget={"calls": 400}, search=search), tmp_path / "out")
    assert result.spent_out


async def test_too_few_calls_for_the_sealed_evaluation_are_refused_before_a_call_is_made(tmp_path: Path) -> None:
    async with open_scripted_models() as (models, url):
        with pytest.raises(ConfigError, match="calls = 50 leaves no call for the search"):
            await run_config(write_run(tmp_path, url, budget={"calls": 50}), tmp_path / "out")
    assert not models.paid


async def test_concurrency_limit_is_used_and_never_exceeded(tmp_path: Path) -> None:
    async with open_scripted_models(latency=0.05) as (models, url):
        tables = {f"models__{role}": {"concurrency": 3} for role in ("task", "optimizer", "judge")}
        await run_config(write_run(tmp_path, url, **tables), tmp_path / "out")
    assert 6 <= models.max_concurrent <= 9


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "optimizer", *arguments]


async def start_process(*arguments: str) -> asyncio.subprocess.Process:
    pipes: dict[str, Any] = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.STDOUT}
    return await asyncio.create_subprocess_exec(*command(*arguments), cwd=ROOT, **pipes)


@pytest.mark.slow
async def test_run_killed_at_twenty_moments_resumes_to_the_same_bundle_and_pays_no_call_twice(
    tmp_path: Path,
) -> None:
    chance, repeated = random.Random(0), 0
    async with open_scripted_models(latency=0.01) as (models, url):
        config = write_run(tmp_path, url)
        undisturbed = await run_config(config, tmp_path / "undisturbed")
        wanted = (undisturbed.bundle / "manifest.json").read_bytes()
        began = time.monotonic()
        whole = await start_process("run", str(config), "--out", str(tmp_path / "timed"))
        await whole.communicate()
        lasts = time.monotonic() - began
        for moment in range(20):
            models.paid.clear()
            models.bodies.clear()
            out = tmp_path / f"killed-{moment}"
            process = await start_process("run", str(config), "--out", str(out))
            reading = asyncio.create_task(process.communicate())
            await asyncio.sleep(chance.uniform(0.3, 1.0) * lasts)
            if process.returncode is None:
                process.send_signal(signal.SIGKILL)
            await reading
            if not (out / "events.jsonl").exists():
                continue  # the run had not started
            answered = {event["key"] for event in read_journal(out) if event.get("call") == "reply"}
            resumed = await start_process("resume", str(out))
            output, _ = await resumed.communicate()
            if b"never began" in output:
                continue
            assert resumed.returncode == 0, output.decode()
            assert (out / "bundle" / "manifest.json").read_bytes() == wanted, moment
            paid = models.paid_by_call(answered)
            assert all(paid[key] == 1 for key in answered), "a reply in the journal is never asked for again"
            again = [count - 1 for count in models.paid.values() if count > 1]
            assert all(count == 1 for count in again), "a call in progress is repeated once with the same key"
            assert len(again) <= 3 * 8, "no more calls are in progress than the concurrency allows"
            repeated += len(again)
    print(f"20 kills: {repeated} requests were in progress when the process died, and were repeated with the same key")


def test_mistake_in_run_toml_is_one_error_line_that_names_the_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path, "http://127.0.0.1:9/v1")
    good = (tmp_path / "run.toml").read_text()
    for old, new, complaint in (
        ("[search]", "[serach]", "run.toml: serach is unknown. The nearest known name is search"),
        ("depth = 3", "depht = 3", "[search] depht is unknown. The nearest known name is depth"),
        ("depth = 3", 'depth = "3"', "[search] depth must be a whole number, not '3'"),
        ("[models.task]", "[models.tsak]", "[models.task] is missing"),
        (
            '"judge" = 1.0',
            '"juge" = 1.0',
            "is no reward. A name in weights must be one of rules, reference, likelihood, taste, judge or",
        ),
        ('train = "train.jsonl"', 'train = "none.jsonl"', "none.jsonl cannot be read"),
        ('sealed = "sealed.jsonl"', 'sealed = "train.jsonl"', 'Give each of its rows a "split"'),
    ):
        assert old in good
        (tmp_path / "run.toml").write_text(good.replace(old, new))
        assert main(["run", str(tmp_path / "run.toml"), "--out", str(tmp_path / "out")]) == 1
        output = capsys.readouterr().err.strip()
        assert complaint in output
        assert "\n" not in output, "the run before is not in the way, because no model has replied to it"


def noisy_scores(quality: int, query: str) -> Mapping[str, int]:
    """Return scores that depend mostly on the query and on chance, and little on the prompt."""
    middle = 2.0 + stable_number(query, 3) + 0.1 * quality
    return {name: min(5, int(middle + stable_number(f"{query}{name}{quality}", 1000) / 1000)) for name in CRITERIA}


@pytest.mark.slow
async def test_estimate_contains_the_calls_of_eight_of_ten_seeds(tmp_path: Path) -> None:
    def write_seed(seed: int) -> Path:
        search = {"depth": 4, "first": 4, "queries": 24, "seed": seed}
        return write_run(tmp_path / f"seed-{seed}", url, search=search, tune={"k": [0, 1], "order": []})

    inside, marks = 0, (" worse", " equal")
    async with open_scripted_models(latency=0.002, scores=noisy_scores, marks=marks) as (models, url):
        with Journal(tmp_path / "estimate") as journal:
            async with open_run_context(read_config(write_seed(100)), journal, print) as context:
                expected = await estimate(context)
        for seed in range(10):
            models.requests.clear()
            await run_config(write_seed(seed), tmp_path / f"out-{seed}")
            inside += expected.calls.low <= len(models.requests) <= expected.calls.high
            print(seed, len(models.requests), expected.calls)
    assert inside >= 8
