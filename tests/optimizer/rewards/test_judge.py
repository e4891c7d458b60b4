"""Tests the parsing of a judge's replies: scores are expectations over the score token; there are no defaults."""

import math
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.core.errors import UnparsableReplyError
from optimizer.core.model_tables import JudgeTable
from optimizer.models.reply_text import find_object
from optimizer.rewards.criteria import template_criteria
from optimizer.rewards.judge_protocol import choice_reader, rating_reader, read_preference
from optimizer.templates import template

TABLE = JudgeTable()
read_choice = choice_reader(TABLE)


def reply(content: str, logprobs: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {"choices": [{"message": {"content": content}, "logprobs": {"content": logprobs} if logprobs else None}]}


def token(text: str, **alternatives: float) -> dict[str, Any]:
    told = [{"token": name.strip("_"), "logprob": math.log(p)} for name, p in alternatives.items()]
    return {"token": text, "logprob": 0.0, "top_logprobs": told}


def test_criteria_are_the_papers_fourteen_and_over_refusal_with_anchors() -> None:
    found = template_criteria()
    assert len(found) == 15
    assert {"helpfulness", "critical-thinking", "safety", "over-refusal"} <= set(found)
    assert all(set(one.anchors) == {1, 3, 5} for one in found.values())


def test_templates_use_exactly_their_fields() -> None:
    evaluate = ("manner", "query", "answer", "heading", "criteria", "shape")
    choose = ("fewest", "most", "criteria", "new", "query", "shape")
    for name, fields in (("choose", choose), ("choose_analysis", choose), ("evaluate", evaluate)):
        filled = template(name).format(**dict.fromkeys(fields, "{here}"))
        assert filled.count("{here}") == len(fields)


def test_score_is_the_expectation_over_log_probabilities() -> None:
    pieces = [token('{"clarity": {"rationale": "x 5", "score": '), token("4", _4=0.6, _5=0.3, _x=0.1), token("}}")]
    found = rating_reader(["clarity"], TABLE)(reply("".join(piece["token"] for piece in pieces), pieces))
    assert found["scores"]["clarity"] == pytest.approx((4 * 0.6 + 5 * 0.3) / 0.9)
    assert found["rationales"]["clarity"] == "x 5"


def test_score_without_log_probabilities_is_the_number() -> None:
    content = '```json\n{"clarity": {"rationale": "", "score": "4"}, "depth": {"score": 2}}\n```'
    assert rating_reader(["clarity", "depth"], TABLE)(reply(content))["scores"] == {"clarity": 4.0, "depth": 2.0}


def test_each_score_uses_the_distribution_of_its_own_token() -> None:
    pieces = [
        *(token('{"a": {"score": '), token("1", _1=1.0), token('}, "b": {"score": '), token("5", _4=0.5, _5=0.5)),
        token("}}"),
    ]
    content = "".join(piece["token"] for piece in pieces)
    assert rating_reader(["a", "b"], TABLE)(reply(content, pieces))["scores"] == {"a": 1.0, "b": 4.5}


@pytest.mark.parametrize(
    "content", ["", "I think 4.", '{"a": {"score": 7}}', '{"a": {"rationale": "no score"}}', "[1]"]
)
def test_unparsable_rating_is_an_error_and_not_a_score(content: str) -> None:
    with pytest.raises((UnparsableReplyError, KeyError, TypeError)):
        rating_reader(["a"], TABLE)(reply(content))


@given(st.text())
def test_any_text_holds_an_object_or_none(text: str) -> None:
    found = find_object(text, lambda _value: True)
    assert found is None or isinstance(found.value, dict)


def test_half_of_a_surrogate_pair_in_a_verdict_can_be_journaled() -> None:
    half = "\\ud83d"
    rating = rating_reader(["clarity"], TABLE)(reply(f'{{"clarity": {{"rationale": "x{half}", "score": 4}}}}'))
    choice = read_choice(
        reply(f'{{"criteria": ["clarity"], "new": [{{"name": "n", "asks": "{half}", "one": "a", "five": "b"}}]}}')
    )
    assert orjson.loads(orjson.dumps([rating, choice]))[0]["rationales"] == {"clarity": "x?"}


def test_choice_keeps_known_and_defined_criteria() -> None:
    content = """{"criteria": ["Clarity", "rhyme", "nonsense", "depth"], "new":
        [{"name": "Rhyme", "asks": "Does it rhyme?", "one": "No.", "five": "Yes."}]}"""
    found = read_choice(reply(content))
    assert found["criteria"] == ["clarity", "rhyme", "depth"]
    assert found["new"][0]["name"] == "rhyme"
    with pytest.raises(UnparsableReplyError, match="fewer than 2"):
        read_choice(reply('{"criteria": ["clarity", "nonsense"]}'))


def test_preference_is_a_or_b() -> None:
    assert read_preference(reply('{"reason": "x", "better": "b"}')) == {"better": "B"}
    with pytest.raises(UnparsableReplyError):
        read_preference(reply('{"better": "both"}'))
