"""Tests that races are so short that a limited budget is enough for several levels."""

from math import isinf

import pytest

from optimizer.core.budget import Budget, Cost, Limits
from optimizer.search.levels import RacedSettings
from optimizer.search.race import RaceSettings
from optimizer.search.race_length import Allowance, ScoreCost, allowed_scores, within_allowance

COST = ScoreCost(calls=2, tokens=500, money=0.01, minutes=0.05)


@pytest.mark.parametrize(
    ("left", "scores", "limit"),
    [
        (Limits(calls=600), 300, "calls"),
        (Limits(tokens=10_000), 20, "tokens"),
        (Limits(money=2.5), 250, "money"),
        (Limits(minutes=30), 600, "minutes"),
        (Limits(calls=600, tokens=1_000_000, money=1.0, minutes=30), 100, "money"),
        (Limits(calls=0), 0, "calls"),
    ],
)
def test_scarcest_limit_decides_how_many_scores_are_allowed(left: Limits, scores: float, limit: str) -> None:
    found = allowed_scores(left, COST)
    assert found.scores == pytest.approx(scores)
    assert found.limit == limit


def test_limit_on_what_costs_nothing_allows_everything() -> None:
    assert isinf(allowed_scores(Limits(), COST).scores)
    assert isinf(allowed_scores(Limits(money=0.0), ScoreCost(calls=1)).scores)


@pytest.mark.parametrize(
    ("scores", "queries"), [(600, 40), (200, 13), (1_000, 66), (10_000, 120), (40, 10), (0, 10), (float("inf"), 120)]
)
def test_race_has_a_fifteenth_of_the_scores_and_never_less_than_its_first_look(scores: float, queries: int) -> None:
    settings = RacedSettings(race=RaceSettings(max_queries=120))
    assert within_allowance(settings, Allowance(scores, "calls")).race.max_queries == queries


def test_wider_search_has_shorter_races() -> None:
    settings = RacedSettings(beam=4, actions=5, race=RaceSettings(max_queries=120))
    assert settings.max_candidates == 1 + 4 + 20
    assert within_allowance(settings, Allowance(600, "calls")).race.max_queries == 600 * 3 // 5 // 25


def test_budget_says_what_is_left_beside_the_kept_calls() -> None:
    budget = Budget(Limits(calls=100, tokens=10_000, money=2.0, minutes=10))
    budget.kept_calls, budget.minutes = 20, 1.5
    assert budget.left.calls == 80
    budget.settle(Cost(), Cost(calls=30, tokens=3_000, money=0.3))
    budget.reserve(Cost(calls=1, tokens=100, money=0.1))
    # A kept call may cost one and a half times as much as the calls so far: 150 tokens, 0.015 and 0.075 minutes.
    assert budget.left == Limits(49, 3_900, pytest.approx(1.3), pytest.approx(7.0))
    budget.settle(Cost(), Cost(calls=200))
    assert budget.left.calls == 0


def test_at_most_half_of_tokens_money_and_minutes_is_kept() -> None:
    budget = Budget(Limits(tokens=10_000, money=2.0, minutes=10))
    budget.kept_calls, budget.minutes = 1_000, 2.0
    budget.settle(Cost(), Cost(calls=1, tokens=1_000, money=0.5))
    assert budget.left == Limits(None, 4_000, pytest.approx(0.5), pytest.approx(3.0))


def test_nothing_is_kept_before_the_cost_of_a_call_is_known() -> None:
    budget = Budget(Limits(tokens=10_000, minutes=10))
    budget.kept_calls = 1_000
    assert budget.left == Limits(None, 10_000, None, 10)
