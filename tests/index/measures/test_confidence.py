"""Tests the intervals by worked examples, and by bounds that hold for any input."""

import random
from math import isnan
from statistics import fmean, median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.measures.confidence import (
    Interval,
    balanced_accuracy,
    bootstrap_mean,
    bootstrap_median,
    clustered_share,
    paired_difference,
    wilson,
)


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


@pytest.mark.parametrize("hits", [0, 3, 10])
def test_trials_that_agree_within_each_cluster_count_as_one(hits: int) -> None:
    clusters = [[number < hits] * 2 for number in range(10)]
    found, plain = clustered_share(clusters), wilson(hits, 10)
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high), abs=0.01)
    assert found.high - found.low > wilson(2 * hits, 20).high - wilson(2 * hits, 20).low + 0.05


def test_trials_that_are_independent_within_clusters_count_each() -> None:
    chance = random.Random(3)
    clusters = [[chance.random() < 0.4, chance.random() < 0.4] for _ in range(4000)]
    found, plain = clustered_share(clusters), wilson(sum(map(sum, clusters)), 8000)
    assert found.estimate == plain.estimate
    assert found.high - found.low == pytest.approx(plain.high - plain.low, rel=0.05)


def test_interval_of_clusters_covers_the_share_of_dependent_trials() -> None:
    """In each of 1,000 samples, 40 pairs have a share of their own.

    The usual interval misses the true share in about 10 %.
    """
    chance = random.Random(7)
    covered = {"clusters": 0, "plain": 0}
    for _ in range(1000):
        shares = [chance.betavariate(0.4, 0.6) for _ in range(40)]
        clusters = [[chance.random() < share for _ in range(2)] for share in shares]
        for name, one in (("clusters", clustered_share(clusters)), ("plain", wilson(sum(map(sum, clusters)), 80))):
            covered[name] += one.low <= 0.4 <= one.high
    assert covered["clusters"] / 1000 >= 0.93
    assert covered["plain"] / 1000 < 0.91


@pytest.mark.parametrize("clusters", [[], [[]], [[], []]])
def test_no_trial_in_any_cluster_is_nan_from_0_to_1(clusters: list[list[bool]]) -> None:
    found = clustered_share(clusters)
    assert isnan(found.estimate)
    assert (found.low, found.high) == (0.0, 1.0)


@given(st.lists(st.lists(st.booleans(), max_size=4), min_size=1, max_size=30).filter(any))
def test_interval_of_clusters_is_never_narrower_than_that_of_independent_trials(clusters: list[list[bool]]) -> None:
    found = clustered_share(clusters)
    plain = wilson(sum(map(sum, clusters)), sum(map(len, clusters)))
    assert found.high - found.low >= plain.high - plain.low - 1e-9


def test_bootstrap_is_reproducible_and_matches_the_standard_error() -> None:
    values = [float(n % 10) for n in range(100)]
    interval = bootstrap_mean(values)
    assert interval == bootstrap_mean(values)
    # The standard error is 0.287, and 1.96 times the standard error is 0.56.
    assert (interval.estimate, interval.low, interval.high) == pytest.approx((4.5, 3.94, 5.06), abs=0.1)


def test_bootstrap_of_one_value_is_that_value() -> None:
    assert bootstrap_mean([2.0]) == Interval(2.0, 2.0, 2.0)


def test_balanced_accuracy_is_the_mean_with_a_combined_interval() -> None:
    balanced = balanced_accuracy(Interval(0.8, 0.7, 0.9), Interval(0.6, 0.4, 0.7))
    assert balanced.estimate == pytest.approx(0.7)
    assert balanced.low == pytest.approx(0.7 - (0.1**2 + 0.2**2) ** 0.5 / 2)
    assert balanced.high == pytest.approx(0.7 + (0.1**2 + 0.1**2) ** 0.5 / 2)


def test_a_wider_level_gives_a_wider_interval() -> None:
    assert wilson(8, 10, 0.99).low < wilson(8, 10).low < wilson(8, 10, 0.5).low


def test_bootstrap_median_is_not_moved_by_one_large_value() -> None:
    interval = bootstrap_median([1.0] * 30 + [1000.0])
    assert interval == Interval(1.0, 1.0, 1.0)


@pytest.mark.parametrize("count", [1, 2, 7, 40, 1001])
def test_resamples_are_those_of_the_standard_library(count: int) -> None:
    """Intervals must stay equal to those of earlier runs. The largest sample is resampled in several parts."""
    draw = random.Random(count)
    values = [draw.gauss(0.0, 1.0) for _ in range(count)]
    for function, statistic in ((bootstrap_mean, fmean), (bootstrap_median, median)):
        generator = random.Random(3)
        estimates = sorted(statistic(generator.choices(values, k=count)) for _ in range(2000))
        found = function(values, seed=3)
        expected = (statistic(values), estimates[50], estimates[1949])
        assert (found.estimate, found.low, found.high) == pytest.approx(expected, rel=1e-12)


def _pairs(both: int, only_first: int, only_second: int, neither: int) -> list[tuple[bool, bool]]:
    return (
        [(True, True)] * both
        + [(True, False)] * only_first
        + [(False, True)] * only_second
        + [(False, False)] * neither
    )


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        # Without variation there is no correlation: low and high are those of two independent Wilson intervals.
        ((0, 0, 10, 0), (1.0, 1 - 2**0.5 * 0.27753, 1.0)),
        ((10, 0, 0, 0), (0.0, -0.27753, 0.27753)),
        ((0, 10, 0, 0), (-1.0, -1.0, -1 + 2**0.5 * 0.27753)),
    ],
)
def test_paired_difference_of_extreme_shares(
    counts: tuple[int, int, int, int], expected: tuple[float, float, float]
) -> None:
    interval = paired_difference(_pairs(*counts))
    estimate, low, high = expected
    assert interval.estimate == estimate
    assert interval.low == pytest.approx(low, abs=1e-4)
    assert interval.high == pytest.approx(high, abs=1e-4)


def test_paired_difference_is_narrower_when_the_pairs_agree() -> None:
    agreeing, independent = paired_difference(_pairs(48, 2, 2, 48)), paired_difference(_pairs(25, 25, 25, 25))
    assert agreeing.high - agreeing.low < 0.5 * (independent.high - independent.low)


def test_paired_difference_without_pairs_is_nan_from_minus_1_to_1() -> None:
    interval = paired_difference([])
    assert isnan(interval.estimate)
    assert (interval.low, interval.high) == (-1.0, 1.0)


@pytest.mark.parametrize(("share", "flips"), [(0.5, 0.2), (0.9, 0.1), (0.97, 0.05)])
def test_paired_difference_covers_the_truth(share: float, flips: float) -> None:
    """Both members of a pair have the same probability, so the true difference is 0."""
    generator, missed, runs = random.Random(7), 0, 600
    for _ in range(runs):
        pairs = []
        for _ in range(40):
            shared = generator.random() < share
            one, other = (generator.random() < share if generator.random() < flips else shared for _ in range(2))
            pairs.append((one, other))
        interval = paired_difference(pairs)
        missed += not interval.low <= 0.0 <= interval.high
    assert missed <= 0.07 * runs
