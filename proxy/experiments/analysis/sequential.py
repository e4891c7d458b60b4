"""What stays right however often one looks: evidence against "no difference", and against "the arms are as planned".

Evidence is a number that is on average at most 1 at any moment, however that moment is chosen, if there is nothing to
find (an e-process); so it ever exceeds 1/level with a probability of at most `level` (Ville's inequality). Pure.

Means: a mixture of likelihood ratios over the true difference (Robbins 1970), for means of many units by the central
limit theorem that holds for all moments at once (Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas: Time-uniform central
limit theory and asymptotic confidence sequences, Annals of Statistics 2024, arXiv 2103.06476). The usual mixture is one
normal around no difference; here it is two, around the differences that the planned size is right for, on both sides:
still valid at all times, still narrowing to nothing, and narrower near the planned size, at the price of being wider
far from it. No library has it: `confseq` has the usual one, and was last released in 2023.

Sample ratio: the Bayes factor of Lindon and Malek (Anytime-valid inference for multinomial count data, NeurIPS 2022,
arXiv 2011.03567), with the prediction tilted by what was seen so far, so that it may be fed propensities that change.
"""

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

# Of the mixture, in units of the planned size: its centres are the square root of the first away from no difference,
# with the second as variance. tests/bench/experiments.py shows what it buys.
_CENTRE: Final = 6.5
_SPREAD: Final = 0.4
_FARTHEST: Final = 1e4  # standard errors; a boundary is never beyond
_HALVINGS: Final = 70
_SAMPLE_RATIO_PRIOR: Final = 1000.0  # units whose ratio the expectation is worth: tuned for deviations of 1 to 3 %


def log_evidence(score: Floats, progress: Floats, *, sides: int = 2) -> Floats:
    """Logarithm of the evidence that a difference is not what `score` was computed for.

    score: estimate minus hypothesis, in standard errors; progress: information so far, in planned sizes (> 0); sides: 1
    asks only whether the difference is greater than the hypothesis.
    """
    total = score * np.sqrt(progress)
    precision = progress + 1 / _SPREAD
    shift = np.sqrt(_CENTRE) / _SPREAD
    tilt = total * shift / precision
    common = -0.5 * np.log1p(_SPREAD * progress) + (total**2 + shift**2) / (2 * precision) - _CENTRE / (2 * _SPREAD)
    return np.asarray(common + (tilt if sides == 1 else np.logaddexp(tilt, -tilt) - np.log(2)))


def boundary(progress: Floats, level: float, *, sides: int = 2) -> Floats:
    """How many standard errors an estimate may be from the truth, at all moments at once but for `level` of runs."""
    low, high = np.zeros_like(progress), np.full_like(progress, _FARTHEST)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        beyond = log_evidence(middle, progress, sides=sides) > -np.log(level)
        low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
    return high


def sample_ratio_log_evidence(arms: NDArray[np.intp], propensities: Floats) -> float:
    """Logarithm of the evidence that units are not in the arms that their propensities say.

    arms: (units,) index of each unit's arm, in the order in which they came; propensities: (units, arms), rows sum to
    1. Where they never change it is the Dirichlet-multinomial over the multinomial probability of the counts.
    """
    if not len(arms):
        return 0.0
    chosen = np.zeros_like(propensities)
    chosen[np.arange(len(arms)), arms] = 1.0
    first = propensities[:1]
    prior = _SAMPLE_RATIO_PRIOR * np.where(first > 0, first, 1 / first.size)  # an arm may come in later
    seen = np.cumsum(chosen, axis=0) - chosen + prior
    expected = np.cumsum(propensities, axis=0) - propensities + prior
    tilt = np.divide(seen, expected, out=np.ones_like(seen), where=expected > 0)
    of_chosen = tilt[np.arange(len(arms)), arms]
    return float(np.sum(np.log(of_chosen) - np.log(np.sum(propensities * tilt, axis=1))))


def p_value(log_evidence: float) -> float:
    """A p-value that may be looked at at any time."""
    return float(np.exp(-max(0.0, log_evidence)))
