"""Computes confidence intervals of shares and means. All functions are pure: they depend only on their arguments."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Final

import numpy as np
import numpy.typing as npt

_LEVEL: Final = 0.95
_RESAMPLES: Final = 2000
_MAX_DRAWN: Final = 1_000_000  # values in memory at a time

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its confidence interval, of 95 % unless the function that computes it says otherwise.

    Attributes:
        estimate: The estimated share, mean or difference.
        low: The lower end of the interval.
        high: The upper end of the interval.
    """

    estimate: float
    low: float
    high: float


def wilson(hits: int, trials: int, level: float = _LEVEL) -> Interval:
    """Return the share of hits among the trials, with Wilson's score interval.

    If `trials` is 0, the estimate is nan and the interval reaches from 0 to 1.
    """
    return _score_interval(hits / trials, trials, level) if trials else Interval(float("nan"), 0.0, 1.0)


def clustered_share(clusters: Sequence[Sequence[bool]]) -> Interval:
    """Return the share of hits among the trials of all clusters, with Wilson's interval for dependent trials.

    The trials of a cluster depend on one another, like the two orders in which a judge sees a pair of answers. The
    interval is therefore as wide as the interval for a smaller number of independent trials (Kish's effective sample
    size). For this number of independent trials, the variance of the share would be as large as the variance that is
    computed from the clusters. The number has two limits:

    - It is at most the number of trials.
    - It is at least the number that is right if all trials of a cluster always agree. This number is also used if all
      trials of all clusters agree, because the clusters then show no variance.

    If there are no trials, the estimate is nan and the interval is from 0 to 1.
    """
    sizes = np.array([len(cluster) for cluster in clusters if cluster], dtype=np.float64)
    if not len(sizes):
        return Interval(float("nan"), 0.0, 1.0)
    hits = np.array([sum(cluster) for cluster in clusters if cluster], dtype=np.float64)
    trials = float(sizes.sum())
    share = float(hits.sum()) / trials
    fewest = trials**2 / float((sizes**2).sum())
    between = float(((hits - share * sizes) ** 2).sum()) / trials**2 * len(sizes) / max(len(sizes) - 1, 1)
    effective = share * (1 - share) / between if between else (trials if 0 < share < 1 else fewest)
    return _score_interval(share, min(max(effective, fewest), trials), _LEVEL)


def _score_interval(share: float, trials: float, level: float) -> Interval:
    """Return a share with Wilson's score interval. The number of trials may have a fraction."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    spread = z * z / trials
    middle = (share + spread / 2) / (1 + spread)
    half = z * sqrt(share * (1 - share) / trials + spread / trials / 4) / (1 + spread)
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))


def paired_difference(pairs: Sequence[tuple[bool, bool]], level: float = _LEVEL) -> Interval:
    """Return the share of hits of the second members of the pairs minus the share of the first members.

    The interval is Newcombe's hybrid score interval for paired data (1998, method 10). It combines the Wilson intervals
    of the two shares, and their correlation narrows it. It is also valid for few pairs, and for shares of 0 and 1, for
    which a bootstrap interval would have no width. If there are no pairs, the estimate is nan and the interval is from
    -1 to 1.
    """
    if not pairs:
        return Interval(float("nan"), -1.0, 1.0)
    first = wilson(sum(before for before, _ in pairs), len(pairs), level)
    second = wilson(sum(after for _, after in pairs), len(pairs), level)
    correlation = _correlation(pairs)
    difference = second.estimate - first.estimate
    low = _combined(_below(second), _above(first), correlation)
    high = _combined(_above(second), _below(first), correlation)
    return Interval(difference, difference - low, difference + high)


def _correlation(pairs: Sequence[tuple[bool, bool]]) -> float:
    """Return the phi coefficient of the pairs, with the correction for continuity that Newcombe's method applies."""
    count = len(pairs)
    both, only_first, only_second = pairs.count((True, True)), pairs.count((True, False)), pairs.count((False, True))
    neither = count - both - only_first - only_second
    margins = (both + only_first) * (only_second + neither) * (both + only_second) * (only_first + neither)
    if not margins:
        return 0.0
    agreement = both * neither - only_first * only_second
    corrected = max(agreement - count / 2, 0.0) if agreement > 0 else float(agreement)
    return corrected / sqrt(margins)


def _combined(one: float, other: float, correlation: float) -> float:
    return sqrt(max(0.0, one * one - 2 * correlation * one * other + other * other))


def bootstrap_mean(values: Sequence[float], seed: int = 0) -> Interval:
    """Return the mean of the values, with a percentile bootstrap interval.

    The same values and seed always give the same interval. If there are no values, the mean and both ends are nan.
    """
    return _bootstrap(values, lambda samples: np.add.reduce(samples) / len(samples), seed)


def bootstrap_median(values: Sequence[float], seed: int = 0) -> Interval:
    """Return the median of the values, with a percentile bootstrap interval, as `bootstrap_mean` does for the mean."""
    return _bootstrap(values, lambda samples: np.median(samples, axis=0), seed)


@np.errstate(over="ignore", invalid="ignore")
def _bootstrap(values: Sequence[float], statistic: Callable[[_Floats], _Floats], seed: int) -> Interval:
    """Return a statistic of the values, with its interval.

    Args:
        values: The sample.
        statistic: Computes the statistic of each column of an array.
        seed: Chooses the resamples.
    """
    if not values:
        return Interval(float("nan"), float("nan"), float("nan"))
    sample = np.asarray(values, dtype=np.float64)
    estimates = sorted(one for some in _resamples(sample, seed) for one in statistic(some).tolist())
    twice = sample[:, np.newaxis].repeat(2, axis=1)  # two columns, because NumPy adds a single column in another order
    estimate = float(statistic(twice)[0])
    return Interval(estimate, estimates[round(0.025 * _RESAMPLES)], estimates[round(0.975 * _RESAMPLES) - 1])


def _resamples(sample: _Floats, seed: int) -> Iterator[_Floats]:
    """Yield the resamples, which are the columns of arrays of limited size.

    NumPy's generator gets the state of Python's generator, so the resamples are those of `random.Random(seed).choices`.
    """
    _, (*key, position), _ = random.Random(seed).getstate()  # noqa: S311 - resampling, not security
    generator = np.random.RandomState()
    generator.set_state(("MT19937", np.array(key, dtype=np.uint32), position, 0, 0.0))
    count = len(sample)
    at_once = max(1, _MAX_DRAWN // count)
    for begin in range(0, _RESAMPLES, at_once):
        drawn = generator.random_sample((min(at_once, _RESAMPLES - begin), count))
        yield sample[(drawn * count).astype(np.int64)].T.copy()


def balanced_accuracy(refused_unsafe: Interval, answered_safe: Interval) -> Interval:
    """Return the balanced accuracy, which is the mean of the two shares, with an approximate interval.

    The two shares are independent. The lower end is sqrt(a * a + b * b) / 2 below the mean, where a and b are the
    distances from each share to the lower end of its own interval. The upper end is computed in the same way.

    Args:
        refused_unsafe: The share of refusals among the answers to queries that must be refused.
        answered_safe: The share of answers without a refusal among the answers to all other queries.
    """
    low = sqrt(_below(refused_unsafe) ** 2 + _below(answered_safe) ** 2) / 2
    high = sqrt(_above(refused_unsafe) ** 2 + _above(answered_safe) ** 2) / 2
    middle = (refused_unsafe.estimate + answered_safe.estimate) / 2
    return Interval(middle, middle - low, middle + high)


def _below(interval: Interval) -> float:
    return interval.estimate - interval.low


def _above(interval: Interval) -> float:
    return interval.high - interval.estimate
