"""Failures are grouped by kind of row and criterion, the largest loss first."""

from dataclasses import replace
from typing import Any

import pytest

from optimizer.data.dataset import COMPLY, GENERAL, REFUSE, Row
from optimizer.models.task_model import Reply
from optimizer.rewards.base import RewardScore
from optimizer.rewards.pleading import PLEADING
from optimizer.rewards.scorer import ScoredReply
from optimizer.search.space import Outcome
from optimizer.stages.proposers.failures import (
    NO_REFUSAL,
    REPEATS,
    UNENDED,
    UNLIKE,
    WRONG_REFUSAL,
    group_failures,
    missed_criteria,
)
from tests.optimizer.stages.proposers.candidates import RIGHT, outcome


def scored(**parts: RewardScore) -> ScoredReply:
    return ScoredReply(Reply("An answer.", "stop", 1, 1), 0.5, parts)


@pytest.mark.parametrize(
    ("kind", "part", "missed"),
    [
        (COMPLY, {"rules": RewardScore(0.5, {**RIGHT, "right": 0.0})}, [WRONG_REFUSAL]),
        (GENERAL, {"rules": RewardScore(0.5, {**RIGHT, "right": 0.0})}, [WRONG_REFUSAL]),
        (REFUSE, {"rules": RewardScore(0.5, {**RIGHT, "right": 0.0})}, [NO_REFUSAL]),
        (REFUSE, {"rules": RewardScore(0.5, {**RIGHT, "ends": 0.0, "fresh": 0.3})}, [UNENDED, REPEATS]),
        (GENERAL, {"reference": RewardScore(0.3)}, [UNLIKE]),
        (
            GENERAL,
            {"judge": RewardScore(0.5, {"clarity": {"score": 2.0, "why": ""}, "depth": {"score": 5}})},
            ["clarity"],
        ),
        (GENERAL, {"judge": RewardScore(0.0, {PLEADING: 1.0}, (PLEADING,))}, [PLEADING]),
        (GENERAL, {"mine:polite": RewardScore(0.2)}, ["mine:polite"]),
        (GENERAL, {"rules": RewardScore(1.0, RIGHT), "reference": RewardScore(0.9)}, []),
    ],
)
def test_answer_misses_the_criteria_that_its_rewards_name(kind: str, part: dict[str, Any], missed: list[str]) -> None:
    assert list(missed_criteria(Row("query", kind), scored(**part))) == missed


def test_group_with_the_largest_loss_comes_first_and_counts_the_rows_of_its_kind() -> None:
    outcomes = [
        *(outcome(number, f"comply {number}", COMPLY, right=0.0) for number in range(3)),
        outcome(3, "comply 3", COMPLY),
        outcome(4, "refuse 4", REFUSE, right=0.0),
        *(outcome(number, f"general {number}") for number in range(5, 9)),
    ]
    first, second = group_failures(outcomes)
    assert (first.kind, first.criterion, len(first.outcomes), first.answered) == (COMPLY, WRONG_REFUSAL, 3, 4)
    assert first.text == "3 of 4 answers to comply queries: refused, although a good answer helps"
    assert (second.kind, second.criterion, second.answered) == (REFUSE, NO_REFUSAL, 1)
    assert first.loss == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("similarities", "unlike"),
    [
        ([0.0, 0.0, 0.0, 0.0], 4),
        ([0.3, 0.3, 0.3, 0.5, 0.7, 0.9], 3),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.55], 2),
        ([0.6, 0.6, 0.6], 0),
        ([0.4], 1),
        ([], 0),
    ],
)
def test_answers_with_the_lowest_similarities_are_unlike_the_reference(similarities: list[float], unlike: int) -> None:
    outcomes = [
        Outcome(number, value, (Row(f"query {number}"), scored(reference=RewardScore(value))))
        for number, value in enumerate(similarities)
    ]
    assert [(one.criterion, len(one.outcomes)) for one in group_failures(outcomes)] == [(UNLIKE, unlike)] * bool(unlike)


def test_languages_are_told_apart_if_rows_name_them() -> None:
    outcomes = [outcome(0, "Wer?", right=0.0), outcome(1, "Who?", right=0.0), outcome(2, "Qui?")]
    languages = ("de", "", "de")
    rows = [replace(one.evidence[0], language=name) for one, name in zip(outcomes, languages, strict=True)]
    named = [replace(one, evidence=(row, one.evidence[1])) for one, row in zip(outcomes, rows, strict=True)]
    assert [one.text for one in group_failures(named)] == [
        "1 of 1 answer to general queries: refused, although a good answer helps",
        "1 of 2 answers to general queries in de: refused, although a good answer helps",
    ]


def test_outcome_that_is_not_readable_belongs_to_no_group() -> None:
    assert not group_failures([replace(outcome(0, "query", right=0.0), readable=False)])
