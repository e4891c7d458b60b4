"""Builds the verdict of a report: a decision, its text for people, and advice. It does not depend on arrays or SQL."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from index.counted import counted
from proxy.experiments.analysis import advice
from proxy.experiments.analysis.conclusion import Advice, Decision, Verdict
from proxy.experiments.analysis.headline import least_worse, side
from proxy.experiments.analysis.operator_commands import OperatorCommands
from proxy.experiments.analysis.readiness import MIN_VARIED_UNITS
from proxy.experiments.analysis.report import Comparison, GuardrailResult, SampleRatio
from proxy.experiments.definition import Experiment


@dataclass(frozen=True, slots=True)
class Evidence:
    """The values from which a verdict is built.

    Attributes:
        experiment: The experiment.
        units: Number of units in the experiment.
        units_per_day: Rate at which new units arrive. None while it is unknown.
        ratio: The check of the arms' sizes.
        comparisons: All comparisons. Only the comparisons of the primary metric are used.
        guardrails: The results of the guardrails. A breach that does not stop the experiment adds a warning.
        level: Significance level.
        burn_in: Effective sample size that each arm needs for a comparison to be ready.
        stopped: Whether the experiment was stopped. The advice is then for a stopped experiment.
        commands: The commands that advice names.
    """

    experiment: Experiment
    units: int
    units_per_day: float | None
    ratio: SampleRatio
    comparisons: Sequence[Comparison]
    guardrails: Sequence[GuardrailResult]
    level: float
    burn_in: int
    stopped: bool = False
    commands: OperatorCommands = field(default_factory=OperatorCommands)

    @property
    def primary(self) -> list[Comparison]:
        """The comparisons of the primary metric."""
        return [one for one in self.comparisons if one.primary]


def verdict_of(evidence: Evidence) -> Verdict:
    """Build the verdict, which is valid for any number of looks.

    The first rule that applies determines the decision:

    1. The experiment has no units: waiting.
    2. The arms have unexpected sizes: blocked.
    3. A guardrail that stops the experiment is breached: stop.
    4. No comparison of the primary metric is ready: waiting.
    5. The adjusted anytime-valid p-value of an arm in the primary metric is at most `level`: better or worse. If this
       holds for several arms, the verdict is about the best of them.
    6. All arms certainly differ from the control by too little to matter (`advice.MIN_LIFT_THAT_MATTERS`): alike.
    7. Otherwise: undecided.
    """
    found = _running_verdict(evidence)
    if not evidence.stopped:
        return found
    return replace(found, advice=advice.advice_after_stop(found.advice, evidence.experiment, evidence.commands))


def _running_verdict(evidence: Evidence) -> Verdict:
    """Return the verdict with the advice for an experiment that runs."""
    if not evidence.units:
        waiting = advice.advice_without_units(evidence.experiment.name, evidence.commands)
        return _plain("waiting", "No unit takes part yet.", waiting)
    if evidence.ratio.blocks:
        return _plain("blocked", _mismatch_sentence(evidence.ratio), advice.MISMATCH_ADVICE)
    if breached := next((one for one in evidence.guardrails if one.breached and one.stops), None):
        return Verdict("stop", breached.arm, f"Stop: {_breach_sentence(breached)}", None, advice.BREACH_ADVICE)
    decided = _primary_verdict(evidence)
    warnings = "".join(f" But {_breach_sentence(one)}" for one in evidence.guardrails if one.breached)
    return replace(decided, sentence=decided.sentence + warnings)


def _plain(decision: Decision, sentence: str, what_to_do: Advice) -> Verdict:
    return Verdict(decision, None, sentence, None, what_to_do)


def _primary_verdict(evidence: Evidence) -> Verdict:
    primary, level = evidence.primary, evidence.level
    ready = [one for one in primary if one.ready]
    if not ready:
        few = advice.advice_for_few_units(primary, evidence.units, evidence.units_per_day, evidence.burn_in)
        return _plain("waiting", _early_sentence(primary, evidence.burn_in), few)
    if certain := [one for one in primary if one.p_anytime_adjusted is not None and one.p_anytime_adjusted <= level]:
        return _certain_verdict(max(certain, key=_improvement), evidence)
    best = max(ready, key=_improvement)
    if len(ready) == len(primary) and all(advice.is_small(one) for one in primary):
        return Verdict("alike", best.arm, _alike_sentence(best), best.headline, advice.advice_when_alike(best))
    going_on = advice.advice_when_undecided(best, evidence.units, evidence.units_per_day)
    return Verdict("undecided", best.arm, _undecided_sentence(best, len(primary)), best.headline, going_on)


def _certain_verdict(one: Comparison, evidence: Evidence) -> Verdict:
    is_better = _improvement(one) > 0
    sentence = f"{one.arm} is {'better' if is_better else 'worse'} than {one.control}: {_difference_clause(one)}."
    if not is_better:
        arms = len(evidence.primary)
        rejecting = advice.advice_when_worse(one, evidence.experiment.name, arms, evidence.commands)
        return Verdict("worse", one.arm, sentence, one.headline, rejecting)
    has_breach = any(each.breached for each in evidence.guardrails if each.arm == one.arm)
    adopting = advice.advice_when_better(one, evidence.experiment.arm(one.arm), has_breach=has_breach)
    return Verdict("better", one.arm, sentence, one.headline, adopting)


def _improvement(one: Comparison) -> float:
    """Return the difference between arm and control, with a sign that is positive if the arm is better."""
    return (one.difference or 0.0) * (1 if one.better == "higher" else -1)


def _mismatch_sentence(ratio: SampleRatio) -> str:
    counts = ", ".join(
        f"{count:,} in {arm} (expected {ratio.expected[arm]:,.0f})" for arm, count in ratio.counts.items()
    )
    return f"No verdict, because the sizes of the arms do not fit their weights: {counts}."


def _breach_sentence(one: GuardrailResult) -> str:
    return f"{one.arm} is worse in {one.metric} by at least {least_worse(one)}, and the tolerance is {one.tolerance:g}."


def _early_sentence(primary: Sequence[Comparison], burn_in: int) -> str:
    if not primary:
        return "There is nothing to compare with the control."
    one = primary[0]
    units = min(min(each.arm_mean.units, each.control_mean.units) for each in primary)
    effective = min(min(each.arm_mean.effective_units, each.control_mean.effective_units) for each in primary)
    if effective >= burn_in:
        varied = min(each.varied_units for each in primary)
        return (
            f"Too early to say: {one.metric} has another value than most for only {counted(varied, 'unit')}. "
            f"{MIN_VARIED_UNITS} such units are needed."
        )
    if units >= burn_in:
        return f"Too early to say: the smallest arm has {effective:.0f} effective units. Each arm needs {burn_in}."
    known = counted(units, "unit")
    return f"Too early to say: {one.metric} is known for {known} in the smallest arm. Each arm needs {burn_in}."


def _difference_clause(one: Comparison) -> str:
    """Return the means, the difference and its interval in words, for the end of a sentence."""
    headline = one.headline
    if headline is None:
        return f"the difference in {one.metric} is unknown"
    subject = (
        f"{one.metric} is {headline.means}, which is {headline.words}"
        if headline.means
        else f"{one.metric} is {headline.words}"
    )
    return f"{subject} ({headline.words_between}, however often you look)" if headline.words_between else subject


def _alike_sentence(one: Comparison) -> str:
    return f"{one.arm} is as good as {one.control}: {_difference_clause(one)}."


def _undecided_sentence(one: Comparison, arms: int) -> str:
    sentence = f"No winner yet between {one.arm} and {one.control}: {_difference_clause(one)}."
    if one.anytime is not None and side(one.anytime):
        return f"{sentence} This could be chance, because {arms} arms are compared."
    return sentence
