"""What may be decided about a running experiment from its report: to stop it, or to give promising arms more. Pure.

Thompson sampling (Thompson 1933; Russo et al., arXiv 1707.02038): an arm's weight is the probability that it is the
best one, as its units' means have it, but never under a floor: without one, the weights of units (1 / propensity) have
no bound and the intervals no guarantee (Hadad et al., PNAS 2021, arXiv 1911.02768).
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from proxy.experiments.analysis.estimators import Moments, moments
from proxy.experiments.analysis.report import Report
from proxy.experiments.analysis.samples import Assigned, assigned
from proxy.experiments.definition import Experiment
from proxy.experiments.records import Allocation, UnitOutcomes

FLOOR: Final = 0.1
"""The least weight of an arm, beside an even share: 0.1 of one arm in two is 5 % of the units."""
_DRAWS: Final = 20_000


def decide(experiment: Experiment, units: Sequence[UnitOutcomes], report: Report, now: float) -> Allocation | None:
    """What to steer; None where all stays as it is. now: Unix seconds."""
    if report.verdict.decision == "stop":
        return Allocation(experiment.name, report.verdict.sentence, report.adaptive_weights, now)
    primary = [one for one in report.comparisons if one.primary]
    if experiment.adaptive is None or report.sample_ratio.blocks or not all(one.ready for one in primary):
        return None
    return Allocation(experiment.name, "", _weights(experiment, units), now)


def _weights(experiment: Experiment, units: Sequence[UnitOutcomes]) -> Mapping[str, float]:
    metric = experiment.metrics[0]
    names = [arm.name for arm in experiment.arms if arm.weight]
    everyone = assigned(units, names, [metric.name])
    sides = [_side(everyone, metric.name, place) for place in range(len(names))]
    weights = thompson_weights(sides, -1 if metric.better == "lower" else 1)
    return dict(zip(names, weights, strict=True))


def _side(units: Assigned, metric: str, place: int) -> Moments:
    chosen = (units.arm == place) & ~np.isnan(units.values[metric])
    return moments(units.values[metric][chosen], units.weights[chosen])


def thompson_weights(sides: Sequence[Moments], sign: int) -> list[float]:
    """A weight for each arm, 1 in all. sign: 1 where a higher mean is better, else -1. The same for the same sides."""
    draws = np.random.default_rng(0).standard_normal((_DRAWS, len(sides)))
    means = np.array([side.mean or 0.0 for side in sides])
    errors = np.sqrt(np.array([side.error or 0.0 for side in sides]))
    best = np.argmax(sign * means + errors * draws, axis=1)
    shares = np.bincount(best, minlength=len(sides)) / _DRAWS
    return [float(share) for share in FLOOR / len(sides) + (1 - FLOOR) * shares]
