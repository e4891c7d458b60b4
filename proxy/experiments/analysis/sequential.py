"""Sequential tests, which stay valid however often somebody looks: for differences of means and for arm sizes. Pure.

Evidence against a hypothesis is an e-process: if the hypothesis is true, its expectation is at most 1 at any stopping
time. By Ville's inequality, it ever exceeds 1/level with a probability of at most `level`.

Means: the evidence is a mixture of likelihood ratios over the true difference (Robbins 1970). It is valid for means of
many units by a central limit theorem that holds for all times at once (Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas:
Time-uniform central limit theory and asymptotic confidence sequences, Annals of Statistics 2024, arXiv 2103.06476). The
usual mixture is one normal distribution around zero. This one has two, on both sides of zero, at the differences that
the planned size can detect. It is valid at all times too, and its interval still shrinks to nothing. The interval is
narrower near the planned size and wider far from it. No library has this mixture: `confseq` has the usual one, and its
last release was in 2023.

Sample ratio: the evidence is the Bayes factor of Lindon and Malek (Anytime-valid inference for multinomial count data,
NeurIPS 2022, arXiv 2011.03567). The prediction is tilted by the units so far, so that the propensities may change.
"""

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

# The two centres of the mixture are at plus and minus sqrt(_CENTRE_SQUARED), in standard errors at the planned size.
# tests/bench/experiments.py measures the error rates and the power that they give.
_CENTRE_SQUARED: Final = 6.5
_MIXTURE_VARIANCE: Final = 0.4
_MAX_BOUNDARY: Final = 1e4  # standard errors
_BISECTION_STEPS: Final = 70
_SAMPLE_RATIO_PRIOR: Final = 1000.0  # weight of the expected ratio, in units; tuned for deviations of 1 to 3 %


def log_evidence(score: Floats, information: Floats, *, sides: int = 2) -> Floats:
    """Compute the logarithm of the evidence against a hypothesis about a difference.

    Args:
        score: Estimate minus hypothesis, in standard errors.
        information: Information so far, as a fraction of the information at the planned size (> 0).
        sides: 2 tests for any deviation. 1 tests only for a difference above the hypothesis.
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

    In all but `level` of runs, the estimate is within this distance of the truth at all times at once.
    """
    low, high = np.zeros_like(information), np.full_like(information, _MAX_BOUNDARY)
    for _ in range(_BISECTION_STEPS):
        middle = (low + high) / 2
        is_rejected = log_evidence(middle, information, sides=sides) > -np.log(level)
        low, high = np.where(is_rejected, low, middle), np.where(is_rejected, middle, high)
    return high


def sample_ratio_log_evidence(arms: NDArray[np.intp], propensities: Floats) -> float:
    """Compute the logarithm of the evidence that the arms' sizes do not follow from the propensities.

    If the propensities never change, it is the Dirichlet-multinomial probability of the counts over their multinomial
    probability.

    Args:
        arms: Index of each unit's arm, in order of arrival, of shape (units,).
        propensities: Probability of each arm for each unit, of shape (units, arms). Rows sum to 1.
    """
    if not len(arms):
        return 0.0
    chosen = np.zeros_like(propensities)
    chosen[np.arange(len(arms)), arms] = 1.0
    first = propensities[:1]
    prior = _SAMPLE_RATIO_PRIOR * np.where(first > 0, first, 1 / first.size)  # an arm may get its first weight later
    seen = np.cumsum(chosen, axis=0) - chosen + prior
    expected = np.cumsum(propensities, axis=0) - propensities + prior
    tilt = np.divide(seen, expected, out=np.ones_like(seen), where=expected > 0)
    own_tilt = tilt[np.arange(len(arms)), arms]
    return float(np.sum(np.log(own_tilt) - np.log(np.sum(propensities * tilt, axis=1))))


def p_value(log_evidence: float) -> float:
    """Convert evidence to a p-value that is valid at any time."""
    return float(np.exp(-max(0.0, log_evidence)))
