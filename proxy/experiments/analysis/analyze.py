"""Analyses the units of an experiment and computes its report. It does not depend on the store or on requests.

The first metric of an experiment is its primary metric. The tests of this metric decide which arm is better or worse.
Holm's method adjusts the p-values in two groups. One group contains the tests of the primary metric, one for each arm.
The other group contains the tests of all other metrics, one for each metric and arm. This other group has no influence
on the verdict. Each guardrail has a one-sided test for each arm. The significance level is divided equally among the
tests of guardrails (Bonferroni).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np

from proxy.experiments.analysis.comparisons import conclude
from proxy.experiments.analysis.estimators import (
    EffectEstimate,
    Moments,
    adjusted,
    estimate_difference,
    estimate_log_ratio,
    moments,
)
from proxy.experiments.analysis.headline import with_words
from proxy.experiments.analysis.operator_commands import OperatorCommands
from proxy.experiments.analysis.readiness import BURN_IN, is_ready, missing_units
from proxy.experiments.analysis.report import (
    ArmMean,
    Comparison,
    GuardrailResult,
    History,
    Interval,
    Point,
    Report,
    Series,
    Target,
)
from proxy.experiments.analysis.samples import Samples, collect_samples, sample_ratio, units_per_day
from proxy.experiments.analysis.sequential import Floats
from proxy.experiments.analysis.verdict import Evidence, verdict_of
from proxy.experiments.automatic_metrics import unit_of
from proxy.experiments.definition import Experiment, Guardrail, Metric
from proxy.experiments.records import UnitOutcomes

LEVEL: Final = 0.05  # the significance level of the tests and of the intervals
_MIN_HISTORY_UNITS: Final = 100  # minimum number of units with a history, in arm and control together
_TARGET_LIFTS: Final = (0.02, 0.05, 0.1, 0.2)  # the report says how many units would show each of these lifts
_SERIES_POINTS: Final = 60  # maximum number of times at which the report compares the arms
_MAX_DAYS: Final = 36_500.0  # upper limit of the days of a target
_MAX_UNITS: Final = 1e15  # upper limit of the units of a target
_MAX_LOG_RATIO: Final = 690.0  # exp of this is finite


def analyse(
    experiment: Experiment,
    units: Sequence[UnitOutcomes],
    weights: Mapping[str, float] | None = None,
    *,
    stopped: bool = False,
    commands: OperatorCommands | None = None,
) -> Report:
    """Compute the report of an experiment.

    Args:
        experiment: The experiment.
        units: The units of the experiment, in any order.
        weights: Adaptive weights by arm, which replace the weights of the file. None if the file's weights apply.
        stopped: Whether the experiment was stopped. The advice of the verdict is then for a stopped experiment.
        commands: The commands that advice names. None for commands with placeholders.
    """
    names = {metric.name for metric in experiment.all_metrics}
    samples = collect_samples(units, [arm.name for arm in experiment.arms], sorted(names))
    adaptive = experiment.adaptive is not None or weights is not None
    analysis = Analysis(experiment, samples, adaptive)
    comparisons = conclude(analysis.comparisons())
    ratio, guardrails = sample_ratio(samples, adaptive=adaptive), tuple(map(with_words, analysis.guardrails()))
    rate = units_per_day(samples)
    known = commands or OperatorCommands()
    evidence = Evidence(experiment, len(samples), rate, ratio, comparisons, guardrails, LEVEL, BURN_IN, stopped, known)
    return Report(
        units=len(samples),
        first_seen=float(samples.times[0]) if len(samples) else None,
        last_seen=float(samples.times[-1]) if len(samples) else None,
        units_per_day=rate,
        level=LEVEL,
        peeking_only=adaptive,
        planned_units=experiment.planned_units,
        burn_in=BURN_IN,
        adaptive_weights=weights,
        sample_ratio=ratio,
        comparisons=comparisons,
        guardrail_results=guardrails,
        series=analysis.series(),
        verdict=verdict_of(evidence),
    )


def planned_units_of_equal_arms(experiment: Experiment, arm: str) -> float:
    """Return the argument `planned` of `estimators.estimate_difference` for an arm.

    With this argument, the information fraction is 1 when the experiment has `planned_units` units in all its arms. The
    information is proportional to the sum of 1 / propensity over arm and control, which is 4 for two equal arms. The
    propensities follow from the file: adaptive weights would make the scale depend on the data.
    """
    compared = (experiment.arm(arm), experiment.arm(experiment.control))
    if not all(one.weight for one in compared):
        return float(experiment.planned_units)
    return experiment.planned_units * sum(1 / experiment.propensity(one) for one in compared) / 4


class MetricEstimates(NamedTuple):
    """The estimates that compare an arm with the control in one metric.

    Attributes:
        arm: Moments of the arm, without the adjustment for history (see `estimators.adjusted`).
        control: Moments of the control, without this adjustment.
        difference: Arm mean minus control mean, with this adjustment. None if its variance is unknown or 0.
        ratio: Logarithm of arm mean divided by control mean, with this adjustment. None if `difference` is None or a
            mean is not above 0.
        history: The effect of the adjustment on the variance. None if too few units have a history for an adjustment.
        varied: Number of units whose value is not the median, in arm and control together.
    """

    arm: Moments
    control: Moments
    difference: EffectEstimate | None
    ratio: EffectEstimate | None
    history: History | None
    varied: int

    @property
    def ready(self) -> bool:
        """Whether arm and control have enough units for a confidence sequence."""
        return is_ready(min(self.arm.effective, self.control.effective), self.varied)


def compare(samples: Samples, metric: str, arm: str, control: str, planned: float) -> MetricEstimates:
    """Compare one metric of one arm with the control. `planned` is explained in `estimators.estimate_difference`."""
    values, known = samples.values[metric], ~np.isnan(samples.values[metric])
    arm_units, control_units = (known & (samples.arm == samples.arms.index(name)) for name in (arm, control))
    both = arm_units | control_units
    in_arm, weights, history = arm_units[both], samples.weights[both], samples.history[metric][both]
    plain = _moments_by_arm(values[both], weights, in_arm)
    varied = int(np.sum(values[both] != np.median(values[both]))) if both.any() else 0
    with_history = int(np.sum(~np.isnan(history)))
    if with_history < _MIN_HISTORY_UNITS:
        estimates = estimate_difference(*plain, planned), estimate_log_ratio(*plain, planned)
        return MetricEstimates(*plain, *estimates, None, varied)
    reduced = _moments_by_arm(adjusted(values[both], history, weights), weights, in_arm)
    variance_kept = _difference_variance(reduced) / _difference_variance(plain) if _difference_variance(plain) else 1.0
    estimates = estimate_difference(*reduced, planned), estimate_log_ratio(*reduced, planned)
    return MetricEstimates(*plain, *estimates, History(with_history, variance_kept), varied)


def _moments_by_arm(values: Floats, weights: Floats, in_arm: "np.typing.NDArray[np.bool_]") -> tuple[Moments, Moments]:
    return moments(values[in_arm], weights[in_arm]), moments(values[~in_arm], weights[~in_arm])


def _difference_variance(arms: tuple[Moments, Moments]) -> float:
    return sum(arm.mean_variance or 0.0 for arm in arms)


class Analysis(NamedTuple):
    """An experiment and its data.

    Attributes:
        experiment: The experiment.
        samples: The units of the experiment.
        adaptive: Whether the weights of the arms depend on outcomes. If they do, results for a single look are invalid
            and are left out of the report.
    """

    experiment: Experiment
    samples: Samples
    adaptive: bool

    @property
    def arms(self) -> list[str]:
        """Names of the arms that are compared with the control."""
        return [arm.name for arm in self.experiment.arms if arm.name != self.experiment.control]

    def estimates(self, metric: str, arm: str) -> MetricEstimates:
        """Compare one metric of one arm with the control."""
        planned = planned_units_of_equal_arms(self.experiment, arm)
        return compare(self.samples, metric, arm, self.experiment.control, planned)

    def comparisons(self) -> tuple[Comparison, ...]:
        """Compare each arm with the control in each metric. The p-values are not adjusted yet."""
        return tuple(self._comparison(metric, arm) for metric in self.experiment.metrics for arm in self.arms)

    def _comparison(self, metric: Metric, arm: str) -> Comparison:
        estimates = self.estimates(metric.name, arm)
        plain = Comparison(
            metric=metric.name,
            unit=unit_of(metric.name, is_share=metric.name in self.samples.shares),
            better=metric.better,
            primary=metric == self.experiment.metrics[0],
            arm=arm,
            control=self.experiment.control,
            arm_mean=_arm_mean(estimates.arm),
            control_mean=_arm_mean(estimates.control),
            ready=estimates.ready and estimates.difference is not None,
            varied_units=estimates.varied,
            missing=_missing(estimates),
            history=estimates.history,
        )
        return plain if estimates.difference is None else self._with_difference(plain, estimates, estimates.difference)

    def _with_difference(self, plain: Comparison, estimates: MetricEstimates, difference: EffectEstimate) -> Comparison:
        fixed_is_valid, control_mean = not self.adaptive, estimates.control.mean or 0.0
        detectable = difference.detectable(LEVEL)
        lift = np.expm1(estimates.ratio.effect) if estimates.ratio else None
        return replace(
            plain,
            difference=difference.effect,
            fixed=difference.fixed(LEVEL) if fixed_is_valid else None,
            anytime=difference.anytime(LEVEL) if plain.ready else None,
            lift=None if lift is None else float(lift),
            lift_fixed=_lift_interval(estimates.ratio.fixed(LEVEL)) if estimates.ratio and fixed_is_valid else None,
            lift_anytime=_lift_interval(estimates.ratio.anytime(LEVEL)) if estimates.ratio and plain.ready else None,
            p_fixed=difference.p_fixed if fixed_is_valid else None,
            p_anytime=difference.p_anytime if plain.ready else None,
            detectable=detectable if fixed_is_valid else None,
            detectable_lift=detectable / abs(control_mean) if control_mean and fixed_is_valid else None,
            targets=self._targets(difference, control_mean) if control_mean and fixed_is_valid else (),
        )

    def _targets(self, difference: EffectEstimate, control_mean: float) -> tuple[Target, ...]:
        return tuple(self._target(difference, lift, abs(control_mean) * lift) for lift in _TARGET_LIFTS)

    def _target(self, difference: EffectEstimate, lift: float, size: float) -> Target:
        units = difference.growth_until(size, LEVEL) * len(self.samples)
        rate = units_per_day(self.samples)
        days = min(_MAX_DAYS, max(0.0, units - len(self.samples)) / rate) if rate else None
        return Target(lift, size, int(min(units, _MAX_UNITS)), days)

    def guardrails(self) -> tuple[GuardrailResult, ...]:
        """Evaluate each guardrail for each arm."""
        level = LEVEL / max(1, len(self.experiment.guardrails) * len(self.arms))
        return tuple(self._guardrail(one, arm, level) for one in self.experiment.guardrails for arm in self.arms)

    def _guardrail(self, guardrail: Guardrail, arm: str, level: float) -> GuardrailResult:
        estimates, metric, tolerance = self.estimates(guardrail.metric.name, arm), guardrail.metric, guardrail.tolerance
        if estimates.difference is None:
            return GuardrailResult(metric.name, arm, tolerance, None, None, guardrail.stop, breached=False)
        harm = estimates.difference if metric.better == "lower" else _negated(estimates.difference)
        at_least = harm.at_least(level) if estimates.ready else None
        breached = at_least is not None and at_least > tolerance
        return GuardrailResult(metric.name, arm, tolerance, harm.effect, at_least, guardrail.stop, breached)

    def series(self) -> tuple[Series, ...]:
        """Compare arms with the control in the primary metric at up to _SERIES_POINTS times.

        The comparison at the last time includes all units.
        """
        counts = sorted({int(count) for count in np.linspace(0, len(self.samples), _SERIES_POINTS + 1)[1:]} - {0})
        past = [self._replace(samples=self.samples.first(count)) for count in counts]
        return tuple(Series(arm, tuple(analysis.point(arm) for analysis in past)) for arm in self.arms)

    def point(self, arm: str) -> Point:
        """Compare an arm with the control in the primary metric, over all units of `samples`."""
        estimates = self.estimates(self.experiment.metrics[0].name, arm)
        difference, time = estimates.difference, float(self.samples.times[-1])
        if difference is None:
            return Point(time, len(self.samples), None, None, None)
        fixed = None if self.adaptive else difference.fixed(LEVEL)
        anytime = difference.anytime(LEVEL) if estimates.ready else None
        return Point(time, len(self.samples), difference.effect, fixed, anytime)


def _missing(estimates: MetricEstimates) -> str:
    arms = (estimates.arm, estimates.control)
    effective = min(arm.effective for arm in arms)
    return missing_units(min(arm.units for arm in arms), effective, estimates.varied)


def _arm_mean(arm: Moments) -> ArmMean:
    deviation = None if arm.variance is None else arm.variance**0.5
    return ArmMean(arm.units, arm.effective, arm.mean, deviation)


def _lift_interval(log_ratio: Interval) -> Interval:
    """Convert the interval of a log ratio to one of the lift (ratio - 1). Limit bounds that would overflow."""
    low, high = (float(np.expm1(min(one, _MAX_LOG_RATIO))) for one in (log_ratio.low, log_ratio.high))
    return Interval(low, high)


def _negated(estimate: EffectEstimate) -> EffectEstimate:
    return replace(estimate, effect=-estimate.effect)
