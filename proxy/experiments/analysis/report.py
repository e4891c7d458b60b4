"""The report of an experiment, as values.

The names of the fields are the keys of the JSON of GET /experiments/{name}, which also contains the experiment's
summary (see `dashboard`). This module does not depend on the statistics. An unknown number is None (JSON: null). No
number is NaN or infinite.

    {"units": 5200, "first_seen": 1.7e9, "last_seen": 1.7e9, "units_per_day": 740.0, "level": 0.05,
     "peeking_only": false, "planned_units": 4000, "burn_in": 100, "adaptive_weights": null,
     "sample_ratio": {"counts": {"raw": 2600}, "expected": {"raw": 2598.5}, "p_anytime": 1.0, "p_fixed": 0.97,
                      "blocks": false},
     "comparisons": [{"metric": "thumbs_up", "better": "higher", "primary": true, "arm": "new", "control": "raw",
                      "arm_mean": {"units": 2600, "effective_units": 2600.0, "mean": 0.31, "deviation": 0.46},
                      "control_mean": {...}, "difference": 0.02, "fixed": {"low": ..., "high": ...},
                      "anytime": {"low": ..., "high": ...} , "lift": 0.07, "lift_fixed": ..., "lift_anytime": ...,
                      "p_fixed": 0.1, "p_anytime": 1.0, "p_fixed_adjusted": ..., "p_anytime_adjusted": ...,
                      "history": {"units": 900, "variance_kept": 0.7}, "detectable": 0.035, "detectable_lift": 0.12,
                      "targets": [{"lift": 0.05, "difference": 0.015, "units": 9000, "days": 6.1}],
                      "ready": true}],
     "guardrail_results": [{"metric": "latency", "arm": "new", "tolerance": 0.5, "worse_by": 0.1,
                            "worse_at_least": -0.2, "stops": true, "breached": false}],
     "series": [{"arm": "new", "points": [{"time": 1.7e9, "units": 104, "difference": 0.02, "fixed": {...},
                 "anytime": {...}}]}],
     "verdict": {"decision": "undecided", "arm": null, "sentence": "..."}}
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Decision = Literal["blocked", "stop", "better", "worse", "undecided", "waiting"]
"""The decision of a verdict.

blocked: the arms do not have the expected sizes. stop: a guardrail is breached. better and worse: the primary metric is
certain about an arm. undecided: nothing is certain yet. waiting: fewer units than the burn-in.
"""


@dataclass(frozen=True, slots=True)
class Interval:
    """A closed interval, in the unit of the quantity."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ArmMean:
    """The mean of one arm.

    Attributes:
        units: Number of units with a value of the metric.
        effective_units: Number of equally weighted units with the same certainty.
        mean: Mean of the units. None without a unit.
        deviation: Standard deviation of the units. None for fewer than two units.
    """

    units: int
    effective_units: float
    mean: float | None
    deviation: float | None


@dataclass(frozen=True, slots=True)
class History:
    """What the history of the units explains (CUPED).

    Attributes:
        units: Number of units with a history, in both arms.
        variance_kept: Share of the variance that is not explained, 0 to 1.
    """

    units: int
    variance_kept: float


@dataclass(frozen=True, slots=True)
class Target:
    """The size that detects a lift with a power of 80 %, looking at any time.

    Attributes:
        lift: Relative difference between arm and control.
        difference: The same as an absolute difference, in the unit of the metric.
        units: Number of units of the whole experiment.
        days: Days from now at the current rate. 0 means that the size is reached.
    """

    lift: float
    difference: float
    units: int
    days: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric of one arm, compared with the control.

    Intervals have the confidence of the report's level.

    Attributes:
        metric: Name of the metric.
        better: Which direction is an improvement.
        primary: Whether the metric decides the verdict.
        arm: Name of the arm.
        control: Name of the control.
        arm_mean: Mean of the arm.
        control_mean: Mean of the control.
        ready: Whether the burn-in is over. Before that, everything that is valid at any time is None.
        difference: Arm minus control, in the unit of the metric.
        fixed: Interval of the difference, valid for a single planned look.
        anytime: Interval of the difference, valid at all times.
        lift: Relative difference.
        lift_fixed: Interval of the lift, valid for a single planned look.
        lift_anytime: Interval of the lift, valid at all times.
        p_fixed: p-value for a single planned look.
        p_anytime: p-value that is valid at all times.
        p_fixed_adjusted: `p_fixed`, adjusted by Holm's method: for the primary metric over the arms, for the others
            over all secondary metrics and arms.
        p_anytime_adjusted: `p_anytime`, adjusted in the same way.
        history: What the history of the units explains. None if it is not used.
        detectable: Smallest difference that these units detect with a power of 80 % at a single look.
        detectable_lift: The same as a lift.
        targets: Sizes that detect some lifts.
    """

    metric: str
    better: Literal["higher", "lower"]
    primary: bool
    arm: str
    control: str
    arm_mean: ArmMean
    control_mean: ArmMean
    ready: bool
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


@dataclass(frozen=True, slots=True)
class SampleRatio:
    """The check of the arms' sizes against the recorded propensities.

    Attributes:
        counts: Number of units by arm.
        expected: Expected number of units by arm.
        p_anytime: p-value of the sequential test.
        p_fixed: p-value of Pearson's chi-square test, valid for a single look. None with adaptive weights.
        blocks: Whether `p_anytime` is below 0.01. Then something other than the assignment decides which units are in
            an arm, and no difference can be interpreted.
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
        tolerance: How much worse the arm may be, in the unit of the metric.
        worse_by: How much worse than the control the arm is.
        worse_at_least: Lower bound of that, one-sided and valid at all times.
        stops: Whether a breach stops the experiment.
        breached: Whether `worse_at_least` is above the tolerance.
    """

    metric: str
    arm: str
    tolerance: float
    worse_by: float | None
    worse_at_least: float | None
    stops: bool
    breached: bool


@dataclass(frozen=True, slots=True)
class Point:
    """The comparison of the primary metric at one time.

    Attributes:
        time: Unix seconds.
        units: Number of units of the whole experiment at that time.
        difference: Arm minus control.
        fixed: Its interval for a single planned look.
        anytime: Its interval that is valid at all times.
    """

    time: float
    units: int
    difference: float | None
    fixed: Interval | None
    anytime: Interval | None


@dataclass(frozen=True, slots=True)
class Series:
    """The points of one arm, oldest first."""

    arm: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The conclusion of a report.

    Attributes:
        decision: What follows.
        arm: The arm that the decision is about, if there is one.
        sentence: The conclusion in one plain sentence.
    """

    decision: Decision
    arm: str | None
    sentence: str


@dataclass(frozen=True, slots=True)
class Report:
    """The report of an experiment.

    Attributes:
        units: Number of units.
        first_seen: Time of the first unit, Unix seconds.
        last_seen: Time of the last unit, Unix seconds.
        units_per_day: Rate at which units arrive.
        level: Significance level of all intervals. 0.05 means 95 % confidence.
        peeking_only: Whether weights were adaptive. Then intervals for a single look are invalid and left out.
        planned_units: Number of units at which the statistics are most sensitive.
        burn_in: Number of units that each arm needs before it is compared.
        adaptive_weights: Weights that replace those of the file.
        sample_ratio: The check of the arms' sizes.
        comparisons: Each metric of each arm, compared with the control.
        guardrail_results: Each guardrail of each arm.
        series: The primary metric over time.
        verdict: The conclusion.
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
