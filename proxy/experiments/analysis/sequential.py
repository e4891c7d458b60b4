"""Implements tests of differences between means and of the sizes of arms, valid for any number of looks at the data.

The evidence against a hypothesis is an e-process: if the hypothesis is true, the expectation of the evidence is at most
1 at any stopping time. By Ville's inequality, the probability that the evidence ever exceeds 1 / level is then at most
`level`. The test rejects a hypothesis as soon as the evidence against it exceeds 1 / level. At each time, the
differences against which the evidence is at most 1 / level form an interval. The sequence of the intervals at all times
is a confidence sequence: the probability that all of these intervals contain the true difference is at least 1 - level.

Means: the evidence is a likelihood ratio, averaged over a mixing distribution of the true difference (Robbins 1970).
Means are only approximately normal. A central limit theorem that holds at all times at once makes the test valid for
many units (Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas: Time-uniform central limit theory and asymptotic confidence
sequences, Annals of Statistics 2024, arXiv 2103.06476). The usual mixing distribution is a normal distribution around
zero. This module mixes two normal distributions, one on each side of zero. Their centres are differences that the
planned number of units can detect. The test is valid with this distribution too, and the width of the interval still
converges to 0. Near the planned number of units, the interval is narrower than with the usual distribution. Far from
this number, it is wider. No library implements this mixture: `confseq` has the usual distribution, and its last release
was in 2023.

Sample ratio: the evidence is the Bayes factor of Lindon and Malek (Anytime-valid inference for multinomial count data,
NeurIPS 2022, arXiv 2011.03567). The alternative hypothesis predicts each unit's arm from the unit's propensities, each
multiplied by the ratio of observed to expected units of the arm so far. Therefore the test is also valid if the
propensities change.
"""

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

# The two normal distributions of the mixture have the centres plus and minus sqrt(_CENTRE_SQUARED), in standard errors
# at the planned size, and the same variance. tests/bench/experiments.py measures the resulting error rates and power.
_CENTRE_SQUARED: Final = 6.5
_MIXTURE_VARIANCE: Final = 0.4
_MAX_BOUNDARY: Final = 1e4  # standard errors
_NEWTON_STEPS: Final = 8  # after 6 steps, the result no longer changes
_SAMPLE_RATIO_PRIOR: Final = 1000.0  # pseudo-units with the expected ratio; tuned for deviations of 1 to 3 %


def log_evidence(score: Floats, information: Floats, *, sides: int = 2) -> Floats:
    """Compute the logarithm of the evidence against a hypothesis about the true difference.

    Args:
        score: Estimated difference minus the difference of the hypothesis, in standard errors.
        information: Information fraction (> 0, see `estimators._information`).
        sides: 2 to test against larger and smaller true differences, 1 to test against larger ones only.
    """
    total = score * np.sqrt(information)
    precision = information + 1 / _MIXTURE_VARIANCE
    shift = np.sqrt(_CENTRE_SQUARED) / _MIXTURE_VARIANCE
    tilt = total * shift / precision
    common = (
        -0.5 * np.log1p(_MIXTURE_VARIANCE * information)
        + (total**2 + shift**2) / (2 * precision)
        - _CENTRE_SQUARED / (2 * _MIXTURE_VARIANCE)
    )
    return np.asarray(common + (tilt if sides == 1 else np.logaddexp(tilt, -tilt) - np.log(2)))


def boundary(information: Floats, level: float, *, sides: int = 2) -> Floats:
    """Compute the half-width of the confidence sequence in standard errors.

    With a probability of at least 1 - level, the distance between estimate and true difference never exceeds the
    half-width, at any time. With `sides` = 1, the half-width only limits how far the estimate is above the true
    difference.
    """
    precision, shift = information + 1 / _MIXTURE_VARIANCE, np.sqrt(_CENTRE_SQUARED) / _MIXTURE_VARIANCE
    with np.errstate(all="ignore"):  # a value that is not finite gives _MAX_BOUNDARY
        needed = -np.log(level) - log_evidence(np.zeros_like(information), information)
        if sides == 1:
            total = _root(precision, shift, needed)
        else:
            # log cosh x is convex, at least 0, and at least x - log 2. Newton's method therefore starts at or above the
            # solution, and decreases towards it.
            total = np.minimum(np.sqrt(2 * precision * needed), _root(precision, shift, needed + np.log(2)))
            for _ in range(_NEWTON_STEPS):
                tilt = total * shift / precision
                missing = total**2 / (2 * precision) + np.logaddexp(tilt, -tilt) - np.log(2) - needed
                total = total - missing * precision / (total + shift * np.tanh(tilt))
        score = total / np.sqrt(information)
    return np.where(score < _MAX_BOUNDARY, score, _MAX_BOUNDARY)


def _root(precision: Floats, shift: float, needed: Floats) -> Floats:
    """Return the positive solution x of (x**2 / 2 + shift * x) / precision = needed."""
    return np.asarray(2 * precision * needed / (shift + np.sqrt(shift**2 + 2 * precision * needed)))


def sample_ratio_log_evidence(arms: NDArray[np.intp], propensities: Floats) -> float:
    """Compute the logarithm of the evidence against the hypothesis that the propensities explain the arms' sizes.

    If the propensities never change, the evidence is the probability of the counts under a Dirichlet-multinomial
    distribution, divided by their probability under the multinomial distribution.

    Args:
        arms: Index of each unit's arm, in order of arrival, of shape (units,).
        propensities: Probability of each arm for each unit, of shape (units, arms). Rows sum to 1.
    """
    if not len(arms):
        return 0.0
    chosen = np.zeros_like(propensities)
    chosen[np.arange(len(arms)), arms] = 1.0
    first = propensities[:1]
    prior = _SAMPLE_RATIO_PRIOR * np.where(first > 0, first, 1 / first.size)  # an arm's weight may be 0 at first
    seen = np.cumsum(chosen, axis=0) - chosen + prior
    expected = np.cumsum(propensities, axis=0) - propensities + prior
    tilt = np.divide(seen, expected, out=np.ones_like(seen), where=expected > 0)
    own_tilt = tilt[np.arange(len(arms)), arms]
    return float(np.sum(np.log(own_tilt) - np.log(np.sum(propensities * tilt, axis=1))))


def p_value(log_evidence: float) -> float:
    """Convert evidence to a p-value that is valid for any number of looks."""
    return float(np.exp(-max(0.0, log_evidence)))
