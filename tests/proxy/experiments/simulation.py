"""Runs of experiments, many at once, looked at again and again: how often is each way of deciding right?

Units come one by one to two arms; the arrays are (runs, units). Sums over prefixes give every look of every run, so
that thousands of runs take seconds; that they are what proxy.experiments.analysis.estimators computes is tested
(test_statistics.py).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from proxy.experiments.analysis.analyze import BURN_IN, MIN_VARIED_UNITS
from proxy.experiments.analysis.sequential import Floats, boundary

Draw = Callable[[np.random.Generator, tuple[int, int]], Floats]


@dataclass(frozen=True)
class Looks:
    """What each look of each run saw. score: the difference in standard errors, (runs, looks); progress, in planned
    sizes; ready: the burn-in is over; difference; units: (looks,)."""

    score: Floats
    progress: Floats
    ready: np.ndarray
    difference: Floats
    error: Floats
    units: np.ndarray

    def any_time(self, level: float, truth: float = 0.0) -> Floats:
        """(runs,): whether the any-time interval ever misses `truth`."""
        with np.errstate(divide="ignore", invalid="ignore"):
            score = (self.difference - truth) / np.sqrt(self.error)
        beyond = np.abs(score) > boundary(np.where(self.ready, self.progress, 1.0), level)
        return (beyond & self.ready).any(axis=1)

    def naive(self, level: float, truth: float = 0.0) -> Floats:
        """(runs,): whether the interval for a single look ever misses it, at the same looks."""
        with np.errstate(divide="ignore", invalid="ignore"):
            score = (self.difference - truth) / np.sqrt(self.error)
        return ((np.abs(score) > stats.norm.isf(level / 2)) & self.ready).any(axis=1)


def look(values: Floats, treated: np.ndarray, propensity: Floats, every: int, planned: float) -> Looks:
    """The looks after every `every` units. values, treated, propensity (of the unit's own arm): (runs, units)."""
    ends = np.arange(every, values.shape[1] + 1, every) - 1
    arm, control = (_side(values, chosen, 1 / propensity, ends) for chosen in (treated, ~treated))
    pooled = _pooled(arm, control)
    error = _careful(arm, control, pooled) + _careful(control, arm, pooled)
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


def _careful(side: dict[str, Floats], other: dict[str, Floats], pooled: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        smaller = np.maximum(0, 1 - side["effective"] / other["effective"])
        own = np.where(side["variance"] > 1e-12, side["error"] / side["variance"], 1 / side["effective"])
        return side["error"] + own * smaller * np.maximum(0, pooled - side["variance"])


def _pooled(arm: dict[str, Floats], control: dict[str, Floats]) -> Floats:
    """Variance of units, of both arms, by effective units."""
    both = arm["effective"] + control["effective"]
    return (arm["variance"] * arm["effective"] + control["variance"] * control["effective"]) / both


def _side(values: Floats, chosen: np.ndarray, weights: Floats, ends: np.ndarray) -> dict[str, Floats]:
    """Moments of one arm at each look, as statistics.moments has them, from cumulative sums."""
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
    """Who is treated, and the propensity of each unit's own arm. share: of the treatment, for each unit."""
    share = np.broadcast_to(share, shape)
    treated = rng.random(shape) < share
    return treated, np.where(treated, share, 1 - share)


def binary(probability: float) -> Draw:
    """A thumb, say."""
    return lambda rng, shape: (rng.random(shape) < probability).astype(float)


def skewed(deviation: float) -> Draw:
    """A latency, say: log-normal with a median of 1 second."""
    return lambda rng, shape: rng.lognormal(0.0, deviation, shape)


def bounded() -> Draw:
    """A mean of several scores from 0 to 1."""
    return lambda rng, shape: rng.beta(2.0, 3.0, shape)


def normal() -> Draw:
    """What the formulas are made for."""
    return lambda rng, shape: rng.standard_normal(shape)


def fixed_size(difference: float, variance: float, level: float = 0.05, power: float = 0.8) -> int:
    """Units of both arms of one size that a single look at the end needs."""
    return int(np.ceil(4 * variance * ((stats.norm.isf(level / 2) + stats.norm.ppf(power)) / difference) ** 2))
