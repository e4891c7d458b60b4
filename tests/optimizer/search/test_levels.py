"""The lead of one candidate of a level over another counts the queries that both answered."""

from collections.abc import Sequence

import pytest

from optimizer.search.levels import mean_lead
from optimizer.search.space import Outcome, Step


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
