"""The lead of a candidate counts the queries that both answered, and is clear beyond a standard error."""

from collections.abc import Sequence

import pytest

from optimizer.search.levels import is_clearly_ahead, mean_lead
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
