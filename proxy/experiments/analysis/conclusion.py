"""Defines the conclusions of a report, which people read: headlines, advice and the verdict. They are plain values.

The fields have the same names as the keys in the JSON of GET /experiments/{name}. The operator page, the printed report
and the JSON contain the same words.
"""

from dataclasses import dataclass
from typing import Literal

Decision = Literal["blocked", "stop", "better", "worse", "alike", "undecided", "waiting"]
"""The decision of a verdict.

blocked: the sizes of the arms do not fit their propensities.
stop: a guardrail that stops the experiment is breached.
better: an arm is significantly better than the control in the primary metric.
worse: an arm is significantly worse than the control in the primary metric.
alike: each arm differs from the control in the primary metric by too little to matter.
undecided: no arm differs significantly from the control in the primary metric.
waiting: there are no units, or no comparison of the primary metric is ready.
"""

Scale = Literal["difference", "percent", "times"]
"""The scale on which a headline gives a difference.

difference: mean of the arm minus mean of the control, in the unit of the headline.
percent: the difference in percent of the control's mean.
times: mean of the arm divided by mean of the control.
"""

Action = Literal["check", "wait", "continue", "adopt", "reject", "choose"]
"""What the operator should do now.

check: find out what is wrong before anything else.
wait: let more units come, since nothing can be said yet.
continue: let more units come, since nothing is certain yet.
adopt: give the arm to all units.
reject: give the arm to no more units.
choose: choose by something else, such as the cost, since the difference is too small to matter.
"""


@dataclass(frozen=True, slots=True)
class Headline:
    """The difference between an arm and the control in one metric, as people read it.

    The numbers are rounded: the width of the interval decides how many digits make sense. The interval is valid for any
    number of looks. Its bounds are None while the comparison is not ready.

    Attributes:
        scale: The scale of the numbers.
        unit: The unit of the numbers: `percentage points`, `seconds`, `tokens`, `%` or `times`. Empty if the metric has
            no unit.
        estimate: The estimated difference.
        low: Lower bound of the difference.
        high: Upper bound of the difference.
        means: The two means in words, such as `96 % against 4 %`. Empty if they would contradict the estimate, which is
            adjusted for history while the means are not.
        words: The estimate in words, such as `92 percentage points higher`.
        words_between: The interval in words. Empty without an interval.
        short: The estimate for a cell of a table, such as `+92 points`.
        short_between: The interval for a cell of a table. Empty without an interval.
        short_one_look: The interval that is valid for a single planned look, for a cell of a table. Empty if unknown.
    """

    scale: Scale
    unit: str
    estimate: float
    low: float | None
    high: float | None
    means: str
    words: str
    words_between: str
    short: str
    short_between: str
    short_one_look: str


@dataclass(frozen=True, slots=True)
class Advice:
    """What the operator should do now.

    Attributes:
        action: The kind of advice.
        sentence: The advice in words.
        more_units: Number of units, over all arms, that the advice says to wait for. None if it names no number.
        more_days: Days until this number of units has come, at the current rate. None if this is unknown.
    """

    action: Action
    sentence: str
    more_units: int | None = None
    more_days: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The conclusion of a report.

    Attributes:
        decision: The kind of conclusion.
        arm: Name of the arm that the conclusion is about. None if it is about no single arm.
        sentence: The conclusion in words. Further sentences may warn of breached guardrails.
        headline: The difference in the primary metric that the conclusion is about. None if it is about no difference.
        advice: What the operator should do now.
    """

    decision: Decision
    arm: str | None
    sentence: str
    headline: Headline | None
    advice: Advice
