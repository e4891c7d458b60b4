"""Estimates the mean of an arm, and its difference from the mean of the control. It does not depend on experiments.

Each unit is weighted by 1 / propensity (Hájek 1971). If an arm's propensity changes while an experiment runs, more of
the arm's units come from the time when its propensity was high. The weights correct for this: the mean of each arm
still estimates the mean over all units of the experiment.

If the propensities are constant, the test for a single look is Welch's t-test. scipy, statsmodels and tea-tasting have
no such test for units with different propensities, so it is implemented here. For constant propensities, the unit tests
compare the results with those of all three libraries. The distribution functions come from scipy.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import scipy  # imports scipy.stats, which takes a second, when it is first used

from proxy.experiments.analysis.report import Interval
from proxy.experiments.analysis.sequential import Floats, boundary, log_evidence, p_value

POWER: Final = 0.8  # the probability with which a detectable effect is found
_MAX_GROWTH: Final = 1e12  # the largest factor that `growth_until` returns


@dataclass(frozen=True, slots=True)
class Moments:
    """Weighted moments of one metric in one arm.

    Attributes:
        units: Number of units of the arm that have a value of the metric.
        effective: Kish's effective sample size: the number of equally weighted units that would determine the mean with
            the same precision.
        weight: Sum of the units' weights, which estimates the number of units in all arms together.
        mean: Weighted mean of the units' values. None if there is no unit.
        variance: Variance of the units' values. None for fewer than two units.
        mean_variance: Variance of the mean. None for fewer than two units.
    """

    units: int
    effective: float
    weight: float
    mean: float | None
    variance: float | None
    mean_variance: float | None


def moments(values: Floats, weights: Floats) -> Moments:
    """Compute the moments of the units of one arm. Both arguments have the shape (units,)."""
    if not len(values):
        return Moments(0, 0.0, 0.0, None, None, None)
    total = float(np.sum(weights))
    effective = total**2 / float(np.sum(weights**2))
    mean = float(np.sum(weights * values)) / total
    if len(values) < 2 or effective <= 1:
        return Moments(len(values), effective, total, mean, None, None)
    correction = effective / (effective - 1)
    squares = (values - mean) ** 2 if np.ptp(values) else np.zeros_like(values)
    variance = float(np.sum(weights * squares)) / total * correction
    mean_variance = float(np.sum(weights**2 * squares)) / total**2 * correction
    return Moments(len(values), effective, total, mean, variance, mean_variance)


@dataclass(frozen=True, slots=True)
class EffectEstimate:
    """The estimated effect of an arm: arm mean minus control mean, or the logarithm of arm mean over control mean.

    In the methods, `level` is the significance level: 0.05 means 95 % confidence.

    Attributes:
        effect: The point estimate.
        variance: Variance of the estimate (> 0). The variances of the arms are not pooled, as in Welch's t-test.
        degrees_of_freedom: Degrees of freedom of the t-distribution, by the Welch-Satterthwaite equation.
        sequential_variance: Variance of the estimate for the confidence sequence (see `_sequential_variances`).
        information: Information fraction: information so far, divided by the information at the planned number of units
            (see `_information`).
    """

    effect: float
    variance: float
    degrees_of_freedom: float
    sequential_variance: float
    information: float

    def fixed(self, level: float) -> Interval:
        """Return the confidence interval that is valid for a single planned look."""
        return self._around(float(scipy.stats.t.isf(level / 2, self.degrees_of_freedom)) * math.sqrt(self.variance))

    def anytime(self, level: float) -> Interval:
        """Return the current interval of the confidence sequence, which is valid for any number of looks."""
        return self._around(self._bound(level, 2))

    def at_least(self, level: float) -> float:
        """Return the one-sided lower confidence bound of the effect that is valid for any number of looks."""
        return self.effect - self._bound(level, 1)

    @property
    def p_fixed(self) -> float:
        """The two-sided p-value of the hypothesis of no effect, valid for a single planned look."""
        return float(2 * scipy.stats.t.sf(abs(self.effect) / math.sqrt(self.variance), self.degrees_of_freedom))

    @property
    def p_anytime(self) -> float:
        """The two-sided p-value of the hypothesis of no effect, valid for any number of looks."""
        score = self.effect / math.sqrt(self.sequential_variance)
        return p_value(float(log_evidence(np.array(score), np.array(self.information))))

    def detectable(self, level: float) -> float:
        """Return the smallest true effect that a single look at this number of units detects with power POWER."""
        return float(scipy.stats.norm.isf(level / 2) + scipy.stats.norm.ppf(POWER)) * math.sqrt(self.variance)

    def growth_until(self, effect: float, level: float) -> float:
        """Return the factor by which the number of units must grow for the confidence sequence to detect an effect.

        At the resulting number of units, the interval of the confidence sequence excludes 0 with probability POWER if
        the true effect is `effect`. The calculation ignores earlier looks. An earlier interval may also exclude 0, so
        the power over all looks is slightly higher. The factor is below 1 if fewer units would suffice.
        """
        power = float(scipy.stats.norm.ppf(POWER))

        def shortfall(log_growth: float) -> float:
            growth = math.exp(log_growth)
            bound = float(boundary(np.array(self.information * growth), level))
            return (bound + power) * math.sqrt(self.sequential_variance / growth) - abs(effect)

        limit = math.log(_MAX_GROWTH)
        if shortfall(limit) > 0:
            return _MAX_GROWTH
        if shortfall(-limit) <= 0:  # the variance is so small that even the smallest size suffices
            return 1 / _MAX_GROWTH
        return math.exp(float(scipy.optimize.brentq(shortfall, -limit, limit)))

    def _bound(self, level: float, sides: int) -> float:
        return float(boundary(np.array(self.information), level, sides=sides)) * math.sqrt(self.sequential_variance)

    def _around(self, half_width: float) -> Interval:
        return Interval(self.effect - half_width, self.effect + half_width)


def estimate_difference(arm: Moments, control: Moments, planned: float) -> EffectEstimate | None:
    """Estimate arm mean minus control mean. Return None if a mean or the variance is unknown, or the variance is 0.

    `planned` is the planned number of units of an experiment that has only these two arms, with equal weights. At this
    number of units, the information fraction is 1. For other experiments, see `analyze.planned_units_of_equal_arms`.
    """
    if arm.mean is None or control.mean is None:
        return None
    return _estimate(arm.mean - control.mean, (arm, control), (1.0, 1.0), planned)


def estimate_log_ratio(arm: Moments, control: Moments, planned: float) -> EffectEstimate | None:
    """Estimate the logarithm of arm mean over control mean. Its variance follows from the delta method.

    Return None if a mean is not above 0, and in the cases in which `estimate_difference` returns None.
    """
    if arm.mean is None or control.mean is None or arm.mean <= 0 or control.mean <= 0:
        return None
    return _estimate(math.log(arm.mean / control.mean), (arm, control), (arm.mean**-2, control.mean**-2), planned)


Arms: TypeAlias = tuple[Moments, Moments]


def _estimate(effect: float, arms: Arms, scales: tuple[float, float], planned: float) -> EffectEstimate | None:
    """Return an effect with its variances, or None if the variance of a mean is unknown or both variances are 0.

    Args:
        effect: The point estimate.
        arms: The arm and the control.
        scales: Factor for the variance of each mean, from the delta method. Both factors are 1 for a difference.
        planned: See `estimate_difference`.
    """
    known = [arm.mean_variance for arm in arms if arm.mean_variance is not None]
    if len(known) < 2 or not sum(known):
        return None
    variances = [variance * scale for variance, scale in zip(known, scales, strict=True)]
    terms = (variance**2 / (arm.effective - 1) for variance, arm in zip(variances, arms, strict=True))
    degrees_of_freedom = sum(variances) ** 2 / sum(terms)
    sequential = sum(variance * scale for variance, scale in zip(_sequential_variances(arms), scales, strict=True))
    return EffectEstimate(effect, sum(variances), degrees_of_freedom, sequential, _information(arms, planned))


def _sequential_variances(arms: Arms) -> list[float]:
    """Compute the variance of each arm's mean, for the confidence sequence.

    The variance of the arm with the smaller effective sample size is raised towards the pooled variance of both arms,
    if it is below the pooled variance. The increase grows with the difference in size, and is 0 for equal sizes.

    The increase is for metrics with rare high values. A small arm may by chance contain none of these values. Its mean
    and its variance are then both too low, and an early look would find an effect that does not exist. The benchmark
    tests/bench/experiments.py measures the rate of such errors for arms of several sizes.
    """
    effective = sum(arm.effective for arm in arms)
    pooled = sum((arm.variance or 0.0) * arm.effective for arm in arms) / effective
    return [_raised_variance(arms[0], arms[1], pooled), _raised_variance(arms[1], arms[0], pooled)]


def _raised_variance(arm: Moments, other: Moments, pooled: float) -> float:
    mean_variance, variance = arm.mean_variance or 0.0, arm.variance or 0.0
    imbalance = max(0.0, 1 - arm.effective / other.effective)
    factor = mean_variance / variance if variance else 1 / arm.effective
    return mean_variance + factor * imbalance * max(0.0, pooled - variance)


def _information(arms: Arms, planned: float) -> float:
    """Compute the information fraction, which is the time scale of the confidence sequence.

    The information is the squared number of units in all arms, times the variance of the difference. The variance
    decreases in proportion to 1 / units, so the information grows in proportion to the number of units. The fraction
    divides the information by the information of `planned` units in two arms of equal size. If a latency, for example,
    is measured in milliseconds instead of seconds, the fraction stays the same.
    """
    units = sum(arm.weight for arm in arms) / 2
    variance = sum(_sequential_variances(arms))
    return variance * units**2 / (2 * sum(arm.variance or 0.0 for arm in arms) * planned)


def adjusted(values: Floats, history: Floats, weights: Floats) -> Floats:
    """Subtract from the values what a linear regression on the units' history predicts (CUPED: Deng et al., WSDM 2013).

    This reduces the variance. The history precedes the assignment to an arm, so its expectation is the same in all
    arms, and the difference between two arms keeps its expectation. A confidence sequence stays valid with this
    adjustment (regression adjustment: arXiv 2103.06476, section 3).

    Args:
        values: Values of the units of both arms, of shape (units,).
        history: Mean of the metric over each unit's requests before its first request in the experiment, of shape
            (units,). NaN for a unit without such requests. The value of such a unit is not changed.
        weights: Weights of the units, of shape (units,).
    """
    known = ~np.isnan(history)
    centred = np.where(known, history, 0.0)
    centred = np.where(known, centred - _mean(centred[known], weights[known]), 0.0)
    spread = float(np.sum(weights * centred**2))
    if spread <= 0:
        return values
    slope = float(np.sum(weights * centred * (values - _mean(values, weights)))) / spread
    return values - slope * centred


def _mean(values: Floats, weights: Floats) -> float:
    return float(np.sum(values * weights) / np.sum(weights)) if len(values) else 0.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted by Holm's step-down method (1979), each at the same index as in the argument.

    The method is implemented here because statsmodels, which also has it, depends on pandas.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted_values, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted_values[index] = highest
    return adjusted_values
