"""Decides from a report whether to stop the experiment, or whether to change the weights of its arms.

Thompson sampling (Thompson 1933; Russo et al., arXiv 1707.02038) sets an arm's weight to the probability that the arm
has the best true mean, given the outcomes so far. Each arm keeps a minimum weight. If an arm's propensity could
approach 0, the weights of its units (1 / propensity) would have no bound, and the confidence intervals would not be
valid (Hadad et al., PNAS 2021, arXiv 1911.02768).
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from proxy.experiments.analysis.estimators import Moments, moments
from proxy.experiments.analysis.report import Report
from proxy.experiments.analysis.samples import Samples, collect_samples
from proxy.experiments.definition import Experiment
from proxy.experiments.records import Allocation, UnitOutcomes

MIN_WEIGHT: Final = 0.1
"""The minimum weight of an arm, as a fraction of an equal share. With two arms, each gets at least 5 % of the units."""
_DRAWS: Final = 20_000  # random draws of each arm's true mean


def decide_allocation(
    experiment: Experiment, units: Sequence[UnitOutcomes], report: Report, now: float
) -> Allocation | None:
    """Decide whether to stop the experiment or to change its weights.

    The experiment stops if the verdict of the report is `stop`. Otherwise, the weights change if the experiment is
    adaptive, the sizes of the arms are as expected, and all comparisons of the primary metric are ready.

    Args:
        experiment: The experiment.
        units: The units of the experiment.
        report: The report on these units.
        now: The current time in Unix seconds.

    Returns:
        The decision, or None to change nothing.
    """
    if report.verdict.decision == "stop":
        return Allocation(experiment.name, report.verdict.sentence, report.adaptive_weights, now)
    primary = [one for one in report.comparisons if one.primary]
    if experiment.adaptive is None or report.sample_ratio.blocks or not all(one.ready for one in primary):
        return None
    return Allocation(experiment.name, "", _adapted_weights(experiment, units), now)


def _adapted_weights(experiment: Experiment, units: Sequence[UnitOutcomes]) -> Mapping[str, float]:
    metric = experiment.metrics[0]
    names = [arm.name for arm in experiment.arms if arm.weight]
    samples = collect_samples(units, names, [metric.name])
    arms = [_arm_moments(samples, metric.name, index) for index in range(len(names))]
    weights = thompson_weights(arms, -1 if metric.better == "lower" else 1)
    return dict(zip(names, weights, strict=True))


def _arm_moments(samples: Samples, metric: str, arm: int) -> Moments:
    chosen = (samples.arm == arm) & ~np.isnan(samples.values[metric])
    return moments(samples.values[metric][chosen], samples.weights[chosen])


def thompson_weights(arms: Sequence[Moments], sign: int) -> list[float]:
    """Compute a weight for each arm by Thompson sampling with a fixed seed. The weights sum to 1.

    The true mean of an arm is drawn from a normal distribution around the arm's estimated mean.

    Args:
        arms: Moments of each arm's units.
        sign: 1 if a higher mean is better, else -1.
    """
    draws = np.random.default_rng(0).standard_normal((_DRAWS, len(arms)))
    means = np.array([arm.mean or 0.0 for arm in arms])
    standard_errors = np.sqrt(np.array([arm.mean_variance or 0.0 for arm in arms]))
    best = np.argmax(sign * means + standard_errors * draws, axis=1)
    shares = np.bincount(best, minlength=len(arms)) / _DRAWS
    return [float(share) for share in MIN_WEIGHT / len(arms) + (1 - MIN_WEIGHT) * shares]
