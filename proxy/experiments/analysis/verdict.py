"""What a report comes to, in one plain sentence. Pure."""

from collections.abc import Sequence

from proxy.experiments.analysis.report import Comparison, GuardrailResult, Interval, SampleRatio, Verdict


def verdict(
    units: int,
    ratio: SampleRatio,
    comparisons: Sequence[Comparison],
    guardrails: Sequence[GuardrailResult],
    level: float,
    burn_in: int,
) -> Verdict:
    """What to believe now, at whichever moment that is.

    In this order: arms of the wrong sizes block everything; a guardrail stops; the primary metric is certain about an
    arm; nothing is certain yet. Certain: the any-time p-value, corrected over the arms, is at most `level`.
    """
    primary = [one for one in comparisons if one.primary]
    if not units:
        return Verdict("waiting", None, "Nobody is in yet.")
    if ratio.blocks:
        return Verdict("blocked", None, _mismatch(ratio))
    if breached := next((one for one in guardrails if one.breached and one.stops), None):
        return Verdict("stop", breached.arm, f"Stop: {_breach(breached)}")
    found = _of_primary(primary, level, burn_in)
    beware = "".join(f" But {_breach(one)}" for one in guardrails if one.breached)
    return Verdict(found.decision, found.arm, found.sentence + beware)


def _of_primary(primary: Sequence[Comparison], level: float, burn_in: int) -> Verdict:
    if not any(one.ready for one in primary):
        return Verdict("waiting", None, _early(primary, burn_in))
    if certain := [one for one in primary if one.p_anytime_adjusted is not None and one.p_anytime_adjusted <= level]:
        best = max(certain, key=_gain)
        return Verdict("better" if _gain(best) > 0 else "worse", best.arm, _certain(best))
    return Verdict("undecided", None, _undecided(max(primary, key=_gain)))


def _gain(one: Comparison) -> float:
    """The difference, above zero where the arm is better."""
    return (one.difference or 0.0) * (1 if one.better == "higher" else -1)


def _mismatch(ratio: SampleRatio) -> str:
    counts = ", ".join(
        f"{count:,} in {arm} (expected {ratio.expected[arm]:,.0f})" for arm, count in ratio.counts.items()
    )
    return (
        f"No verdict: the arms do not have the sizes that their weights give: {counts}. Find out who is missing before "
        "any difference is believed."
    )


def _breach(one: GuardrailResult) -> str:
    return (
        f"{one.arm} is worse in {one.metric} by {_number(one.worse_at_least)} at least, and "
        f"{_number(one.tolerance)} was tolerated."
    )


def _early(primary: Sequence[Comparison], burn_in: int) -> str:
    if not primary:
        return "There is nothing to compare with the control."
    one = primary[0]
    have = min(min(each.arm_mean.units, each.control_mean.units) for each in primary)
    if have >= burn_in:
        return f"Too early to say: hardly any unit differs from the others in {one.metric} yet."
    return f"Too early to say: {one.metric} is known of {have} units in the smallest arm; each needs {burn_in}."


def _certain(one: Comparison) -> str:
    word = "better" if _gain(one) > 0 else "worse"
    return (
        f"{one.arm} is {word} than {one.control}: {one.metric} is {_number(one.arm_mean.mean)} against "
        f"{_number(one.control_mean.mean)}{_lifted(one)}."
    )


def _lifted(one: Comparison) -> str:
    if one.lift is not None and one.lift_anytime is not None:
        return f", {one.lift:+.1%} ({_percents(one.lift_anytime)}, however often one looks)"
    if one.anytime is not None:
        return f" (a difference of {_range(one.anytime)}, however often one looks)"
    return ""


def _undecided(one: Comparison) -> str:
    if one.lift_anytime is not None:
        between = _percents(one.lift_anytime)
    else:
        between = _range(one.anytime) if one.anytime else "an unknown amount"
    return f"No winner yet: {one.metric} of {one.arm} differs from that of {one.control} by {between}.{_outlook(one)}"


def _outlook(one: Comparison) -> str:
    """When more could be known, for the least lift that is not out of reach."""
    target = next((each for each in one.targets if each.days is not None and 0 < each.days < 366), None)
    if target is None or target.days is None:
        return ""
    return f" A true {target.lift:.0%} would show within about {_days(target.days)} more."


def _days(days: float) -> str:
    if days < 2 / 24:
        return f"{max(1, round(days * 1440))} minutes"
    return f"{days * 24:.0f} hours" if days < 2 else f"{days:.0f} days"


def _percents(interval: Interval) -> str:
    return f"between {interval.low:+.1%} and {interval.high:+.1%}"


def _range(interval: Interval) -> str:
    return f"between {_number(interval.low)} and {_number(interval.high)}"


def _number(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.4g}"
