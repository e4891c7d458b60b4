"""What the statistics of an experiment come to, as values: the JSON of GET /experiments/{name} has just these fields,
beside the card of the experiment (see dashboard). Knows no arithmetic. A number that is not known yet is None (JSON:
null);
none is ever NaN or infinite.

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
"""blocked: the arms are not the sizes they should be; stop: a guardrail says so; better, worse: the primary metric is
certain about an arm; undecided: not yet; waiting: fewer units than the burn-in."""


@dataclass(frozen=True, slots=True)
class Interval:
    """From low to high, both included, in the unit of what it is about."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ArmMean:
    """One arm. units: with a value of the metric; effective_units: as many of equal weight would be as certain;
    mean, deviation: of the units' own means (None without two units)."""

    units: int
    effective_units: float
    mean: float | None
    deviation: float | None


@dataclass(frozen=True, slots=True)
class History:
    """What the units' past explained (CUPED). units: with a past, in both arms; variance_kept: 1 if nothing was."""

    units: int
    variance_kept: float


@dataclass(frozen=True, slots=True)
class Target:
    """What it takes to see a lift, looking at any time, four times in five. units: of the whole experiment; days: from
    now, at the rate seen so far (0: there already)."""

    lift: float
    difference: float
    units: int
    days: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric of one arm against the control.

    fixed: right if looked at once, at a moment chosen beforehand; anytime: right at all moments at once. Both at the
    report's level. p_*_adjusted: by Holm's method over the arms (the primary metric) or over all secondary metrics and
    arms. detectable: the least difference that these units show four times in five, looking once. ready: the burn-in is
    over; before, anytime is None.
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
    """Units by arm, beside what their logged propensities lead one to expect. blocks: p_anytime is below 0.01, so that
    who is in which arm does not follow from the assignment alone, and no difference means anything. p_fixed: of
    Pearson's chi-square, for those who know it; right if looked at once. None where adaptive weights made it so."""

    counts: Mapping[str, int]
    expected: Mapping[str, float]
    p_anytime: float
    p_fixed: float | None
    blocks: bool


@dataclass(frozen=True, slots=True)
class GuardrailResult:
    """worse_by: how much worse the arm is than the control, in the metric's unit; worse_at_least: with certainty, at
    any time (one-sided); breached: that is above the tolerance; stops: then everyone gets the control."""

    metric: str
    arm: str
    tolerance: float
    worse_by: float | None
    worse_at_least: float | None
    stops: bool
    breached: bool


@dataclass(frozen=True, slots=True)
class Point:
    """The primary metric's comparison as it was at a time. units: of the whole experiment by then."""

    time: float
    units: int
    difference: float | None
    fixed: Interval | None
    anytime: Interval | None


@dataclass(frozen=True, slots=True)
class Series:
    """One arm's points, oldest first."""

    arm: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows, in one plain sentence. arm: whom it is about."""

    decision: Decision
    arm: str | None
    sentence: str


@dataclass(frozen=True, slots=True)
class Report:
    """All of it. first_seen, last_seen: Unix seconds, of units; level: of every interval, 0.05 means 95 %;
    peeking_only: weights were adaptive, so that intervals for a single look are not right and are left out."""

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
