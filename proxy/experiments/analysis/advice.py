"""Says what the operator should do now: how many more units to wait for, or which arm to keep."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from proxy.core.variant_names import RAW, RAW_MATCHED
from proxy.experiments.analysis.conclusion import Advice
from proxy.experiments.analysis.operator_commands import OperatorCommands
from proxy.experiments.analysis.readiness import MIN_VARIED_UNITS
from proxy.experiments.analysis.report import Comparison, Interval, Target
from proxy.experiments.analysis.rounding import two_digits
from proxy.experiments.definition import Arm, Experiment

MIN_LIFT_THAT_MATTERS: Final = 0.02
"""Two arms are alike if their means certainly differ by less than this fraction of the control's mean."""
_MAX_DAYS: Final = 366.0  # the advice never names a longer time, because nobody waits that long for a result
WAYS_TO_END: Final = (
    "restart the server without the experiment's file (if `--experiment` names a folder, remove the file from it and "
    "reload)"
)
"""How the operator ends an experiment for good. A reload fails if a file that `--experiment` names is missing."""


def is_small(one: Comparison) -> bool:
    """Return whether the difference is certainly too small to matter."""
    lifts = one.lift_anytime
    return lifts is not None and _largest(lifts) < MIN_LIFT_THAT_MATTERS


def _largest(interval: Interval) -> float:
    return max(abs(interval.low), abs(interval.high))


def advice_without_units(experiment: str, commands: OperatorCommands) -> Advice:
    """Return the advice for an experiment in which no unit takes part."""
    return Advice(
        "wait",
        f"Units come with the requests that take part. {commands.check} says which requests take part. If there were "
        f"such requests, look for warnings about {experiment} on the operator page or at the server's start.",
    )


def advice_for_few_units(
    primary: Sequence[Comparison], units: int, units_per_day: float | None, burn_in: int
) -> Advice:
    """Return the advice for an experiment whose primary metric is known for too few units."""
    if not primary:
        return Advice("check", "Add a second arm with a weight above 0 to the experiment's file.")
    metric = primary[0].metric
    arms = [arm for one in primary for arm in (one.arm_mean, one.control_mean)]
    smallest = min(arm.units for arm in arms)
    if not smallest:
        return Advice(
            "wait",
            f"An arm has no value of {metric} yet. Clients send values to POST /v1/feedback. The proxy measures the "
            "automatic metrics itself.",
        )
    effective = min(arm.effective_units for arm in arms)
    if effective >= burn_in:
        return _advice_for_rare_values(metric, min(one.varied_units for one in primary), units, units_per_day)
    more = math.ceil((burn_in - effective) / max(effective, 1.0) * units)
    return _collecting("wait", "Keep collecting", more, units_per_day)


def _advice_for_rare_values(metric: str, varied: int, units: int, units_per_day: float | None) -> Advice:
    """Return the advice for a primary metric whose values are nearly all equal."""
    other = f"If {metric} will stay so rare, choose another first metric."
    if not varied:
        return Advice("wait", f"Keep collecting. {other}")
    more = math.ceil((MIN_VARIED_UNITS - varied) / varied * units)
    found = _collecting("wait", "Keep collecting", more, units_per_day)
    return replace(found, sentence=f"{found.sentence} {other}")


def advice_when_undecided(one: Comparison, units: int, units_per_day: float | None) -> Advice:
    """Return the advice for a comparison that allows no conclusion yet.

    The advice names the number of units after which the experiment will most likely show a difference of a given size.
    This size is the largest target that is not above the estimate, or else the smallest target. Targets that need more
    than a year are not considered.
    """
    ahead = [target for target in one.targets if target.units > units]
    possible = [target for target in ahead if target.days is None or target.days < _MAX_DAYS]
    if possible:
        target = _fitting(possible, abs(one.lift or 0.0))
        aim = f"Keep collecting: to show a true difference of {_size(one, target)}, the experiment needs"
        return _collecting("continue", aim, target.units - units, units_per_day, linked=True)
    if ahead:
        return Advice(
            "continue",
            f"At the current rate, even a true difference of {_size(one, ahead[-1])} needs more than a year. Let more "
            "units take part, or choose another first metric.",
        )
    if one.targets:
        return Advice(
            "continue",
            f"A true difference of {_size(one, one.targets[0])} would most likely have shown by now. Keep collecting "
            "only if a smaller one matters to you.",
        )
    return Advice("continue", "Keep collecting.")


def _fitting(targets: Sequence[Target], lift: float) -> Target:
    """Return the largest target that is not above the estimate; the smallest target if all are above it."""
    return max((one for one in targets if one.lift <= lift), key=lambda one: one.lift, default=targets[0])


def _size(one: Comparison, target: Target) -> str:
    relative = f"{target.lift:.0%}"[:-1] + " %"
    if one.unit == "share":
        return f"{two_digits(100 * target.difference)} percentage points ({relative} of {one.control}'s mean)"
    return f"{relative} of {one.control}'s mean"


def _collecting(action: str, start: str, more: int, units_per_day: float | None, *, linked: bool = False) -> Advice:
    days = more / units_per_day if units_per_day else None
    wait = f" ({_duration(days)} at the current rate)" if days is not None and days < _MAX_DAYS else ""
    joint = " " if linked else ": "
    sentence = f"{start}{joint}about {two_digits(more)} more {'unit' if more == 1 else 'units'}{wait}."
    return Advice("wait" if action == "wait" else "continue", sentence, more, days)


def _duration(days: float) -> str:
    """Write a time with a unit that fits it."""
    minutes, hours = max(1, round(days * 1440)), round(days * 24)
    if hours < 2:
        return "about a minute" if minutes == 1 else f"about {minutes} minutes"
    return f"about {hours} hours" if hours < 48 else f"about {days:.0f} days"


def advice_when_better(one: Comparison, arm: Arm, *, has_breach: bool) -> Advice:
    """Return the advice for an arm that is certainly better. `has_breach` says whether it breaches a guardrail."""
    if has_breach:
        return Advice("check", f"Decide whether the gain is worth the breach, before you give {one.arm} to all users.")
    if is_small(one):
        return _choosing(f"The difference is certain, but smaller than {_threshold()} of {one.control}'s mean")
    return Advice(
        "adopt",
        f"Look at the other metrics. Then give {arm.name} to all users: {WAYS_TO_END}. {_without_experiment(arm)}",
    )


def _without_experiment(arm: Arm) -> str:
    """Return a sentence that says how all users get the arm after the end of the experiment."""
    if arm.model:
        return f"Clients then name the model {arm.model}."
    if arm.bundle:
        return f"Start the server with the bundle of this arm: `--bundle {arm.bundle}`."
    if arm.variant == RAW:
        return "Start the server without `--bundle`, or let clients name the model MODEL@raw."
    if arm.variant == RAW_MATCHED:
        return "Keep `--bundle`, and let clients name the model MODEL@raw-matched."
    return "Keep `--bundle`: without an experiment, all users get the server's bundle."


def advice_when_worse(one: Comparison, experiment: str, arms: int, commands: OperatorCommands) -> Advice:
    """Return the advice for an arm that is certainly worse than the control. `arms` is the number of compared arms."""
    if is_small(one):
        return _choosing(f"The difference is certain, but smaller than {_threshold()} of {one.control}'s mean")
    if arms > 1:
        return Advice(
            "reject", f"Give {one.arm} the weight 0 in the experiment's file, and reload. The other arms go on."
        )
    return Advice("reject", f"Stop the experiment: {commands.stop(experiment)} gives {one.control} to all users.")


def advice_after_stop(given: Advice, experiment: Experiment, commands: OperatorCommands) -> Advice:
    """Return the advice for a stopped experiment, in place of the advice `given` for a running one."""
    stopped = f"The experiment is stopped: all users get {experiment.control}."
    if given.action in ("adopt", "choose", "check"):
        return replace(given, sentence=f"{stopped} {given.sentence}")
    release = f"{commands.release(experiment.name)} lets it run again"
    return Advice(given.action, f"{stopped} {release}. To end it for good, {WAYS_TO_END}.")


def advice_when_alike(one: Comparison) -> Advice:
    """Return the advice for an arm that certainly differs from the control by too little to matter."""
    return _choosing(f"The difference is smaller than {_threshold()} of {one.control}'s mean")


def _threshold() -> str:
    return f"{100 * MIN_LIFT_THAT_MATTERS:g} %"


def _choosing(reason: str) -> Advice:
    return Advice(
        "choose", f"{reason}, which is too small to matter. Choose by the cost or the speed, and end the experiment."
    )


MISMATCH_ADVICE: Final = Advice(
    "check",
    "Find out which units are missing before you trust any difference: for example, requests of one arm that fail "
    "before they are recorded, or two servers with different files.",
)
BREACH_ADVICE: Final = Advice(
    "reject", "The servers stop the experiment within a minute: all users get the control. Look at the arm's answers."
)
