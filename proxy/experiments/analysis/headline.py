"""Writes the difference between an arm and the control for people to read. It does not depend on arrays or SQL.

A relative difference is written only if its interval is narrow: as ratios of the means, its two bounds differ by a
factor of at most _MAX_RATIO. If the interval is wider, the control's mean may be close to 0, and a ratio to this mean
says little. For example, shares of 96 % and 4 % can give an increase of 2,312 % with an interval from 161 % to
22,199 %. If the interval is narrow, the control's mean is at least six of its standard errors away from 0, and the
delta method is accurate. A difference between shares is always written in percentage points.
"""

from dataclasses import replace
from typing import Final, NamedTuple

from proxy.experiments.analysis.conclusion import Headline, Scale
from proxy.experiments.analysis.report import Comparison, GuardrailResult, Interval
from proxy.experiments.analysis.rounding import SIGNIFICANT_SHARE, exponent_for, rounded, two_digits, written
from proxy.experiments.automatic_metrics import unit_of

_MAX_RATIO: Final = 3.0  # of the bounds of an interval, as explained above
_MANY: Final = 2.0  # a ratio of at least this, or of at most its inverse, is written as a multiple
_FRACTIONS: Final = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth", 10: "a tenth"}
_MAX_ERROR: Final = 0.1  # relative error of the words for a fraction
_SMALLEST_FRACTION: Final = 0.01  # smaller ratios, and 0, are never near a fraction with a name
_AMOUNTS: Final = {"seconds": "as long", "tokens": "as many"}  # the words after "2.5 times", by the unit
_MAX_EXTRA_DIGITS: Final = 3  # digits that are added until two different means are written differently


def headline_of(one: Comparison) -> Headline | None:
    """Return the difference as people read it. None if it is unknown."""
    if one.difference is None:
        return None
    scale = _scale(one)
    if scale == "difference":
        return _difference_headline(one, one.difference)
    intervals = (one.lift_anytime, one.lift_fixed)
    if scale == "percent":
        numbers = _Numbers(scale, "%", "%", 100 * (one.lift or 0.0), *(_mapped(each, 0, 100) for each in intervals))
        return _headline(one, numbers, _difference_words(numbers))
    numbers = _Numbers(scale, "times", "times", 1 + (one.lift or 0.0), *(_mapped(each, 1, 1) for each in intervals))
    return _headline(one, numbers, _times_words(numbers, _AMOUNTS.get(one.unit, "as much")))


def with_words(one: GuardrailResult) -> GuardrailResult:
    """Return the result of a guardrail with its numbers in words, rounded by the width of the interval."""
    if one.worse_by is None:
        return replace(one, words="nothing is known yet")
    unit = unit_of(one.metric, is_share=False)
    number = _with_unit(written(one.worse_by, _guardrail_exponent(one)), "" if unit == "share" else unit)
    difference = f"{'worse' if one.worse_by > 0 else 'better'} by {number}" if one.worse_by else "no difference"
    least = one.worse_at_least
    certain = f"at least {least_worse(one)}" if least is not None and least > 0 else "not certain"
    return replace(one, words=f"{difference} ({certain}), with a tolerance of {one.tolerance:g}")


def least_worse(one: GuardrailResult) -> str:
    """Write by how much an arm is worse at least, with the digits that the interval supports."""
    return written(one.worse_at_least or 0.0, _guardrail_exponent(one))


def _guardrail_exponent(one: GuardrailResult) -> int:
    worse_by, least = one.worse_by or 0.0, one.worse_at_least
    width = 2 * (worse_by - least) if least is not None else abs(worse_by) * SIGNIFICANT_SHARE
    return exponent_for(width, max(abs(worse_by), abs(least or 0.0)))


class _Numbers(NamedTuple):
    """The numbers of a headline before they are rounded.

    Attributes:
        scale: The scale of the numbers.
        unit: The unit of the numbers.
        short_unit: The unit for a cell of a table.
        estimate: The estimated difference.
        anytime: The interval for any number of looks.
        fixed: The interval for a single planned look.
    """

    scale: Scale
    unit: str
    short_unit: str
    estimate: float
    anytime: Interval | None
    fixed: Interval | None

    @property
    def exponent(self) -> int:
        """The exponent of the step to which all numbers are rounded."""
        interval = self.anytime or self.fixed
        bounds = (interval.low, interval.high) if interval else (0.0, self.estimate * SIGNIFICANT_SHARE)
        return exponent_for(max(bounds) - min(bounds), max(abs(self.estimate), *map(abs, bounds)))

    def rounded_interval(self) -> tuple[float | None, float | None]:
        """Return the rounded bounds of the interval for any number of looks."""
        if self.anytime is None:
            return None, None
        return rounded(self.anytime.low, self.exponent), rounded(self.anytime.high, self.exponent)


def _scale(one: Comparison) -> Scale:
    """Return the scale on which the difference is written."""
    lifts, differences = (one.lift_anytime, one.anytime) if one.ready else (one.lift_fixed, one.fixed)
    if one.unit == "share" or one.lift is None or lifts is None or differences is None:
        return "difference"
    is_narrow = 1 + lifts.high <= _MAX_RATIO * (1 + lifts.low)
    if not is_narrow or side(lifts) != side(differences):
        return "difference"
    return "percent" if 1 / _MANY < 1 + one.lift < _MANY else "times"


def side(interval: Interval) -> int:
    """Return 1 if all of an interval is above 0, -1 if all of it is below 0, and 0 if it contains 0."""
    return (interval.low > 0) - (interval.high < 0)


def _mapped(interval: Interval | None, offset: float, factor: float) -> Interval | None:
    return Interval(offset + factor * interval.low, offset + factor * interval.high) if interval else None


def _difference_headline(one: Comparison, difference: float) -> Headline:
    if one.unit != "share":
        numbers = _Numbers("difference", one.unit, one.unit, difference, one.anytime, one.fixed)
    else:
        intervals = (_possible_points(each) for each in (one.anytime, one.fixed))
        numbers = _Numbers("difference", "percentage points", "points", 100 * difference, *intervals)
    return _headline(one, numbers, _difference_words(numbers))


def _possible_points(interval: Interval | None) -> Interval | None:
    """Convert an interval of a difference between shares to percentage points, from -100 to 100."""
    return Interval(max(100 * interval.low, -100.0), min(100 * interval.high, 100.0)) if interval else None


class _Words(NamedTuple):
    """The texts of a headline: the last five attributes of `Headline`."""

    words: str
    words_between: str
    short: str
    short_between: str
    short_one_look: str


def _headline(one: Comparison, numbers: _Numbers, words: _Words) -> Headline:
    """Build a headline: its numbers are rounded by the width of their interval."""
    estimate, (low, high) = rounded(numbers.estimate, numbers.exponent), numbers.rounded_interval()
    return Headline(numbers.scale, numbers.unit, estimate, low, high, _means(one, numbers.scale), *words)


def _difference_words(numbers: _Numbers) -> _Words:
    """Return the texts for a difference, which is 0 if the means are equal."""
    exponent = numbers.exponent
    between, one_look = (
        _with_unit(_signed_range(each, exponent), numbers.short_unit) if each else ""
        for each in (numbers.anytime, numbers.fixed)
    )
    return _Words(
        words=_directed(numbers.estimate, exponent, numbers.unit),
        words_between=_words_between(numbers.anytime, exponent, numbers.unit) if numbers.anytime else "",
        short=_with_unit(_signed(numbers.estimate, exponent), numbers.short_unit),
        short_between=between,
        short_one_look=one_look,
    )


def _with_unit(number: str, unit: str) -> str:
    return f"{number} {unit}" if unit else number


def _directed(value: float, exponent: int, unit: str) -> str:
    number = written(value, exponent)
    if number == "0":
        return "no difference" if not value else f"hardly {_direction(value)}"
    return f"{_with_unit(number, unit)} {_direction(value)}"


def _direction(value: float) -> str:
    return "higher" if value > 0 else "lower"


def _words_between(interval: Interval, exponent: int, unit: str) -> str:
    if side(interval):
        near, far = sorted((interval.low, interval.high), key=abs)
        start = "just over 0" if (number := written(near, exponent)) == "0" else number
        return f"between {start} and {_directed(far, exponent, unit)}"
    low = "0" if written(interval.low, exponent) == "0" else _directed(interval.low, exponent, "")
    return f"between {low} and {_directed(interval.high, exponent, unit)}"


def _signed(value: float, exponent: int) -> str:
    number = written(value, exponent)
    return number if number == "0" else f"{'+' if value > 0 else '-'}{number}"


def _signed_range(interval: Interval, exponent: int) -> str:
    return f"{_signed(interval.low, exponent)} to {_signed(interval.high, exponent)}"


def _times_words(numbers: _Numbers, amount: str) -> _Words:
    """Return the texts for a ratio of the means, which is 1 if they are equal.

    `amount` is the text after the ratio, such as "as long" in "2.5 times as long".
    """
    exponent = numbers.exponent
    between, one_look = (
        [written(each.low, exponent), written(each.high, exponent)] if each else []
        for each in (numbers.anytime, numbers.fixed)
    )
    return _Words(
        words=f"about {_multiple(numbers.estimate, amount)}",
        words_between=f"between {' and '.join(between)} times {amount}" if between else "",
        short=f"{written(numbers.estimate, exponent)} times",
        short_between=f"{' to '.join(between)} times" if between else "",
        short_one_look=f"{' to '.join(one_look)} times" if one_look else "",
    )


def _multiple(ratio: float, amount: str) -> str:
    if ratio >= 1:
        return f"{two_digits(ratio)} times {amount}"
    parts = round(1 / ratio) if ratio > _SMALLEST_FRACTION else 0
    is_near = parts in _FRACTIONS and abs(ratio * parts - 1) < _MAX_ERROR
    return f"{_FRACTIONS[parts]} {amount}" if is_near else f"{two_digits(100 * ratio)} % of the control's"


def _means(one: Comparison, scale: Scale) -> str:
    """Write the two means with the digits that the interval of their difference supports.

    Up to _MAX_EXTRA_DIGITS digits are added until the written means differ. If the headline gives a difference and not
    a ratio, the written means must also differ by the written difference. The text is empty if the means differ in the
    opposite direction to the difference, which is adjusted for history.
    """
    arm, control, difference = one.arm_mean.mean, one.control_mean.mean, one.difference
    if arm is None or control is None or difference is None or (arm - control) * difference < 0:
        return ""
    factor = 100.0 if one.unit == "share" else 1.0
    interval = one.anytime or one.fixed
    first = exponent_for(factor * (interval.high - interval.low if interval else abs(difference) * SIGNIFICANT_SHARE))
    exponents = range(first, first - _MAX_EXTRA_DIGITS - 1, -1)
    step = first if scale == "difference" else None
    fitting = (each for each in exponents if _means_agree(factor * arm, factor * control, each, step))
    exponent = next(fitting, first - _MAX_EXTRA_DIGITS)
    text = " against ".join(_mean_text(factor * mean, exponent, one.unit) for mean in (arm, control))
    return text if one.unit == "share" else _with_unit(text, one.unit)


def _means_agree(arm: float, control: float, exponent: int, step: int | None) -> bool:
    """Return whether two means can be written as multiples of 10**exponent.

    Equal means always can. Other means must differ after they were rounded. If `step` is given, the rounded means must
    also differ by the true difference, rounded to a multiple of 10**step.
    """
    difference = round(rounded(arm, exponent) - rounded(control, exponent), 1 - exponent)
    is_right = step is None or written(difference, step) == written(arm - control, step)
    return arm == control or (difference != 0 and is_right)


def _mean_text(mean: float, exponent: int, unit: str) -> str:
    number = written(mean, exponent)
    signed = f"-{number}" if mean < 0 and number != "0" else number
    return f"{signed} %" if unit == "share" else signed
