"""Defines the classes of an experiment's report. They contain plain values and do not depend on the statistics.

The fields have the same names as the keys in the JSON of GET /experiments/{name}. That JSON also contains the summary
of the experiment (see `proxy.experiments.dashboard`). A number that is unknown is None (null in JSON). No number is NaN
or infinite. The report without the summary has this form:

    {"units": 5200, "first_seen": 1.7e9, "last_seen": 1.7e9, "units_per_day": 740.0, "level": 0.05,
     "peeking_only": false, "planned_units": 4000, "burn_in": 100, "adaptive_weights": null,
     "sample_ratio": {"counts": {"raw": 2600}, "expected": {"raw": 2598.5}, "p_anytime": 1.0, "p_fixed": 0.97,
                      "blocks": false},
     "comparisons": [{"metric": "thumbs_up", "unit": "share", "better": "higher", "primary": true, "arm": "new",
                      "control": "raw",
                      "arm_mean": {"units": 2600, "effective_units": 2600.0, "mean": 0.31, "deviation": 0.46},
                      "control_mean": {...}, "difference": 0.02, "fixed": {"low": ..., "high": ...},
                      "anytime": {"low": ..., "high": ...} , "lift": 0.07, "lift_fixed": ..., "lift_anytime": ...,
                      "p_fixed": 0.1, "p_anytime": 1.0, "p_fixed_adjusted": ..., "p_anytime_adjusted": ...,
                      "history": {"units": 900, "variance_kept": 0.7}, "detectable": 0.035, "detectable_lift": 0.12,
                      "targets": [{"lift": 0.05, "difference": 0.015, "units": 9000, "days": 6.1}],
                      "ready": true, "varied_units": 2300, "missing": "",
                      "headline": {"scale": "difference", "unit": "percentage points", "estimate": 2.0, "low": -3.0,
                                   "high": 7.0, "means": "31 % against 29 %", "words": "2 percentage points higher",
                                   "words_between": "between 3 percentage points lower and ...", "short": "+2 points",
                                   "short_between": "-3 to +7 points"}}],
     "guardrail_results": [{"metric": "latency", "arm": "new", "tolerance": 0.5, "worse_by": 0.1,
                            "worse_at_least": -0.2, "stops": true, "breached": false}],
     "series": [{"arm": "new", "points": [{"time": 1.7e9, "units": 104, "difference": 0.02, "fixed": {...},
                 "anytime": {...}}]}],
     "verdict": {"decision": "undecided", "arm": "new", "sentence": "...", "headline": {...},
                 "advice": {"action": "continue", "sentence": "...", "more_units": 3800, "more_days": 5.1}},
     "left_out": {"thumbs_up": 1}}
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from proxy.experiments.analysis.conclusion import Headline, Verdict
from proxy.experiments.automatic_metrics import MetricUnit


@dataclass(frozen=True, slots=True)
class Interval:
    """A closed interval. Both bounds have the unit of the quantity that they bound."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ArmMean:
    """The mean of a metric in one arm.

    Attributes:
        units: Number of units with a value of the metric.
        effective_units: Kish's effective sample size: the number of equally weighted units that would determine the
            mean with the same precision.
        mean: Weighted mean of the units' values. None if there is no unit.
        deviation: Standard deviation of the units' values. None for fewer than two units.
    """

    units: int
    effective_units: float
    mean: float | None
    deviation: float | None


@dataclass(frozen=True, slots=True)
class History:
    """The effect of the adjustment for history (CUPED).

    The history of a unit is its requests before its first request in the experiment.

    Attributes:
        units: Number of units with a history, in the arm and the control together.
        variance_kept: Variance of the difference between the means of arm and control after the adjustment, as a
            fraction of the variance without the adjustment.
    """

    units: int
    variance_kept: float


@dataclass(frozen=True, slots=True)
class Target:
    """The number of units at which the confidence sequence detects a given lift with a power of 80 %.

    Attributes:
        lift: The given lift: difference between arm and control, as a fraction of the control's mean.
        difference: The absolute difference that corresponds to the lift, in the unit of the metric.
        units: The number of units, over all arms of the experiment.
        days: Days until the experiment has this number of units, at the current rate of new units. 0 if it already
            has them, None if the rate is unknown.
    """

    lift: float
    difference: float
    units: int
    days: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric of one arm, compared with the control.

    An interval contains the true value with probability 1 - `level` of the report. Results that are valid for a single
    planned look are None if the weights of the arms are adaptive. Anytime-valid results are valid for any number of
    looks. They are None before the comparison is ready.

    Attributes:
        metric: Name of the metric.
        unit: Unit of the metric's values: `share`, `seconds`, `tokens`, or empty if it is unknown.
        better: Whether higher or lower values of the metric are better.
        primary: Whether this is the primary metric, which decides which arm is better or worse.
        arm: Name of the arm.
        control: Name of the control.
        arm_mean: Mean of the arm.
        control_mean: Mean of the control.
        ready: Whether arm and control have enough units for anytime-valid results, and the difference is known.
        varied_units: Number of units whose value is not the median, in arm and control together.
        missing: Which units are missing for anytime-valid results, in words for a cell of a table. Empty if none are.
        difference: Mean of the arm minus mean of the control, in the unit of the metric.
        fixed: Interval of the difference, valid for a single planned look.
        anytime: Interval of the difference, anytime-valid.
        lift: Mean of the arm divided by mean of the control, minus 1. None if one of the means is not above 0.
        lift_fixed: Interval of the lift, valid for a single planned look.
        lift_anytime: Interval of the lift, anytime-valid.
        p_fixed: p-value of the hypothesis of no difference, valid for a single planned look.
        p_anytime: p-value of the hypothesis of no difference, anytime-valid.
        p_fixed_adjusted: `p_fixed`, adjusted by Holm's method. The comparisons of the primary metric are one group of
            tests, and the comparisons of all other metrics are another group.
        p_anytime_adjusted: `p_anytime`, adjusted in the same way.
        history: The effect of the adjustment for history. None if too few units have a history.
        detectable: Smallest true difference that a single look at this number of units detects with a power of 80 %.
        detectable_lift: `detectable` as a fraction of the control's mean.
        targets: For each of several lifts, the number of units at which the lift is detected. Empty if the weights are
            adaptive or the control's mean is 0.
        headline: The difference as people read it. None if it is unknown.
    """

    metric: str
    unit: MetricUnit
    better: Literal["higher", "lower"]
    primary: bool
    arm: str
    control: str
    arm_mean: ArmMean
    control_mean: ArmMean
    ready: bool
    varied_units: int = 0
    missing: str = ""
    difference: float | None = None
    fixed: Interval | None = None
    anytime: Interval | None = None
    lift: float | None = None
    lift_fixed: Interval | None = None
    lift_anytime: Interval | None = None
    p_fixed: float | None = None
    p_anytime: float | None = None
    p_fixed_adjusted: float | None = None
    p_anytime_adjusted: float | None = None
    history: History | None = None
    detectable: float | None = None
    detectable_lift: float | None = None
    targets: tuple[Target, ...] = ()
    headline: Headline | None = None


@dataclass(frozen=True, slots=True)
class SampleRatio:
    """The check whether the arms have the sizes that the recorded propensities predict.

    Attributes:
        counts: Number of units by arm.
        expected: Expected number of units by arm: the sum of the arm's propensities over all units.
        p_anytime: p-value of the sequential test, valid for any number of looks.
        p_fixed: p-value of Pearson's chi-square test, valid for a single look. None if the weights are adaptive or only
            one arm has a positive propensity.
        blocks: Whether `p_anytime` is below 0.01. If it is, the verdict is `blocked`, because something other than the
            assignment then influences which units are recorded in an arm. A difference between the arms may then have
            another cause than their treatments.
    """

    counts: Mapping[str, int]
    expected: Mapping[str, float]
    p_anytime: float
    p_fixed: float | None
    blocks: bool


@dataclass(frozen=True, slots=True)
class GuardrailResult:
    """The result of a guardrail for one arm.

    Attributes:
        metric: Name of the metric.
        arm: Name of the arm.
        tolerance: Maximum difference by which the arm's mean may be worse than the control's mean, in the unit of the
            metric.
        worse_by: Difference by which the arm's mean is worse than the control's mean. Negative if the arm is better.
            None if the difference is unknown.
        worse_at_least: One-sided lower confidence bound of the true value of `worse_by`, valid for any number of looks.
            None before arm and control have enough units.
        stops: Whether a breach of this guardrail stops the experiment.
        breached: Whether `worse_at_least` is above the tolerance.
        words: The numbers in words, such as `worse by 0.62 seconds (at least 0.39), with a tolerance of 0.5`.
    """

    metric: str
    arm: str
    tolerance: float
    worse_by: float | None
    worse_at_least: float | None
    stops: bool
    breached: bool
    words: str = ""


@dataclass(frozen=True, slots=True)
class Point:
    """The comparison of an arm with the control in the primary metric, at one time.

    Attributes:
        time: Time of the first request of the latest unit that is included, Unix seconds.
        units: Number of units in all arms at that time.
        difference: Mean of the arm minus mean of the control.
        fixed: Interval of the difference, valid for a single planned look.
        anytime: Interval of the difference, valid for any number of looks.
    """

    time: float
    units: int
    difference: float | None
    fixed: Interval | None
    anytime: Interval | None


@dataclass(frozen=True, slots=True)
class Series:
    """The comparison of one arm with the control in the primary metric over time. The oldest point comes first."""

    arm: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """The report of an experiment.

    Attributes:
        units: Number of units in all arms.
        first_seen: Time of the first unit's first request, Unix seconds.
        last_seen: Time of the last unit's first request, Unix seconds.
        units_per_day: Rate at which new units arrive. None while it is unknown.
        level: Significance level of the comparisons. 0.05 means that their intervals have 95 % confidence.
        peeking_only: Whether the weights of the arms are adaptive. If they are, results for a single look are invalid
            and left out, and only results that are valid for any number of looks (peeking) remain.
        planned_units: The planned number of units, over all arms, for which the confidence sequence is tuned.
        burn_in: Effective sample size that each arm needs before anytime-valid results are reported.
        adaptive_weights: Weights by arm that replace the weights in the file. None if the file's weights apply.
        sample_ratio: The check of the arms' sizes.
        comparisons: One comparison with the control for each metric and arm.
        guardrail_results: One result for each guardrail and arm.
        series: The primary metric over time, one series for each arm except the control.
        verdict: The conclusion.
        left_out: Number of stored values that the report leaves out, by the name of their metric: values that are not
            numbers, or that are outside the range of their metric. The key `time or propensity` has the number of
            requests whose time or propensity cannot be right.
    """

    units: int
    first_seen: float | None
    last_seen: float | None
    units_per_day: float | None
    level: float
    peeking_only: bool
    planned_units: int
    burn_in: int
    adaptive_weights: Mapping[str, float] | None
    sample_ratio: SampleRatio
    comparisons: tuple[Comparison, ...]
    guardrail_results: tuple[GuardrailResult, ...]
    series: tuple[Series, ...]
    verdict: Verdict
    left_out: Mapping[str, int] = field(default_factory=dict)
