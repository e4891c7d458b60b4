"""The lead of a candidate counts the queries that both answered, and is clear beyond a standard error."""

from collections.abc import Sequence

import numpy as np
import pytest

from optimizer.search.levels import RacedSettings, is_clearly_ahead, mean_lead, race_level
from optimizer.search.race import RaceSettings
from optimizer.search.space import Outcome, Path, Step


def step(scores: Sequence[float]) -> Step[int]:
    return Step(0, tuple(Outcome(number, score) for number, score in enumerate(scores)))


@pytest.mark.parametrize(
    ("one", "other", "lead"), [([0.5, 0.9], [0.4, 0.4], 0.3), ([0.5], [0.4, 0.9], 0.1), ([], [0.4], 0.0)]
)
def test_lead_is_the_mean_difference_on_shared_queries(
    one: Sequence[float], other: Sequence[float], lead: float
) -> None:
    assert mean_lead(step(one), step(other)) == pytest.approx(lead)
    assert mean_lead(step(other), step(one)) == pytest.approx(-lead)


@pytest.mark.parametrize(
    ("one", "other", "indifference", "is_clear"),
    [
        ([0.5, 0.6, 0.5, 0.6], [0.4, 0.4, 0.4, 0.4], 0.01, True),
        ([0.5, 0.6, 0.5, 0.6], [0.4, 0.4, 0.4, 0.4], 0.2, False),
        ([0.9, 0.1, 0.6, 0.6], [0.4, 0.6, 0.5, 0.5], 0.01, False),
        ([0.9], [0.1], 0.01, False),
        ([0.5, 0.6, 0.5, 0.6], [0.4, 0.4], 0.01, True),
        ([0.5, 0.5], [0.5, 0.5], 0.0, False),
    ],
    ids=["clear", "indifferent", "within chance", "one query", "shared queries", "equal"],
)
def test_lead_is_clear_beyond_indifference_and_a_standard_error(
    one: Sequence[float], other: Sequence[float], indifference: float, is_clear: bool
) -> None:
    assert is_clearly_ahead(step(one), step(other), indifference) == is_clear
    assert not is_clearly_ahead(step(other), step(one), indifference)


@pytest.mark.parametrize("seed", range(40))
async def test_candidate_to_keep_after_the_last_look_is_the_best_one_of_the_level(seed: int) -> None:
    """Whether the race is interrupted there or ends there must not matter, also if the first candidate was dropped."""
    chance = np.random.default_rng(seed)
    means, noise = chance.normal(0.5, 0.15, 6), chance.normal(0.0, 0.25, (6, 30))

    class Noisy:
        def key(self, candidate: int) -> str:
            return str(candidate)

        async def expand(self, _path: Path[int], _count: int, _again: int) -> Sequence[int]:
            return ()

        async def score(self, candidate: int, query: int) -> Outcome:
            return Outcome(query, float(means[candidate] + noise[candidate, query]))

    kept: list[int] = []

    async def keep(candidate: int) -> None:
        kept.append(candidate)

    race = RaceSettings(alpha=0.3, first_look=4, block_size=2, max_queries=30)
    level = await race_level(Noisy(), 0, range(6), 30, RacedSettings(race=race), keep)
    assert kept[-1] == level.best
