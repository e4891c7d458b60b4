"""Tests that judge-check counts how often a preference flips if the judge is asked again, or in other words."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from optimizer.__main__ import main
from optimizer.rewards.judge_protocol import compare_wordings, preference_request
from tests.optimizer.scripted_endpoint import ScriptedEndpoint, completion

PAIRS: Final = 5
USUAL: Final = "Two answers"
Preference = Callable[[str, str, int], str | None]
"""Returns the preferred letter for the question of a request, its wording, and how often it was asked before."""


def judge(preference: Preference) -> ScriptedEndpoint:
    asked: Counter[str] = Counter()

    def script(body: Any, _variant: str) -> Any:
        prompt = body["messages"][0]["content"]
        wording, _, question = prompt.partition("\n\n")
        asked[prompt] += 1
        letter = preference(question, wording, asked[prompt] - 1)
        return completion("Both." if letter is None else json.dumps({"reason": "so", "better": letter}))

    return ScriptedEndpoint(script)


async def run_check(preference: Preference, folder: Path, *options: str) -> int:
    """Run judge-check, and return the number of requests."""
    data = folder / "pairs.jsonl"
    pairs = [{"query": f"Why {one}?", "first": f"So {one}.", "second": "No.", "better": 1} for one in range(PAIRS)]
    data.write_text("\n".join(map(json.dumps, pairs)))
    endpoint = judge(preference)
    async with endpoint.server() as server:
        arguments = ["judge-check", "--data", str(data), "--base-url", str(server.make_url("/v1")), *options]
        assert await asyncio.to_thread(main, arguments) == 0
    return len(endpoint.seen)


def rows(printed: str) -> dict[str, list[str]]:
    """Return the cells of the table of flips, by what was varied."""
    lines = [line.strip("\u2502| ") for line in printed.splitlines() if "asked" in line]
    found = [re.split(r"\s*[\u2502\u2503|]\s*", line) for line in lines]
    return {cells[0]: cells[1:] for cells in found}


@pytest.mark.parametrize(
    ("preference", "again", "reworded"),
    [
        (lambda *_: "A", "0.000 [0.00, 0.43]", "0.000 [0.00, 0.43]"),
        (lambda _question, _wording, before: "AB"[before % 2], "1.000 [0.57, 1.00]", "0.000 [0.00, 0.43]"),
        (lambda _question, wording, _: "AB"[not wording.startswith(USUAL)], "0.000 [0.00, 0.43]", "1.000 [0.57, 1.00]"),
        (
            lambda question, wording, _: "AB"["Why 3?" in question and not wording.startswith(USUAL)],
            "0.000 [0.00, 0.43]",
            "0.200 [0.04, 0.62]",
        ),
    ],
    ids=["steady", "flips when asked again", "flips when reworded", "flips on one query"],
)
async def test_flips_are_counted_with_an_interval_for_pairs(
    preference: Preference,
    again: str,
    reworded: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    sent = await run_check(preference, tmp_path, "--repeat", "2", "--paraphrase")
    table = rows(capsys.readouterr().out)
    assert table["asked again, 2 times"][:2] == [str(2 * PAIRS), again]
    assert table["asked in 3 other wordings"][:2] == [str(2 * PAIRS), reworded]
    assert sent == 2 * PAIRS * (1 + 2 + 3)


async def test_unreadable_replies_do_not_count_as_flips(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    await run_check(lambda _question, wording, _: "A" if wording.startswith(USUAL) else None, tmp_path, "--paraphrase")
    (cells,) = rows(capsys.readouterr().out).values()
    assert cells[:4] == ["0", "", "0 of 0", str(2 * PAIRS * 3)]


async def test_nothing_is_asked_again_unless_an_option_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run_check(lambda *_: "A", tmp_path) == 2 * PAIRS
    assert "flips" not in capsys.readouterr().out


@pytest.mark.parametrize("reply_format", ["", "letter", "text"])
def test_other_wordings_ask_for_the_same_reply(reply_format: str) -> None:
    prompts = [
        preference_request("{q}", "{a}", "{b}", reply_format, wording).body["messages"][0]["content"]
        for wording in range(len(compare_wordings()) + 1)
    ]
    assert len(set(prompts)) == len(prompts) == 4
    assert len({prompt.partition("\n\n")[2] for prompt in prompts}) == 1
    assert all(text in prompts[0] for text in ("Query:\n{q}\n", "Answer A:\n{a}\n", "Answer B:\n{b}\n"))
