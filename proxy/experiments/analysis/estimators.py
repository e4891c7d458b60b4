"""Estimates means of units and their differences. Pure: arrays and numbers in and out, without experiments.

Each unit is weighted by 1 / propensity (Hájek 1971). If the arms' weights change during a run, each arm's mean still
estimates the mean over all units, and not mostly over the units that came while the arm was large. With constant
weights the formulas are Welch's t-test. They are implemented here because scipy, statsmodels and tea-tasting have no
test for means of units with different propensities. The tests compare with all three. The distributions are scipy's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from scipy import optimize, stats

from proxy.experiments.analysis.report import Interval
from proxy.experiments.analysis.sequential import Floats, boundary, log_evidence, p_value

POWER: Final = 0.8
_MAX_GROWTH: Final = 1e12


@dataclass(frozen=True, slots=True)
class Moments:
    """Weighted moments of one arm's units. `variance` and `mean_variance` are None for fewer than two units.

    Attributes:
        units: Number of units.
        effective: Number of equally weighted units with the same certainty (Kish's effective sample size).
        weight: Sum of the weights, which estimates the number of units in all arms.
        mean: Weighted mean.
        variance: Variance of the units.
        mean_variance: Variance of the mean.
    """

    units: int
    effective: float
    weight: float
    mean: float | None
    variance: float | None
    mean_variance: float | None


def moments(values: Floats, weights: Floats) -> Moments:
    """Compute the moments of units. Both arguments have the shape (units,)."""
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
    """The estimated effect of an arm: arm minus control, or the logarithm of arm over control.

    Attributes:
        effect: The estimate.
        variance: Variance of the estimate (> 0), by Welch.
        degrees_of_freedom: Degrees of freedom of the t-distribution, by Satterthwaite.
        sequential_variance: Variance of the estimate for the confidence sequence (see `_sequential_variances`).
        information: Information so far, as a fraction of the information at the planned size (see `sequential`).
    """

    effect: float
    variance: float
    degrees_of_freedom: float
    sequential_variance: float
    information: float

    def fixed(self, level: float) -> Interval:
        """Return the confidence interval for a single planned look."""
        return self._around(float(stats.t.isf(level / 2, self.degrees_of_freedom)) * math.sqrt(self.variance))

    def anytime(self, level: float) -> Interval:
        """Return the interval that is valid for any number of looks."""
        return self._around(self._bound(level, 2))

    def at_least(self, level: float) -> float:
        """Return a lower bound of the effect that is valid for any number of looks."""
        return self.effect - self._bound(level, 1)

    @property
    def p_fixed(self) -> float:
        """The p-value of no effect, for a single planned look."""
        return float(2 * stats.t.sf(abs(self.effect) / math.sqrt(self.variance), self.degrees_of_freedom))

    @property
    def p_anytime(self) -> float:
        """The p-value of no effect, for any number of looks."""
        score = self.effect / math.sqrt(self.sequential_variance)
        return p_value(float(log_evidence(np.array(score), np.array(self.information))))

    def detectable(self, level: float) -> float:
        """Return the smallest effect that this number of units detects with POWER at a single look."""
        return float(stats.norm.isf(level / 2) + stats.norm.ppf(POWER)) * math.sqrt(self.variance)

    def growth_until(self, effect: float, level: float) -> float:
        """Return the factor by which the number of units must grow to detect an effect with POWER, at any time.

        The factor assumes that the effect is detected at the last look. Earlier looks increase the power slightly.
        """
        power = float(stats.norm.ppf(POWER))

        def shortfall(log_growth: float) -> float:
            growth = math.exp(log_growth)
            bound = float(boundary(np.array(self.information * growth), level))
            return (bound + power) * math.sqrt(self.sequential_variance / growth) - abs(effect)

        limit = math.log(_MAX_GROWTH)
        if shortfall(limit) > 0:
            return _MAX_GROWTH
        if shortfall(-limit) <= 0:  # a metric with hardly any variance shows an effect at once
            return 1 / _MAX_GROWTH
        return math.exp(float(optimize.brentq(shortfall, -limit, limit)))

    def _bound(self, level: float, sides: int) -> float:
        return float(boundary(np.array(self.information), level, sides=sides)) * math.sqrt(self.sequential_variance)

    def _around(self, half_width: float) -> Interval:
        return Interval(self.effect - half_width, self.effect + half_width)


def estimate_difference(arm: Moments, control: Moments, planned: float) -> EffectEstimate | None:
    """Estimate arm minus control. Return None if its variance is unknown or 0.

    `planned` is the planned number of units, of both arms.
    """
    if arm.mean is None or control.mean is None:
        return None
    return _estimate(arm.mean - control.mean, (arm, control), (1.0, 1.0), planned)


def estimate_log_ratio(arm: Moments, control: Moments, planned: float) -> EffectEstimate | None:
    """Estimate the logarithm of arm over control by the delta method.

    Return None if a mean is not above zero, or as `estimate_difference`.
    """
    if arm.mean is None or control.mean is None or arm.mean <= 0 or control.mean <= 0:
        return None
    return _estimate(math.log(arm.mean / control.mean), (arm, control), (arm.mean**-2, control.mean**-2), planned)


Arms: TypeAlias = tuple[Moments, Moments]


def _estimate(effect: float, arms: Arms, scales: tuple[float, float], planned: float) -> EffectEstimate | None:
    """Estimate an effect. The variances of the two means are multiplied by `scales`."""
    known = [arm.mean_variance for arm in arms if arm.mean_variance is not None]
    if len(known) < 2 or not sum(known):
        return None
    variances = [variance * scale for variance, scale in zip(known, scales, strict=True)]
    terms = (variance**2 / (arm.effective - 1) for variance, arm in zip(variances, arms, strict=True))
    degrees_of_freedom = sum(variances) ** 2 / sum(terms)
    sequential = sum(variance * scale for variance, scale in zip(_sequential_variances(arms), scales, strict=True))
    return EffectEstimate(effect, sum(variances), degrees_of_freedom, sequential, _information(arms, planned))


def _sequential_variances(arms: Arms) -> list[float]:
    """Compute the variance of each mean. That of the smaller arm is raised towards the pooled variance of all units.

    A small arm without any rare value underestimates its variance just when its mean is too low. A sequence that looks
    early would take that for an effect (the benchmark `experiments` shows it). Arms of equal size are not changed.
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
    """Compute the information fraction: the clock of the sequence.

    It is the sum of the variances of all units' contributions, divided by the same sum for the planned number of units
    in arms of equal size. It does not depend on the unit of the metric.
    """
    units = sum(arm.weight for arm in arms) / 2
    variance = sum(_sequential_variances(arms))
    return variance * units**2 / (2 * sum(arm.variance or 0.0 for arm in arms) * planned)


def adjusted(values: Floats, history: Floats, weights: Floats) -> Floats:
    """Remove from the values what a regression on the units' history explains (CUPED: Deng et al., WSDM 2013).

    The history does not depend on the arm, so the adjustment moves no mean except by chance. It stays valid in a
    sequence (regression adjustment: arXiv 2103.06476, section 3).

    Args:
        values: Values of the units of both arms, of shape (units,).
        history: Earlier means of the units, of shape (units,). A unit with NaN keeps its value.
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
    """Adjust p-values by Holm's step-down method (1979), in the order given. statsmodels would bring in pandas."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted_values, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted_values[index] = highest
    return adjusted_values
