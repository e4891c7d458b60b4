"""Tests that a race finds the better candidate with few judgements, and keeps its error rate."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.search.race import Race, RaceSettings, Scores, critical_value, run_race


def scores(*means: float, queries: int = 400, seed: int = 0, spread: float = 0.2) -> Scores:
    """Return scores that differ most between queries, as the scores of judges do."""
    chance = np.random.default_rng(seed)
    query = chance.normal(0, 1, queries)
    return np.array([mean + query + chance.normal(0, spread, queries) for mean in means])


def test_better_candidate_wins_with_fewer_judgements_than_one_for_each_candidate_and_query() -> None:
    told = scores(0.0, 0.3, 0.1, 0.0)
    winner, spent = run_race(told, RaceSettings(max_queries=400))
    assert winner == 1
    assert spent < told.size / 10


def test_race_of_equals_ends_when_no_lead_can_exceed_the_indifference() -> None:
    winner, spent = run_race(scores(0.0, 0.0, spread=0.02), RaceSettings(max_queries=400))
    assert spent < 100
    assert winner in (0, 1)


def test_single_candidate_wins_after_one_look() -> None:
    assert run_race(scores(0.0), RaceSettings()) == (0, 10)


def test_equal_scores_end_the_race_at_the_first_look() -> None:
    assert run_race(np.zeros((5, 100)), RaceSettings(max_queries=100)) == (0, 50)


def test_candidate_as_good_as_the_leader_is_dropped_with_at_most_alpha() -> None:
    rules = RaceSettings(alpha=0.1, indifference=0.0, max_queries=200)
    wrong = 0
    for seed in range(400):
        race = Race(2, rules)
        told = scores(0.0, 0.0, seed=seed, queries=200)
        while not race.over:
            block = race.next
            race.note(told[list(block.candidates), block.start : block.end].tolist())
        wrong += len(race.alive) == 1
    assert wrong / 400 < 2 * 0.1 + 0.045, "either of two may seem the better; three standard errors"


def test_critical_value_grows_with_more_looks_and_smaller_alpha() -> None:
    assert critical_value(RaceSettings(max_queries=800)) > critical_value(RaceSettings(max_queries=50))
    assert critical_value(RaceSettings(alpha=0.01)) > critical_value(RaceSettings(alpha=0.1)) > 1.28


@settings(max_examples=50)
@given(st.integers(1, 6), st.integers(2, 12), st.integers(1, 7), st.integers(0, 10**6))
def test_block_continues_the_last_one_with_the_remaining_candidates(
    count: int, first: int, block: int, seed: int
) -> None:
    race = Race(count, RaceSettings(first_look=first, block_size=block, max_queries=40))
    told = np.random.default_rng(seed).random((count, 40))
    end, spent = 0, 0
    while not race.over:
        asked = race.next
        assert asked.start == end
        assert list(asked.candidates) == race.alive
        race.note(told[list(asked.candidates), asked.start : asked.end].tolist())
        end, spent = asked.end, spent + len(asked.candidates) * (asked.end - asked.start)
        assert race.leader in race.alive
        assert set(race.alive) <= set(asked.candidates)
    assert race.judgements == spent
    assert end <= 40


@pytest.mark.parametrize("wrong", [[], [[1.0] * 10], [[1.0] * 11] * 2, [[1.0] * 10, [float("nan")] * 10]])
def test_scores_of_a_wrong_shape_or_value_are_refused(wrong: list[list[float]]) -> None:
    race = Race(2, RaceSettings())
    with pytest.raises(ValueError, match="finite score"):
        race.note(wrong)
    assert race.judgements == 0


def test_race_with_impossible_settings_is_refused() -> None:
    for count, rules in ((0, RaceSettings()), (2, RaceSettings(first_look=1)), (2, RaceSettings(block_size=0))):
        with pytest.raises(ValueError, match="a race needs"):
            Race(count, rules)
