"""From the units of an experiment to its report. Reads them through `Outcomes`; knows no store, no request and no page.

One metric decides, the first: its p-values are corrected over the arms alone. All other metrics of all arms are one
family, corrected together, and decide nothing. Guardrails are a third family, one-sided, their level split among them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Final, NamedTuple

import numpy as np

from proxy.experiments.analysis.estimators import Contrast, Moments, adjusted, contrast, holm, log_ratio, moments
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
from proxy.experiments.analysis.samples import Assigned, assigned, sample_ratio
from proxy.experiments.analysis.sequential import Floats
from proxy.experiments.analysis.verdict import verdict
from proxy.experiments.definition import Experiment, Guardrail, Metric
from proxy.experiments.records import UnitOutcomes

LEVEL: Final = 0.05
BURN_IN: Final = 100
"""Units of one weight in each arm, before which no sequence begins: the central limit theorem needs some."""
UNLIKE: Final = 30  # units, of both arms, that differ from the median: else rare events pass for none
_PAST: Final = 100  # units with a past, from which on it is used
_LIFTS: Final = (0.02, 0.05, 0.1, 0.2)
_POINTS: Final = 60
_DAY: Final = 86_400.0
_LEAST_SPAN: Final = 60.0  # seconds, under which no rate is known
_FAR: Final = 36_500.0  # days; a century is as good as never


def analyse(
    experiment: Experiment, units: Sequence[UnitOutcomes], weights: Mapping[str, float] | None = None
) -> Report:
    """The report. units: in any order; weights: those that were decided from outcomes, if any were."""
    names = {metric.name for metric in _watched(experiment)}
    everyone = assigned(units, [arm.name for arm in experiment.arms], sorted(names))
    adaptive = experiment.adaptive is not None or weights is not None
    task = Task(experiment, everyone, adaptive)
    comparisons = _corrected(task.comparisons())
    ratio, guardrails = sample_ratio(everyone, adaptive=adaptive), task.guardrails()
    return Report(
        units=len(everyone),
        first_seen=float(everyone.times[0]) if len(everyone) else None,
        last_seen=float(everyone.times[-1]) if len(everyone) else None,
        units_per_day=units_per_day(everyone),
        level=LEVEL,
        peeking_only=adaptive,
        planned_units=experiment.planned_units,
        burn_in=BURN_IN,
        adaptive_weights=weights,
        sample_ratio=ratio,
        comparisons=comparisons,
        guardrail_results=guardrails,
        series=task.series(),
        verdict=verdict(len(everyone), ratio, comparisons, guardrails, LEVEL, BURN_IN),
    )


def _watched(experiment: Experiment) -> list[Metric]:
    return [*experiment.metrics, *(guardrail.metric for guardrail in experiment.guardrails)]


def units_per_day(units: Assigned) -> float | None:
    """The rate at which units came; None while it is not known."""
    if len(units) < 2 or units.times[-1] - units.times[0] < _LEAST_SPAN:
        return None
    return float((len(units) - 1) / (units.times[-1] - units.times[0]) * _DAY)


class Pair(NamedTuple):
    """One metric of an arm and of the control: as they are, and without what the past explains. history: None where
    no past was used; ready: the burn-in is over."""

    arm: Moments
    control: Moments
    difference: Contrast | None
    ratio: Contrast | None
    history: History | None
    ready: bool


def compare(units: Assigned, metric: str, arm: str, control: str, planned: float) -> Pair:
    """One metric of one arm against the control."""
    values, known = units.values[metric], ~np.isnan(units.values[metric])
    sides = [known & (units.arm == units.arms.index(name)) for name in (arm, control)]
    both = sides[0] | sides[1]
    ours, weights, past = sides[0][both], units.weights[both], units.history[metric][both]
    plain = _sides(values[both], weights, ours)
    ready = _is_ready(values[both], plain)
    with_past = int(np.sum(~np.isnan(past)))
    if with_past < _PAST:
        return Pair(*plain, contrast(*plain, planned), log_ratio(*plain, planned), None, ready)
    other = _sides(adjusted(values[both], past, weights), weights, ours)
    kept = _variance(other) / _variance(plain) if _variance(plain) else 1.0
    found = contrast(*other, planned), log_ratio(*other, planned)
    return Pair(*plain, *found, History(with_past, kept), ready)


def _sides(values: Floats, weights: Floats, ours: "np.typing.NDArray[np.bool_]") -> tuple[Moments, Moments]:
    return moments(values[ours], weights[ours]), moments(values[~ours], weights[~ours])


def _variance(sides: tuple[Moments, Moments]) -> float:
    return sum(side.error or 0.0 for side in sides)


def _is_ready(values: Floats, sides: tuple[Moments, Moments]) -> bool:
    enough = min(side.effective for side in sides) >= BURN_IN
    return enough and int(np.sum(values != np.median(values))) >= UNLIKE


class Task(NamedTuple):
    """What is to be analysed."""

    experiment: Experiment
    units: Assigned
    adaptive: bool

    @property
    def arms(self) -> list[str]:
        """Those that are compared with the control."""
        return [arm.name for arm in self.experiment.arms if arm.name != self.experiment.control]

    def pair(self, metric: str, arm: str) -> Pair:
        """One metric of one arm."""
        return compare(self.units, metric, arm, self.experiment.control, self.experiment.planned_units)

    def comparisons(self) -> tuple[Comparison, ...]:
        """Each metric of each arm; the p-values as they are."""
        return tuple(self._comparison(metric, arm) for metric in self.experiment.metrics for arm in self.arms)

    def _comparison(self, metric: Metric, arm: str) -> Comparison:
        pair = self.pair(metric.name, arm)
        plain = Comparison(
            metric=metric.name,
            better=metric.better,
            primary=metric == self.experiment.metrics[0],
            arm=arm,
            control=self.experiment.control,
            arm_mean=_arm_mean(pair.arm),
            control_mean=_arm_mean(pair.control),
            ready=pair.ready and pair.difference is not None,
            history=pair.history,
        )
        return plain if pair.difference is None else self._compared(plain, pair, pair.difference)

    def _compared(self, plain: Comparison, pair: Pair, difference: Contrast) -> Comparison:
        once, base = not self.adaptive, pair.control.mean or 0.0
        detectable = difference.detectable(LEVEL)
        lift = np.expm1(pair.ratio.difference) if pair.ratio else None
        return replace(
            plain,
            difference=difference.difference,
            fixed=difference.fixed(LEVEL) if once else None,
            anytime=difference.anytime(LEVEL) if plain.ready else None,
            lift=None if lift is None else float(lift),
            lift_fixed=_lift(pair.ratio.fixed(LEVEL)) if pair.ratio and once else None,
            lift_anytime=_lift(pair.ratio.anytime(LEVEL)) if pair.ratio and plain.ready else None,
            p_fixed=difference.p_fixed if once else None,
            p_anytime=difference.p_anytime if plain.ready else None,
            detectable=detectable if once else None,
            detectable_lift=detectable / abs(base) if base and once else None,
            targets=self._targets(difference, base) if base and once else (),
        )

    def _targets(self, difference: Contrast, base: float) -> tuple[Target, ...]:
        return tuple(self._target(difference, lift, abs(base) * lift) for lift in _LIFTS)

    def _target(self, difference: Contrast, lift: float, size: float) -> Target:
        units = difference.growth_until(size, LEVEL) * len(self.units)
        rate = units_per_day(self.units)
        days = min(_FAR, max(0.0, units - len(self.units)) / rate) if rate else None
        return Target(lift, size, int(min(units, 1e15)), days)

    def guardrails(self) -> tuple[GuardrailResult, ...]:
        """Each guardrail of each arm."""
        share = LEVEL / max(1, len(self.experiment.guardrails) * len(self.arms))
        return tuple(self._guardrail(one, arm, share) for one in self.experiment.guardrails for arm in self.arms)

    def _guardrail(self, guardrail: Guardrail, arm: str, level: float) -> GuardrailResult:
        pair, metric, tolerance = self.pair(guardrail.metric.name, arm), guardrail.metric, guardrail.tolerance
        if pair.difference is None:
            return GuardrailResult(metric.name, arm, tolerance, None, None, guardrail.stop, breached=False)
        found = pair.difference if metric.better == "lower" else _turned(pair.difference)
        least = found.at_least(level) if pair.ready else None
        breached = least is not None and least > tolerance
        return GuardrailResult(metric.name, arm, tolerance, found.difference, least, guardrail.stop, breached)

    def series(self) -> tuple[Series, ...]:
        """The primary metric as it was at some moments; the last is now."""
        counts = sorted({int(count) for count in np.linspace(0, len(self.units), _POINTS + 1)[1:]} - {0})
        moments_then = [self._replace(units=self.units.first(count)) for count in counts]
        return tuple(Series(arm, tuple(then.point(arm) for then in moments_then)) for arm in self.arms)

    def point(self, arm: str) -> Point:
        """The primary metric of an arm."""
        pair = self.pair(self.experiment.metrics[0].name, arm)
        found, time = pair.difference, float(self.units.times[-1])
        if found is None:
            return Point(time, len(self.units), None, None, None)
        fixed = None if self.adaptive else found.fixed(LEVEL)
        return Point(time, len(self.units), found.difference, fixed, found.anytime(LEVEL) if pair.ready else None)


def _arm_mean(side: Moments) -> ArmMean:
    deviation = None if side.variance is None else side.variance**0.5
    return ArmMean(side.units, side.effective, side.mean, deviation)


def _lift(logarithms: Interval) -> Interval:
    """From logarithms of a ratio to lifts; 1e300 is as good as no bound."""
    low, high = (float(np.expm1(min(one, 690.0))) for one in (logarithms.low, logarithms.high))
    return Interval(low, high)


def _turned(difference: Contrast) -> Contrast:
    return replace(difference, difference=-difference.difference)


def _corrected(comparisons: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """With p-values that are corrected within each family."""
    families = [[one for one in comparisons if one.primary], [one for one in comparisons if not one.primary]]
    return tuple(chain.from_iterable(_corrected_family(family) for family in families))


def _corrected_family(family: Sequence[Comparison]) -> list[Comparison]:
    """What is not known yet counts as a p-value of 1: a family does not shrink because a metric is late."""
    fixed = holm([1.0 if one.p_fixed is None else one.p_fixed for one in family])
    anytime = holm([1.0 if one.p_anytime is None else one.p_anytime for one in family])
    return [
        replace(
            one,
            p_fixed_adjusted=None if one.p_fixed is None else p_fixed,
            p_anytime_adjusted=None if one.p_anytime is None else p_anytime,
        )
        for one, p_fixed, p_anytime in zip(family, fixed, anytime, strict=True)
    ]
