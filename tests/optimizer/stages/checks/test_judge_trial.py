"""Tests that a judge that cannot tell an answer from an answer to another question is noticed before it is used."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from optimizer.__main__ import main
from optimizer.cli.doctor import check_run
from optimizer.cli.doctor_models import Finding
from optimizer.core.config import read_config
from optimizer.core.errors import ConfigError
from optimizer.core.journal import Event, read_journal
from optimizer.data.split import read_split
from optimizer.estimation.simulation import by_role, simulate
from optimizer.report.html_report import write_report
from optimizer.rewards.judge_trust import MOSTLY_EQUAL, UNCHECKED, UNTRUSTED, Trust, TrustCase, trust_cases
from tests.optimizer.scripted_models import open_scripted_models, run_config, stable_number, write_run

Body = Mapping[str, Any]
Scores = Callable[[str, str], int | None]
"""Returns the judge's score of an answer to a query; None for a verdict that cannot be read."""
TRUSTED = "models.judge can be trusted"
ROWS = 12


def fits(query: str, answer: str) -> int:
    return 5 if query.split()[-1] in answer.split() else 2


JUDGES: Mapping[str, Scores] = {
    "right": fits,
    "likes everything": lambda _query, _answer: 5,
    "likes length": lambda _query, answer: 1 + min(4, len(answer) // 40),
    "scores at random": lambda query, answer: 1 + stable_number(query + answer, 5),
    "scores the text alone": lambda _query, answer: 1 + stable_number(answer, 5),
    "wrong": lambda query, answer: 7 - fits(query, answer),
    "unreadable": lambda _query, _answer: None,
}


def judge_of(scores: Scores, preference: Callable[[str, str, str], str]) -> Callable[[Body], tuple[int, bytes] | None]:
    """Return a judge that scores with one function and compares with the other, as the fault of the scripted models."""

    def reply(body: Body) -> tuple[int, bytes] | None:
        prompt = body["messages"][0]["content"]
        if body["model"] != "judge" or prompt.startswith("You set the standard"):
            return None
        query, _, rest = prompt.partition("Query:\n")[2].partition("\n\nAnswer")
        answers = [part.partition(":\n")[2].partition("\n\n")[0] for part in rest.split("\n\nAnswer")]
        if prompt.startswith("Two answers"):
            return _chat(json.dumps({"reason": "so", "better": preference(query, answers[0], answers[1])}))
        score = scores(query, answers[0])
        entry = {"rationale": "so", "score": score}
        return _chat("No." if score is None else json.dumps({"helpfulness": entry, "clarity": entry}))

    return reply


def _chat(text: str) -> tuple[int, bytes]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return 200, json.dumps({"choices": [choice]}).encode()


def fitting(query: str, first: str, second: str) -> str:
    return "A" if fits(query, first) > fits(query, second) else "B"


def write_rows(folder: Path, url: str, *, with_reference: int = ROWS, **tables: Any) -> Path:
    """Return a run.toml with training rows of which the first have references of different lengths."""
    path = write_run(folder, url, **{"reward": {"weights": {"judge": 1.0}, "trust": 8}, **tables})
    rows = [{"query": f"train question number {one}"} for one in range(ROWS)]
    for one in range(with_reference):
        rows[one]["reference"] = f"The reply to {one} is known. {'It is long. ' * (one % 5)}"
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return path


async def examine(path: Path) -> list[Finding]:
    findings = [finding async for finding in check_run(read_config(path), lambda _subject: None)]
    return [finding for finding in findings if finding.subject == TRUSTED]


@pytest.mark.parametrize(("name", "scores"), JUDGES.items(), ids=JUDGES)
async def test_doctor_warns_of_a_judge_that_is_not_right_beyond_chance(
    name: str, scores: Scores, tmp_path: Path
) -> None:
    async with open_scripted_models(fault=judge_of(scores, fitting)) as (_, url):
        (found,) = await examine(write_rows(tmp_path, url))
    assert found.is_warning == (name != "right")
    assert (UNTRUSTED in found.message) == found.is_warning
    assert bool(found.advice) == found.is_warning
    if name == "right":
        assert found.message == "scores the right answer higher in 8 of 8 cases (share 1.00 [0.68, 1.00])"
    if name == "likes everything":
        assert "in 0 of 8 cases, equal in 8" in found.message
        assert MOSTLY_EQUAL in found.message
    if name == "unreadable":
        assert "in 0 of 0 cases, no readable verdict in 8 more" in found.message
    if name in ("likes length", "scores the text alone"):
        assert int(found.message.split(" of 8")[0].split()[-1]) <= 4, "such a judge is right once in a pair at most"


@pytest.mark.parametrize(
    ("preference", "right"),
    [(fitting, 8), (lambda *_: "A", 0), (lambda _query, first, second: "AB"[first < second], 4)],
    ids=["right", "prefers the first", "prefers one text"],
)
async def test_comparisons_are_checked_in_both_orders(preference: Any, right: int, tmp_path: Path) -> None:
    reward = {"weights": {"rules": 1.0}, "confirm": 2, "trust": 8}
    async with open_scripted_models(fault=judge_of(fits, preference)) as (models, url):
        (found,) = await examine(write_rows(tmp_path, url, reward=reward))
        asked = [prompt for model, prompt in models.requests if model == "judge" and "reply to" in prompt]
    assert found.message.startswith(f"prefers the right answer in both orders in {right} of 8 cases")
    assert found.is_warning == (right < 8)
    assert len(set(asked)) == len(asked) == 16


@pytest.mark.parametrize(("scores", "is_trusted"), [(fits, True), (JUDGES["likes everything"], False)])
async def test_answers_of_the_task_model_stand_for_references(scores: Scores, is_trusted: bool, tmp_path: Path) -> None:
    def whole(query: str, answer: str) -> int | None:
        return scores(query, answer.removeprefix("An answer"))

    async with open_scripted_models(fault=judge_of(whole, fitting)) as (_, url):
        (found,) = await examine(write_rows(tmp_path, url, with_reference=1))
    assert found.is_warning != is_trusted


async def test_run_warns_at_its_start_and_in_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with open_scripted_models(fault=judge_of(JUDGES["likes everything"], fitting)) as (_, url):
        path = write_rows(tmp_path, url, search={"depth": 1, "first": 4, "queries": 4})
        await run_config(path, tmp_path / "out")
        await run_config(path, tmp_path / "out")
    notes = [event["note"] for event in read_journal(tmp_path / "out") if "note" in event]
    assert notes.count("judge_trust") == 1, "a resumed run has the result"
    assert notes.index("judge_trust") < notes.index("score")
    page = write_report(tmp_path / "out").read_text(encoding="utf-8")
    assert UNTRUSTED in page
    assert "in 0 of 8 cases" in page


async def test_report_of_a_trusted_judge_has_no_warning(tmp_path: Path) -> None:
    async with open_scripted_models(fault=judge_of(fits, fitting)) as (_, url):
        await run_config(write_rows(tmp_path, url, search={"depth": 1, "queries": 4, "first": 4}), tmp_path / "out")
    page = write_report(tmp_path / "out").read_text(encoding="utf-8")
    assert "in 8 of 8 cases" in page
    assert UNTRUSTED not in page


async def test_criteria_of_the_check_are_used_again_in_the_search(tmp_path: Path) -> None:
    async with open_scripted_models(fault=judge_of(fits, fitting)) as (models, url):
        await run_config(write_rows(tmp_path, url, search={"depth": 1, "queries": 4, "first": 4}), tmp_path / "out")
    choices = [text for model, text in models.requests if model == "judge" and text.startswith("You set the standard")]
    assert len(choices) == len(set(choices))


def events_of(out: Path) -> list[Event]:
    return [event for event in read_journal(out) if event.get("note") == "judge_trust"]


@pytest.mark.parametrize(
    "reward",
    [{"weights": {"judge": 1.0}, "trust": 0}, {"weights": {"rules": 1.0}, "trust": 8}],
    ids=["off", "no judge"],
)
async def test_no_call_is_made_if_the_check_is_off_or_there_is_no_judge(reward: dict[str, Any], tmp_path: Path) -> None:
    search = {"depth": 1, "first": 4, "queries": 4}
    async with open_scripted_models() as (models, url):
        path = write_rows(tmp_path, url, reward=reward, search=search)
        assert await examine(path) == []
        await run_config(path, tmp_path / "out")
    assert events_of(tmp_path / "out") == []
    assert not any("reply to" in text for model, text in models.requests if model == "judge")


async def test_estimate_counts_the_calls_of_the_check(tmp_path: Path) -> None:
    counts = []
    for trust in (0, 8):
        reward = {"weights": {"judge": 1.0}, "trust": trust, "confirm": 3}
        config = read_config(write_rows(tmp_path, "http://127.0.0.1:9", reward=reward))
        counts.append(by_role(await simulate(config, read_split(config.data, 0), 0)))
    assert counts[1]["judge"] - counts[0]["judge"] == 8 * 3 + 8 * 2
    assert counts[1]["task"] == counts[0]["task"]


@pytest.mark.parametrize("trust", [-1, 1, 3])
def test_number_of_cases_that_shows_nothing_is_refused(trust: int, tmp_path: Path) -> None:
    path = write_rows(tmp_path, "http://127.0.0.1:9", reward={"weights": {"judge": 1.0}, "trust": trust})
    with pytest.raises(ConfigError, match="trust"):
        read_config(path)


def test_each_answer_is_right_once_and_wrong_once() -> None:
    cases = trust_cases([(f"q{one}", f"a{one}") for one in range(7)], 6)
    assert len(cases) == 6
    assert sorted(case.right for case in cases) == sorted(case.wrong for case in cases)
    assert all(case.right == case.query.replace("q", "a") != case.wrong for case in cases)


def test_rows_with_the_same_answer_are_never_paired() -> None:
    cases = trust_cases([("q1", "Yes."), ("q2", "yes."), ("q3", "No."), ("q4", "Yes.")], 8)
    assert cases == (TrustCase("q1", "Yes.", "No."), TrustCase("q3", "No.", "Yes."))
    assert trust_cases([("q1", "Yes."), ("q2", "Yes.")], 8) == ()


def test_row_is_paired_with_the_row_that_is_least_like_it() -> None:
    rows = [
        ("How do cats sleep?", "Cats sleep curled up."),
        ("How do cats purr?", "They purr softly."),
        ("1 + 1?", "2"),
    ]
    assert trust_cases(rows, 2)[0].wrong == "2"


@pytest.mark.parametrize(("right", "cases", "is_trusted"), [(8, 8, True), (7, 8, True), (6, 8, False), (4, 4, True)])
def test_judge_is_trusted_if_the_interval_is_above_one_half(right: int, cases: int, is_trusted: bool) -> None:
    assert Trust("scores", right, 0, cases, 0).is_trusted == is_trusted


@pytest.mark.parametrize("way", ["scores", "comparisons"])
@pytest.mark.parametrize(
    ("right", "equal", "cases", "is_trusted", "is_mostly_equal"),
    [(6, 2, 8, True, False), (9, 7, 16, True, False), (4, 8, 12, True, True), (3, 5, 8, False, True)],
)
def test_equal_cases_do_not_count_against_a_judge(
    way: str, right: int, equal: int, cases: int, is_trusted: bool, is_mostly_equal: bool
) -> None:
    found = Trust(way, right, equal, cases, 0)
    assert found.is_trusted == is_trusted == (UNTRUSTED not in found.caution)
    assert is_mostly_equal == (MOSTLY_EQUAL in found.caution), "many equal cases are a warning of their own"


@pytest.mark.parametrize("cases", [8, 16, 40])
def test_neither_a_coin_nor_a_judge_of_the_text_alone_is_trusted_in_comparisons(cases: int) -> None:
    assert not Trust("comparisons", cases // 4, cases // 2, cases, 0).is_trusted
    assert not Trust("comparisons", cases // 2, 0, cases, 0).is_trusted


@pytest.mark.parametrize("references", [2, 3])
async def test_task_model_answers_if_the_references_give_too_few_cases(references: int, tmp_path: Path) -> None:
    def whole(query: str, answer: str) -> int | None:
        return fits(query, answer.removeprefix("An answer"))

    async with open_scripted_models(fault=judge_of(whole, fitting)) as (_, url):
        (found,) = await examine(write_rows(tmp_path, url, with_reference=references))
    assert found.message.startswith("scores the right answer higher in 8 of 8 cases")


async def test_estimate_counts_the_answers_that_take_the_place_of_references(tmp_path: Path) -> None:
    calls = {}
    for references in (3, ROWS):
        config = read_config(write_rows(tmp_path, "http://127.0.0.1:9", with_reference=references))
        calls[references] = by_role(await simulate(config, read_split(config.data, 0), 0))["task"]
    assert calls[3] - calls[ROWS] == 8


async def test_check_says_that_it_had_too_few_rows(tmp_path: Path) -> None:
    async with open_scripted_models(fault=judge_of(fits, fitting)) as (_, url):
        path = write_rows(tmp_path, url, search={"depth": 1, "queries": 4, "first": 4})
        rows = [{"query": f"train question number {one}", "safe": False} for one in range(6)]
        rows[:3] = [{"query": row["query"]} for row in rows[:3]]
        (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
        (found,) = await examine(path)
        await run_config(path, tmp_path / "out")
    assert found.is_warning
    assert "could not be checked" in found.message
    (event,) = events_of(tmp_path / "out")
    assert event["caution"] == UNCHECKED
    page = write_report(tmp_path / "out").read_text(encoding="utf-8")
    assert "The judge could not be checked" in page
    assert UNCHECKED in page


def test_doctor_prints_the_warning_and_succeeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(_config: object, _announce: object) -> Any:
        yield Finding(TRUSTED, None, f"in 3 of 8 cases. {UNTRUSTED}", "Do this.", is_warning=True)

    monkeypatch.setattr("optimizer.__main__.check_run", check)
    assert main(["doctor", str(write_rows(tmp_path, "http://127.0.0.1:9"))]) == 0
    printed = capsys.readouterr().out
    assert f"WARN {TRUSTED}: in 3 of 8 cases" in printed
    assert "Warnings: 1. The run would work" in printed
