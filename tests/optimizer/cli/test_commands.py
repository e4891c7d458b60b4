"""Tests of the commands judge-check, diff and report, and of rewards that a user wrote."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any

import pytest

from index.bundle.bundle import write_bundle
from index.bundle.bundle_input import BundleInput
from index.bundle.sets_file import with_prompts
from index.embedders.registry import DEFAULT_EMBEDDER, open_embedder
from index.types import Example, ExampleSet, RetrievalPolicy
from optimizer.__main__ import main
from optimizer.cli.tables import budget_note
from optimizer.core.budget import Limits
from optimizer.estimation.estimate import Estimate, Range
from optimizer.evaluation.judge_agreement import Judgement, Pair, agreement
from optimizer.report.html_report import write_report
from tests.measurement import DATA, needs_data
from tests.optimizer.rewards.test_judge_formats import judge_that_writes
from tests.optimizer.scripted_endpoint import ScriptedEndpoint, completion
from tests.optimizer.scripted_models import open_scripted_models, run_config, write_run


def recorded(row: dict[str, Any], *, swapped: bool) -> str:
    """Return the recorded reply of GPT-4 to a pair in one order."""
    results: list[dict[str, Any]] = row["gpt4_swap"]["results"]
    return str(results[0][f"swap = {swapped}"]["completion"][0])


def replay(rows: Sequence[dict[str, Any]]) -> ScriptedEndpoint:
    """Return a judge that replays the replies of GPT-4 to the same pair in the same order."""
    by_pair = {(row["instruction"], row["output_1"], row["output_2"]): recorded(row, swapped=False) for row in rows}
    by_pair |= {(row["instruction"], row["output_2"], row["output_1"]): recorded(row, swapped=True) for row in rows}

    def script(body: dict[str, Any], _variant: str) -> Any:
        prompt = body["messages"][0]["content"]
        query = prompt.split("Query:\n", 1)[1].split("\n\nAnswer A:\n", 1)[0]
        first = prompt.split("\n\nAnswer A:\n", 1)[1].split("\n\nAnswer B:\n", 1)[0]
        second = prompt.split("\n\nAnswer B:\n", 1)[1].split("\n\nReply with JSON only", 1)[0]
        return completion(by_pair[query, first, second])

    return ScriptedEndpoint(script)


def by_hand(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Compute the shares that the command prints directly from the recorded replies."""
    first, right, readable, both, consistent, complete = 0, 0, 0, 0, 0, 0
    for row in rows:
        preferences = [
            re.findall(r"Output \(([ab])\) is better", recorded(row, swapped=swapped)) for swapped in (False, True)
        ]
        chosen = [
            {"a": 1, "b": 2}[preferences[0][-1]] if preferences[0] else None,
            {"a": 2, "b": 1}[preferences[1][-1]] if preferences[1] else None,
        ]
        readable += sum(choice is not None for choice in chosen)
        right += sum(choice == row["label"] for choice in chosen)
        first += (chosen[0] == 1) + (chosen[1] == 2)
        if None not in chosen:
            complete += 1
            consistent += chosen[0] == chosen[1]
            both += chosen[0] == chosen[1] == row["label"]
    shares = right / readable, both / complete, consistent / complete, first / readable, readable / (2 * len(rows))
    return [f"{share:.3f}" for share in shares]


@needs_data
async def test_judge_check_prints_the_agreement_of_recorded_judgements(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    data = DATA / "llmbar.jsonl"
    rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    async with replay(rows).server() as server:
        arguments = ["judge-check", "--data", str(data), "--base-url", str(server.make_url("/v1"))]
        assert await asyncio.to_thread(main, [*arguments, "--out", str(tmp_path / "out")]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if f"all ({len(rows)})" in line)
    assert re.findall(r"(\d\.\d{3}) \[", line) == by_hand(rows)


@pytest.mark.parametrize("written", [("json", "letter", "text"), ("letter", "text"), ("letter",), ("text",)], ids=str)
async def test_judge_check_asks_in_the_format_that_the_judge_can_write(
    written: Sequence[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    data = tmp_path / "pairs.jsonl"
    pairs = [{"query": f"Why {number}?", "first": "So.", "second": "No.", "better": 1} for number in range(4)]
    data.write_text("\n".join(map(json.dumps, pairs)))
    async with judge_that_writes(*written).server() as server:
        arguments = ["judge-check", "--data", str(data), "--base-url", str(server.make_url("/v1"))]
        assert await asyncio.to_thread(main, arguments) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "all (4)" in line)
    assert re.findall(r"(\d\.\d{3}) \[", line)[-2:] == ["1.000", "1.000"], "it prefers the first shown; all is readable"


async def test_judge_check_of_a_judge_that_writes_nothing_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    data = tmp_path / "pairs.jsonl"
    data.write_text(json.dumps({"query": "Why?", "first": "So.", "second": "No.", "better": 1}))
    async with judge_that_writes().server() as server:
        arguments = ["judge-check", "--data", str(data), "--base-url", str(server.make_url("/v1"))]
        assert await asyncio.to_thread(main, arguments) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "all (1)" in line)
    assert "0.000 [" in line


def test_unreadable_reply_counts_only_against_readability() -> None:
    pair = Pair("q", "a", "b", 1, "")
    found = agreement([Judgement(pair, 1, 1), Judgement(pair, 2, None), Judgement(pair, None, None)])
    assert found.readable.estimate == pytest.approx(3 / 6)
    assert found.accuracy.estimate == pytest.approx(2 / 3)
    assert found.both.estimate == 1.0
    assert found.first_shown.estimate == pytest.approx(1 / 3)


def test_two_orders_of_a_pair_are_not_independent() -> None:
    pairs = [Pair(f"q{number}", "a", "b", 1, "") for number in range(20)]
    found = agreement([Judgement(pair, 1 + number % 2, 1 + number % 2) for number, pair in enumerate(pairs)])
    assert found.accuracy.high - found.accuracy.low == pytest.approx(found.both.high - found.both.low, abs=0.01)
    assert found.first_shown.estimate == pytest.approx(0.5)


DRAFT = BundleInput(
    "one",
    "m",
    "query-answer",
    "Be good. Be brief.",
    (Example("a", "What is tea?", "A drink."), Example("b", "How are you?", "Well.")),
    RetrievalPolicy(k=1),
    {"temperature": 0.1},
    {},
)


@pytest.mark.parametrize(
    ("calls", "minutes", "says"),
    [
        (100, 10, ""),
        (99, None, "(calls) may end"),
        (40, None, "(calls) will probably end"),
        (None, 4, "(minutes) may end"),
    ],
)
def test_estimate_says_what_the_budget_does(calls: int | None, minutes: float | None, says: str) -> None:
    need, nothing = Range(60, 50, 100), Range(0, 0, 0)
    expected = Estimate({}, need, nothing, nothing, Range(250, 200, 300))
    note = budget_note(expected, Limits(calls=calls, minutes=minutes))
    assert says in note
    assert bool(says) == bool(note)


def test_diff_prints_prompt_examples_and_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    embedder = open_embedder(DEFAULT_EMBEDDER)
    examples = (replace(DRAFT.examples[0], pinned=True), Example("c", "Who are you?", "A model."))
    other = replace(DRAFT, prompt="Be good. Be kind.", examples=examples, retrieval=RetrievalPolicy(k=2))
    write_bundle(tmp_path / "one", DRAFT, embedder)
    write_bundle(tmp_path / "two", other, embedder)
    assert main(["diff", str(tmp_path / "one"), str(tmp_path / "one")]) == 0
    assert "The bundles differ in nothing" in capsys.readouterr().out
    assert main(["diff", str(tmp_path / "one"), str(tmp_path / "two")]) == 0
    output = capsys.readouterr().out.splitlines()
    for line in ("  - Be brief.", "  + Be kind.", "  - b: How are you?", "  + c: Who are you?", "  k: 1 -> 2"):
        assert line in output
    assert "  ~ a: What is tea?: pinned: False -> True" in output


@pytest.mark.parametrize(("reader", "status"), [("cat", 0), ("true", 141)])
def test_diff_of_bundles_of_drpo_may_lose_its_reader(reader: str, status: int) -> None:
    command = f"{quote(sys.executable)} -m optimizer diff default learned-base | {reader}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (status, "")
    assert ("prompt" in done.stdout) == (status == 0)


def test_diff_prints_prompts_of_sets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    embedder = open_embedder(DEFAULT_EMBEDDER)
    sets = (ExampleSet("drinks", ("a",), ("a",)), ExampleSet("greetings", ("b",), ("b",)))
    for name, prompts in (("none", {}), ("both", {"other": "Be kind."}), ("one", {"drinks": "Be kind. Pour."})):
        source = replace(DRAFT, retrieval=RetrievalPolicy("set"), sets=with_prompts(sets, prompts))
        write_bundle(tmp_path / name, source, embedder)
    instead = "instead of the bundle's"
    for one, other, expected in (
        ("none", "both", [f"prompt of drinks, greetings, {instead}", "  + Be kind."]),
        (
            "both",
            "one",
            [f"prompt of drinks, {instead}", "  + Pour.", f"prompt of greetings, {instead}", "  - Be kind."],
        ),
        ("none", "none", ["The bundles differ in nothing"]),
    ):
        assert main(["diff", str(tmp_path / one), str(tmp_path / other)]) == 0
        output = capsys.readouterr().out.splitlines()
        assert [line[: len(end)] for line, end in zip(output, expected, strict=True)] == expected


async def test_report_escapes_text_of_models_and_data(tmp_path: Path) -> None:
    async with open_scripted_models() as (_, url):
        config = write_run(tmp_path, url)
        lines = [json.dumps({"query": f"<script>alert({number})</script>"}) for number in range(12)]
        (tmp_path / "sealed.jsonl").write_text("\n".join(lines))
        await run_config(config, tmp_path / "out")
    page = write_report(tmp_path / "out").read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(3)" in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", ""), "nothing is fetched"
    assert "The new bundle is better than the baseline" in page


async def test_user_reward_is_imported_from_the_folder_of_run_toml_and_its_failure_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_scripted_models() as (_, url):
        config = write_run(tmp_path, url, reward={"weights": {"my_reward:worth": 1.0}}, search={"depth": 1})
        reward = tmp_path / "my_reward.py"
        reward.write_text("def worth(query, answer, reference, kind):\n    return int(answer.split()[3][:-1]) / 10\n")
        assert await asyncio.to_thread(main, ["run", str(config), "--out", str(tmp_path / "good")]) == 0
        reward.write_text("async def worth(**asked):\n    raise KeyError('tone')\n")
        sys.modules.pop("my_reward")
        assert await asyncio.to_thread(main, ["run", str(config), "--out", str(tmp_path / "bad")]) == 1
    assert f"my_reward:worth failed: KeyError in {reward}, line 2" in capsys.readouterr().err
