"""Tests the intervals by worked examples, and by bounds that hold for any input."""

from math import isnan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.core.confidence import Interval, balanced_accuracy, bootstrap_mean, wilson


def test_wilson_gives_the_textbook_interval() -> None:
    interval = wilson(81, 263)
    assert (interval.estimate, interval.low, interval.high) == pytest.approx((0.308, 0.2553, 0.3662), abs=5e-4)


def test_wilson_without_trials_is_nan_from_0_to_1() -> None:
    interval = wilson(0, 0)
    assert isnan(interval.estimate)
    assert (interval.low, interval.high) == (0.0, 1.0)


@given(st.integers(1, 500).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials))))
def test_wilson_interval_contains_its_estimate_between_0_and_1(counts: tuple[int, int]) -> None:
    interval = wilson(*counts)
    assert 0.0 <= interval.low <= interval.estimate + 1e-12
    assert interval.estimate - 1e-12 <= interval.high <= 1.0


def test_bootstrap_is_reproducible_and_matches_the_standard_error() -> None:
    values = [float(n % 10) for n in range(100)]
    interval = bootstrap_mean(values)
    assert interval == bootstrap_mean(values)
    # The standard error is 0.287; 1.96 times that is 0.56.
    assert (interval.estimate, interval.low, interval.high) == pytest.approx((4.5, 3.94, 5.06), abs=0.1)


def test_bootstrap_of_one_value_is_that_value() -> None:
    assert bootstrap_mean([2.0]) == Interval(2.0, 2.0, 2.0)


def test_balanced_accuracy_is_the_mean_with_a_combined_interval() -> None:
    balanced = balanced_accuracy(Interval(0.8, 0.7, 0.9), Interval(0.6, 0.4, 0.7))
    assert balanced.estimate == pytest.approx(0.7)
    assert balanced.low == pytest.approx(0.7 - (0.1**2 + 0.2**2) ** 0.5 / 2)
    assert balanced.high == pytest.approx(0.7 + (0.1**2 + 0.1**2) ** 0.5 / 2)
