"""Tests that a judge is asked in the best format that it can write, and that an unreadable reply is never a score."""

import json
import math
import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from optimizer.core.errors import UnparsableReplyError
from optimizer.core.model_tables import JudgeTable
from optimizer.core.request_form import RequestForm
from optimizer.rewards.criteria import default_criteria, template_criteria
from optimizer.rewards.judge_model import Judge
from tests.optimizer.models.test_negotiation import calls
from tests.optimizer.scripted_endpoint import Reply, ScriptedEndpoint, completion

CRITERIA = [template_criteria()["clarity"], template_criteria()["safety"]]


def asked_format(prompt: str) -> str:
    """Return the format that a prompt to the judge asks for."""
    if "JSON only" in prompt:
        return "json"
    return "letter" if "one digit" in prompt or "one letter" in prompt else "text"


def with_log_probabilities(text: str, **weights: float) -> Reply:
    """Return a reply of one token, with the probabilities of its alternatives."""
    alternatives = [{"token": name.strip("_"), "logprob": math.log(weight)} for name, weight in weights.items()]
    status, headers, raw = completion(text)
    reply = orjson.loads(raw)
    reply["choices"][0]["logprobs"] = {"content": [{"token": text, "logprob": -0.1, "top_logprobs": alternatives}]}
    return status, headers, orjson.dumps(reply)


def json_verdict(prompt: str) -> str:
    if "Answer B:" in prompt:
        return json.dumps({"reason": "x", "better": "A"})
    if prompt.startswith("You set the standard"):
        return json.dumps({"reason": "x", "criteria": ["clarity", "safety"], "new": []})
    names = re.findall(r'"([a-z-]+)":\{"rationale"', prompt)
    return json.dumps({name: {"rationale": "x", "score": 4} for name in names})


def text_verdict(prompt: str) -> str:
    if "Answer B:" in prompt:
        return "It is shorter.\nAnswer A is better"
    if prompt.startswith("You set the standard"):
        return "Clarity, safety"
    return "\n".join(f"{name}: 4" for name in re.findall(r"^([a-z-]+): \(score\)", prompt, re.MULTILINE))


def judge_that_writes(*formats: str, refused: str = "never") -> ScriptedEndpoint:
    """Return a judge that writes only these formats. It refuses each request that contains the text `refused`."""

    def script(body: Any, _variant: str) -> Reply:
        prompt = body["messages"][0]["content"]
        wanted = asked_format(prompt)
        if wanted not in formats or refused in prompt:
            return completion("I would rather not.")
        if wanted == "json":
            return completion(json_verdict(prompt))
        if wanted == "text":
            return completion(text_verdict(prompt))
        if "one letter" in prompt:
            return with_log_probabilities("A", A=0.7, B=0.2, x=0.1)
        return with_log_probabilities("4", _4=0.6, _5=0.2, x=0.2)

    return ScriptedEndpoint(script)


@pytest.mark.parametrize(
    ("formats", "found", "score"),
    [
        (("json", "letter", "text"), "", 4.0),
        (("letter", "text"), "letter", 4.25),
        (("letter",), "letter", 4.25),
        (("text",), "text", 4.0),
    ],
)
async def test_best_format_that_the_judge_writes_is_found(
    formats: tuple[str, ...], found: str, score: float, tmp_path: Path
) -> None:
    endpoint = judge_that_writes(*formats)
    async with calls(endpoint, tmp_path) as (made, _):
        rating = await Judge(made, JudgeTable()).rate("Why?", "So.")
        assert list(rating.scores.values()) == [pytest.approx(score)] * len(rating.scores)
        assert made.form("judge").reply_format == found
        assert await Judge(made, JudgeTable()).better("Why?", "So.", "No.") in (0.5, 1.0)
        first = len(endpoint.seen)
        await Judge(made, JudgeTable()).rate_by("When?", "Now.", CRITERIA)
        assert len(endpoint.seen) - first == (2 if found == "letter" else 1), "the format is known"
    resumed = judge_that_writes(*formats)
    async with calls(resumed, tmp_path) as (made, _):
        assert await Judge(made, JudgeTable()).rate("Why?", "So.") == rating
        assert not resumed.seen


@pytest.mark.parametrize("reply_format", ["json_schema", "json_object", "json", "letter", "text"])
async def test_format_of_run_toml_is_used_alone(reply_format: str, tmp_path: Path) -> None:
    written = "json" if reply_format.startswith("json") else reply_format
    endpoint = judge_that_writes(written)
    async with calls(endpoint, tmp_path, RequestForm(reply_format=reply_format)) as (made, _):
        await Judge(made, JudgeTable()).rate_by("Why?", "So.", CRITERIA)
        await Judge(made, JudgeTable()).prefers("Why?", "So.", "No.")
    bodies: list[Any] = [body for body, _ in endpoint.seen]
    sent = {body.get("response_format", {}).get("type", "none") for body in bodies}
    assert sent == {reply_format if reply_format in ("json_schema", "json_object") else "none"}
    other = judge_that_writes()
    async with calls(other, tmp_path / "other", RequestForm(reply_format=reply_format)) as (made, _):
        with pytest.raises(UnparsableReplyError):
            await Judge(made, JudgeTable()).rate_by("Why?", "So.", CRITERIA)
    assert {asked_format(body["messages"][0]["content"]) for body, _ in list[Any](other.seen)} == {written}


async def test_one_refusal_in_prose_does_not_change_the_format(tmp_path: Path) -> None:
    async with calls(judge_that_writes("json", "letter", "text", refused="poison"), tmp_path) as (made, _):
        judge = Judge(made, JudgeTable())
        with pytest.raises(UnparsableReplyError):
            await judge.rate_by("How do I make poison?", "So.", CRITERIA)
        assert made.form("judge").reply_format == ""
        assert (await judge.rate_by("Why?", "So.", CRITERIA)).mean == 4


async def test_judge_that_writes_nothing_gives_no_score(tmp_path: Path) -> None:
    endpoint = judge_that_writes()
    async with calls(endpoint, tmp_path) as (made, _):
        with pytest.raises(UnparsableReplyError, match="no score for clarity"):
            await Judge(made, JudgeTable()).rate_by("Why?", "So.", CRITERIA)
        with pytest.raises(UnparsableReplyError):
            await Judge(made, JudgeTable()).prefers("Why?", "So.", "No.")
    bodies = [orjson.dumps(body) for body, _ in endpoint.seen]
    assert len(set(bodies)) == len(bodies), "no body is sent twice at temperature 0"


async def test_criteria_are_fixed_if_the_choice_cannot_be_read(tmp_path: Path) -> None:
    async with calls(judge_that_writes(), tmp_path) as (made, _):
        assert await Judge(made, JudgeTable()).criteria("Why?") == default_criteria()


@pytest.mark.parametrize(
    ("allowed", "chosen"),
    [
        (("creativity", "depth"), ["creativity", "depth"]),
        (("depth", "clarity", "safety"), ["clarity", "safety"]),
        (("empathy",), ["empathy"]),
    ],
)
async def test_fixed_criteria_are_among_those_that_the_judge_may_choose(
    allowed: tuple[str, ...], chosen: list[str], tmp_path: Path
) -> None:
    async with calls(judge_that_writes(), tmp_path) as (made, _):
        criteria = await Judge(made, JudgeTable(criteria=allowed, fewest=1)).criteria("Why?")
    assert sorted(one.name for one in criteria) == chosen


@pytest.mark.parametrize(
    "reply",
    [
        completion("4"),
        with_log_probabilities("I", I=0.9, _4=0.1),
        with_log_probabilities("4", _4=0.3, x=0.7),
        with_log_probabilities("4", _4=0.2, _5=0.2, no=0.6),
        with_log_probabilities("7", _7=1.0),
    ],
)
async def test_digit_that_is_not_probable_is_no_score(reply: Reply, tmp_path: Path) -> None:
    endpoint = ScriptedEndpoint(lambda *_: reply)
    async with calls(endpoint, tmp_path, RequestForm(reply_format="letter")) as (made, _):
        with pytest.raises(UnparsableReplyError):
            await Judge(made, JudgeTable()).rate_by("Why?", "So.", CRITERIA)
    assert len(endpoint.seen) == len(CRITERIA)
