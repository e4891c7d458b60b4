"""Builds the verdict of a report: a decision, and its text for people. It does not depend on arrays or SQL."""

from collections.abc import Sequence

from proxy.experiments.analysis.report import Comparison, GuardrailResult, Interval, SampleRatio, Verdict


def verdict_of(
    units: int,
    ratio: SampleRatio,
    comparisons: Sequence[Comparison],
    guardrails: Sequence[GuardrailResult],
    level: float,
    burn_in: int,
) -> Verdict:
    """Build the verdict, which is valid for any number of looks.

    The first rule that applies determines the decision:

    1. The experiment has no units: waiting.
    2. The arms have unexpected sizes: blocked.
    3. A guardrail that stops the experiment is breached: stop.
    4. No comparison of the primary metric is ready: waiting.
    5. The adjusted anytime-valid p-value of an arm in the primary metric is at most `level`: better or worse. If this
       holds for several arms, the verdict is about the best of them.
    6. Otherwise: undecided.

    Args:
        units: Number of units in the experiment.
        ratio: The check of the arms' sizes.
        comparisons: All comparisons. Only those of the primary metric are used.
        guardrails: The results of the guardrails. A breach that does not stop the experiment adds a warning.
        level: Significance level.
        burn_in: Effective sample size that each arm needs for a comparison to be ready.
    """
    primary = [one for one in comparisons if one.primary]
    if not units:
        return Verdict("waiting", None, "No unit takes part yet.")
    if ratio.blocks:
        return Verdict("blocked", None, _mismatch_sentence(ratio))
    if breached := next((one for one in guardrails if one.breached and one.stops), None):
        return Verdict("stop", breached.arm, f"Stop: {_breach_sentence(breached)}")
    decided = _primary_verdict(primary, level, burn_in)
    warnings = "".join(f" But {_breach_sentence(one)}" for one in guardrails if one.breached)
    return Verdict(decided.decision, decided.arm, decided.sentence + warnings)


def _primary_verdict(primary: Sequence[Comparison], level: float, burn_in: int) -> Verdict:
    if not any(one.ready for one in primary):
        return Verdict("waiting", None, _early_sentence(primary, burn_in))
    if certain := [one for one in primary if one.p_anytime_adjusted is not None and one.p_anytime_adjusted <= level]:
        best = max(certain, key=_improvement)
        return Verdict("better" if _improvement(best) > 0 else "worse", best.arm, _certain_sentence(best))
    return Verdict("undecided", None, _undecided_sentence(max(primary, key=_improvement)))


def _improvement(one: Comparison) -> float:
    """Return the difference between arm and control, with a sign that is positive if the arm is better."""
    return (one.difference or 0.0) * (1 if one.better == "higher" else -1)


def _mismatch_sentence(ratio: SampleRatio) -> str:
    counts = ", ".join(
        f"{count:,} in {arm} (expected {ratio.expected[arm]:,.0f})" for arm, count in ratio.counts.items()
    )
    return (
        f"No verdict, because the sizes of the arms do not fit their weights: {counts}. Find out which units are "
        "missing before you trust any difference."
    )


def _breach_sentence(one: GuardrailResult) -> str:
    return (
        f"{one.arm} is worse in {one.metric} by at least {_format_number(one.worse_at_least)}, and the "
        f"tolerance is {_format_number(one.tolerance)}."
    )


def _early_sentence(primary: Sequence[Comparison], burn_in: int) -> str:
    if not primary:
        return "There is nothing to compare with the control."
    one = primary[0]
    units = min(min(each.arm_mean.units, each.control_mean.units) for each in primary)
    if units >= burn_in:
        return f"Too early to say: hardly any unit differs from the others in {one.metric} yet."
    return f"Too early to say: {one.metric} is known for {units} units in the smallest arm. Each arm needs {burn_in}."


def _certain_sentence(one: Comparison) -> str:
    word = "better" if _improvement(one) > 0 else "worse"
    return (
        f"{one.arm} is {word} than {one.control}: {one.metric} is {_format_number(one.arm_mean.mean)} against "
        f"{_format_number(one.control_mean.mean)}{_lift_clause(one)}."
    )


def _lift_clause(one: Comparison) -> str:
    if one.lift is not None and one.lift_anytime is not None:
        return f", {one.lift:+.1%} ({_format_percents(one.lift_anytime)}, however often one looks)"
    if one.anytime is not None:
        return f" (a difference of {_format_range(one.anytime)}, however often one looks)"
    return ""


def _undecided_sentence(one: Comparison) -> str:
    if one.lift_anytime is not None:
        between = _format_percents(one.lift_anytime)
    else:
        between = _format_range(one.anytime) if one.anytime else "an unknown amount"
    sentence = f"No winner yet: {one.metric} of {one.arm} differs from that of {one.control} by {between}."
    return sentence + _outlook_sentence(one)


def _outlook_sentence(one: Comparison) -> str:
    """Return a sentence that says after how much more time the experiment will detect a lift.

    The sentence is about the smallest lift in `one.targets` that cannot be detected yet, but within a year. If there is
    no such lift, the sentence is empty.
    """
    target = next((each for each in one.targets if each.days is not None and 0 < each.days < 366), None)
    if target is None or target.days is None:
        return ""
    return f" A true {target.lift:.0%} would show after about {_format_days(target.days)} more."


def _format_days(days: float) -> str:
    if days < 2 / 24:
        return f"{max(1, round(days * 1440))} minutes"
    return f"{days * 24:.0f} hours" if days < 2 else f"{days:.0f} days"


def _format_percents(interval: Interval) -> str:
    return f"between {interval.low:+.1%} and {interval.high:+.1%}"


def _format_range(interval: Interval) -> str:
    return f"between {_format_number(interval.low)} and {_format_number(interval.high)}"


def _format_number(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.4g}"
