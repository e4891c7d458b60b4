"""Simulates many runs of experiments with repeated looks, to measure how often a decision is right.

Units arrive one by one in two arms. The arrays have the shape (runs, units). Cumulative sums give the results of all
looks of all runs at once, so that thousands of runs take seconds. test_estimators.py checks that the results are equal
to those of proxy.experiments.analysis.estimators.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy  # which imports scipy.stats when a test first uses it: that takes a second

from proxy.experiments.analysis.readiness import BURN_IN, MIN_VARIED_UNITS
from proxy.experiments.analysis.sequential import Floats, boundary

Draw = Callable[[np.random.Generator, tuple[int, int]], Floats]


@dataclass(frozen=True)
class Looks:
    """The results at each look of each run. All arrays except `units` have the shape (runs, looks).

    Attributes:
        score: Difference between treatment and control, in standard errors.
        progress: Information so far, as a fraction of the information at the planned size.
        ready: Whether the burn-in is over.
        difference: Mean of the treatment minus mean of the control.
        error: Variance of the difference.
        units: Number of units at each look, of shape (looks,).
    """

    score: Floats
    progress: Floats
    ready: np.ndarray
    difference: Floats
    error: Floats
    units: np.ndarray

    def any_time(self, level: float, truth: float = 0.0) -> Floats:
        """Return whether the any-time interval of a run ever misses `truth`, of shape (runs,)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            score = (self.difference - truth) / np.sqrt(self.error)
        beyond = np.abs(score) > boundary(np.where(self.ready, self.progress, 1.0), level)
        return (beyond & self.ready).any(axis=1)

    def naive(self, level: float, truth: float = 0.0) -> Floats:
        """Return whether the interval for a single look ever misses `truth` at the same looks, of shape (runs,)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            score = (self.difference - truth) / np.sqrt(self.error)
        return ((np.abs(score) > scipy.stats.norm.isf(level / 2)) & self.ready).any(axis=1)


def look(values: Floats, treated: np.ndarray, propensity: Floats, every: int, planned: float) -> Looks:
    """Compute the results at a look after every `every` units. The arrays have the shape (runs, units).

    `propensity` contains the propensity of each unit's own arm.
    """
    ends = np.arange(every, values.shape[1] + 1, every) - 1
    arm, control = (_side(values, chosen, 1 / propensity, ends) for chosen in (treated, ~treated))
    pooled = _pooled(arm, control)
    error = _raised_variance(arm, control, pooled) + _raised_variance(control, arm, pooled)
    difference = arm["mean"] - control["mean"]
    came = (arm["weight"] + control["weight"]) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        progress = error * came**2 / (2 * (arm["variance"] + control["variance"]) * planned)
        score = difference / np.sqrt(error)
    enough = np.minimum(arm["effective"], control["effective"]) >= BURN_IN
    middle = np.median(values, axis=1, keepdims=True)
    varied = np.cumsum(values != middle, axis=1)[:, ends] >= MIN_VARIED_UNITS
    ready = enough & varied & (error > 0)
    return Looks(score, progress, ready, difference, error, ends + 1)


def _raised_variance(side: dict[str, Floats], other: dict[str, Floats], pooled: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        smaller = np.maximum(0, 1 - side["effective"] / other["effective"])
        own = np.where(side["variance"] > 1e-12, side["error"] / side["variance"], 1 / side["effective"])
        return side["error"] + own * smaller * np.maximum(0, pooled - side["variance"])


def _pooled(arm: dict[str, Floats], control: dict[str, Floats]) -> Floats:
    """Return the pooled variance of both arms, weighted by their effective sample sizes."""
    both = arm["effective"] + control["effective"]
    return (arm["variance"] * arm["effective"] + control["variance"] * control["effective"]) / both


def _side(values: Floats, chosen: np.ndarray, weights: Floats, ends: np.ndarray) -> dict[str, Floats]:
    """Compute the moments of one arm at each look from cumulative sums, equal to `estimators.moments`."""
    w = np.where(chosen, weights, 0.0)

    def upto(terms: Floats) -> Floats:
        return np.cumsum(terms, axis=1)[:, ends]

    total, total2 = upto(w), upto(w**2)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = upto(w * values) / total
        effective = total**2 / total2
        correction = effective / (effective - 1)
        variance = (upto(w * values**2) / total - mean**2) * correction
        squares = upto(w**2 * values**2) - 2 * mean * upto(w**2 * values) + mean**2 * total2
        error = squares / total**2 * correction
    return {"weight": total, "mean": mean, "effective": effective, "variance": variance, "error": np.maximum(error, 0)}


def assign(rng: np.random.Generator, shape: tuple[int, int], share: Floats | float) -> tuple[np.ndarray, Floats]:
    """Draw which units are treated. Return them and the propensity of each unit's own arm.

    `share` is the propensity of the treatment.
    """
    share = np.broadcast_to(share, shape)
    treated = rng.random(shape) < share
    return treated, np.where(treated, share, 1 - share)


def binary(probability: float) -> Draw:
    """Return a function that draws binary ratings."""
    return lambda rng, shape: (rng.random(shape) < probability).astype(float)


def skewed(deviation: float) -> Draw:
    """Return a function that draws latencies from a log-normal distribution with a median of 1 second."""
    return lambda rng, shape: rng.lognormal(0.0, deviation, shape)


def bounded() -> Draw:
    """Return a function that draws values, each the mean of several scores from 0 to 1."""
    return lambda rng, shape: rng.beta(2.0, 3.0, shape)


def normal() -> Draw:
    """Return a function that draws standard normal values, for which the formulas are exact."""
    return lambda rng, shape: rng.standard_normal(shape)


def fixed_size(difference: float, variance: float, level: float = 0.05, power: float = 0.8) -> int:
    """Return the number of units that a single look at the end needs, over two arms of equal size."""
    return int(
        np.ceil(4 * variance * ((scipy.stats.norm.isf(level / 2) + scipy.stats.norm.ppf(power)) / difference) ** 2)
    )
