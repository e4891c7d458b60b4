"""Means of units, and how two of them differ. Arrays and numbers in and out; knows no experiment. Pure.

Each unit weighs 1 / propensity (Hájek 1971): where the weights of arms changed during a run, each arm's mean is still
that of everyone who came, and not mostly of those who came while the arm was large. With weights that never changed,
all this is Welch's t-test, as scipy has it; that is why the formulas are here: scipy, statsmodels and tea-tasting
(which the tests compare with) have no test for means of units with different propensities. Distributions are scipy's.
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
_MOST_UNITS: Final = 1e12


@dataclass(frozen=True, slots=True)
class Moments:
    """Mean of units. effective: how many of equal weight would be as certain (Kish); weight: sum of the weights, which
    estimates how many units came, to all arms; variance: of units; error: variance of the mean. None: under two
    units."""

    units: int
    effective: float
    weight: float
    mean: float | None
    variance: float | None
    error: float | None


def moments(values: Floats, weights: Floats) -> Moments:
    """Of units with these values and weights, (units,) each."""
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
    error = float(np.sum(weights**2 * squares)) / total**2 * correction
    return Moments(len(values), effective, total, mean, variance, error)


@dataclass(frozen=True, slots=True)
class Contrast:
    """Arm minus control, or the logarithm of arm over control. error: its variance (> 0), by Welch; freedom: degrees of
    it, by Satterthwaite; careful: the variance for the sequence (see _careful); progress: information so far, in
    planned sizes (see sequential)."""

    difference: float
    error: float
    freedom: float
    careful: float
    progress: float

    def fixed(self, level: float) -> Interval:
        """For one look."""
        return self._around(float(stats.t.isf(level / 2, self.freedom)) * math.sqrt(self.error))

    def anytime(self, level: float) -> Interval:
        """For any number of looks."""
        return self._around(self._bound(level, 2))

    def at_least(self, level: float) -> float:
        """What the difference certainly is not below, at any number of looks."""
        return self.difference - self._bound(level, 1)

    @property
    def p_fixed(self) -> float:
        """Of no difference, for one look."""
        return float(2 * stats.t.sf(abs(self.difference) / math.sqrt(self.error), self.freedom))

    @property
    def p_anytime(self) -> float:
        """Of no difference, for any number of looks."""
        score = self.difference / math.sqrt(self.careful)
        return p_value(float(log_evidence(np.array(score), np.array(self.progress))))

    def detectable(self, level: float) -> float:
        """The least difference that as many units show with POWER, at one look."""
        return float(stats.norm.isf(level / 2) + stats.norm.ppf(POWER)) * math.sqrt(self.error)

    def growth_until(self, difference: float, level: float) -> float:
        """How many times the units so far it takes to see a difference with POWER, at any number of looks.

        Counts on seeing it at the last look; the earlier ones make the power a little greater.
        """
        power = float(stats.norm.ppf(POWER))

        def lacking(log_growth: float) -> float:
            growth = math.exp(log_growth)
            bound = float(boundary(np.array(self.progress * growth), level))
            return (bound + power) * math.sqrt(self.careful / growth) - abs(difference)

        most = math.log(_MOST_UNITS)
        if lacking(most) > 0:
            return _MOST_UNITS
        if lacking(-most) <= 0:  # of a metric that hardly varies any difference is seen at once
            return 1 / _MOST_UNITS
        return math.exp(float(optimize.brentq(lacking, -most, most)))

    def _bound(self, level: float, sides: int) -> float:
        return float(boundary(np.array(self.progress), level, sides=sides)) * math.sqrt(self.careful)

    def _around(self, half: float) -> Interval:
        return Interval(self.difference - half, self.difference + half)


def contrast(arm: Moments, control: Moments, planned: float) -> Contrast | None:
    """Arm minus control; None where nothing is known of how certain it is. planned: units, of both arms alike."""
    if arm.mean is None or control.mean is None:
        return None
    return _contrast(arm.mean - control.mean, (arm, control), (1.0, 1.0), planned)


def log_ratio(arm: Moments, control: Moments, planned: float) -> Contrast | None:
    """Logarithm of arm over control, by the delta method; None where a mean is not above zero, or as `contrast`."""
    if arm.mean is None or control.mean is None or arm.mean <= 0 or control.mean <= 0:
        return None
    return _contrast(math.log(arm.mean / control.mean), (arm, control), (arm.mean**-2, control.mean**-2), planned)


Sides: TypeAlias = tuple[Moments, Moments]


def _contrast(difference: float, sides: Sides, scales: tuple[float, float], planned: float) -> Contrast | None:
    """scales: what the variances of the means are multiplied with."""
    known = [side.error for side in sides if side.error is not None]
    if len(known) < 2 or not sum(known):
        return None
    errors = [error * scale for error, scale in zip(known, scales, strict=True)]
    freedom = sum(errors) ** 2 / sum(error**2 / (side.effective - 1) for error, side in zip(errors, sides, strict=True))
    careful = sum(error * scale for error, scale in zip(_careful(sides), scales, strict=True))
    return Contrast(difference, sum(errors), freedom, careful, _progress(sides, planned))


def _careful(sides: Sides) -> list[float]:
    """Variance of each mean, but the smaller arm's nearer to what it would be if its units varied as all units do.

    While a small arm has seen no rare value, its own variance is too small just when its mean is too low, and a
    sequence that looks early would take that for a difference (the bench `experiments` shows
    it). Arms of one size need no care.
    """
    both = sum(side.effective for side in sides)
    pooled = sum((side.variance or 0.0) * side.effective for side in sides) / both
    return [_raised(sides[0], sides[1], pooled), _raised(sides[1], sides[0], pooled)]


def _raised(side: Moments, other: Moments, pooled: float) -> float:
    error, variance = side.error or 0.0, side.variance or 0.0
    smaller = max(0.0, 1 - side.effective / other.effective)
    own = error / variance if variance else 1 / side.effective
    return error + own * smaller * max(0.0, pooled - variance)


def _progress(sides: Sides, planned: float) -> float:
    """The clock of the sequence: the sum of the variances of what each unit brought, beside what that sum would be for
    the planned units in arms of one size. It does not depend on the metric's unit."""
    came = sum(side.weight for side in sides) / 2
    error = sum(_careful(sides))
    return error * came**2 / (2 * sum(side.variance or 0.0 for side in sides) * planned)


def adjusted(values: Floats, history: Floats, weights: Floats) -> Floats:
    """The values without what a regression on the units' past explains (CUPED: Deng et al., WSDM 2013).

    values, history, weights: (units,), of both arms together; history is NaN for a unit without one, which is left as
    it is. The past is the same whichever the arm, so this moves no mean but by chance, and stays right in a sequence
    (regression adjustment: arXiv 2103.06476, section 3).
    """
    known = ~np.isnan(history)
    past = np.where(known, history, 0.0)
    past = np.where(known, past - _mean(past[known], weights[known]), 0.0)
    spread = float(np.sum(weights * past**2))
    if spread <= 0:
        return values
    slope = float(np.sum(weights * past * (values - _mean(values, weights)))) / spread
    return values - slope * past


def _mean(values: Floats, weights: Floats) -> float:
    return float(np.sum(values * weights) / np.sum(weights)) if len(values) else 0.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (1979), in the order given. statsmodels has it too, at the price of pandas."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    found, highest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        found[index] = highest
    return found
