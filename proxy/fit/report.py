"""Shows the result of `drpo-proxy fit`: as tables with the verdict as the last line, or as JSON."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, Final

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from index.counted import counted
from index.measures.confidence import Interval
from proxy.core.variant_names import RAW
from proxy.fit.arms import Arm, Arms
from proxy.fit.client import MAX_ANSWER_TOKENS
from proxy.fit.measures import (
    INJECTED,
    MEASURES,
    UNCACHED,
    Measure,
    Measured,
    Sample,
    difference,
    measure,
    samples,
)
from proxy.fit.run import Outcomes, failures_by_reason
from proxy.fit.verdict import Decision, FitVerdict, verdicts

_MAX_NAMED: Final = 6  # questions that a line about failures names
_COLOURS: Final[Mapping[Decision, str]] = {Decision.HELPS: "green", Decision.HARMS: "red"}
_NOT_REPORTED: Final = "not reported"
_MEASURE_WIDTH: Final = 30  # characters of the column of measures
_ARM_WIDTH: Final = 26  # characters of the column of an arm


@dataclass(frozen=True, slots=True)
class FitResult:
    """The result of a run, complete or not.

    Attributes:
        model: The id of the model.
        kind: `chat` or `completion`.
        server: The name of the server's dialect.
        arms: The arms.
        outcomes: All answers and failures.
        concurrency: The number of questions that were asked at the same time.
        seconds: The duration of the run.
        signal: The number of the signal that ended the run; None if it was not interrupted.
    """

    model: str
    kind: str
    server: str
    arms: Arms
    outcomes: Outcomes
    concurrency: int
    seconds: float
    signal: int | None

    @property
    def verdicts(self) -> tuple[FitVerdict, ...]:
        """The verdict about each bundle."""
        return verdicts(self.outcomes, self.arms, self.model)


def print_result(result: FitResult, output: Console) -> None:
    """Print the tables, the failures, and the verdict about each bundle as the last lines."""
    outcomes, arms = result.outcomes, result.arms
    if not output.is_terminal:
        output.width = max(output.width, _MEASURE_WIDTH + _ARM_WIDTH * len(arms.all))  # a file or a pipe has no width
    if outcomes.answered:
        by_arm = {arm.name: samples(outcomes, arm) for arm in arms.all}
        output.print(_arms_table(result, by_arm))
        output.print(_differences_table(arms, by_arm))
    for line in (*_notes(result), *_losses(result)):
        output.print(line, style="yellow", markup=False, soft_wrap=True)
    for verdict in result.verdicts:
        output.print(verdict.sentence, style=_COLOURS.get(verdict.decision, "bold"), markup=False, soft_wrap=True)


def _arms_table(result: FitResult, by_arm: Mapping[str, Sequence[Sample]]) -> Table:
    """Build the table of all arms. The number of answers is in brackets behind the name of each measure."""
    table = _table(
        f"{result.model} ({result.kind}, {result.server}), {MAX_ANSWER_TOKENS} tokens, greedy", result.arms.all
    )
    for one in MEASURES:
        cells = [measure(one, by_arm[arm.name]) for arm in result.arms.all]
        if cells[0].count or one.key in (INJECTED, UNCACHED):
            table.add_row(f"{one.title} ({cells[0].count})", *(_cell(cell.interval, one.digits, "") for cell in cells))
    return table


def _differences_table(arms: Arms, by_arm: Mapping[str, Sequence[Sample]]) -> Table:
    table = _table(f"Difference from {arms.baseline.name} (*: the interval excludes 0)", arms.candidates)
    for one in MEASURES:
        cells = [difference(one, by_arm[arms.baseline.name], by_arm[arm.name]) for arm in arms.candidates]
        if cells[0].count:
            table.add_row(f"{one.title} ({cells[0].count})", *(_cell(cell.interval, one.digits, "+") for cell in cells))
    return table


def _table(title: str, arms: Sequence[Arm]) -> Table:
    return Table("measure", *(arm.name for arm in arms), title=title, title_justify="left", box=SIMPLE, pad_edge=False)


def _cell(interval: Interval, digits: int, sign: str) -> str:
    if not isfinite(interval.estimate):
        return _NOT_REPORTED
    low, estimate, high = (f"{value:{sign}.{digits}f}" for value in (interval.low, interval.estimate, interval.high))
    star = " *" if sign and not interval.low <= 0.0 <= interval.high else ""
    return f"{estimate} [{low}, {high}]{star}"


def _notes(result: FitResult) -> Iterator[str]:
    outcomes = result.outcomes
    if result.signal is not None:
        asked = counted(len(outcomes.questions), "question")
        yield f"Interrupted: {len(outcomes.attempted)} of {asked} were asked in all arms."
    if outcomes.stopped:
        yield f"Stopped, because no question was answered any more: {outcomes.stopped}"
    for (name, reason), ids in failures_by_reason(outcomes).items():
        more = f" and {len(ids) - _MAX_NAMED} more" if len(ids) > _MAX_NAMED else ""
        yield f"{name} failed on {counted(len(ids), 'question')}: {reason} ({', '.join(ids[:_MAX_NAMED])}{more})"
    if left_out := len(outcomes.attempted) - len(outcomes.answered):
        yield f"The tables leave out {counted(left_out, 'question')}, because not all arms answered."
    for arm in result.arms.all:
        if arm.reason:
            yield f"`default` means {arm.name} for this model, because {arm.reason}."
    for arm in result.arms.candidates:
        if degraded := sum(sample.answer.degraded is not None for sample in samples(outcomes, arm)):
            late = counted(degraded, "request")
            yield f"{arm.name}: retrieval failed or was late for {late} (see --retrieval-timeout)."


def _losses(result: FitResult) -> Iterator[str]:
    """Yield one line for each bundle that is worse than the baseline, with the measures whose interval excludes 0."""
    before = samples(result.outcomes, result.arms.baseline)
    for arm in result.arms.candidates:
        after = samples(result.outcomes, arm)
        changes = [(one, difference(one, before, after).interval) for one in MEASURES if one.better]
        worse = [f"{one.title} {_cell(change, one.digits, '+')}" for one, change in changes if _is_worse(one, change)]
        if worse:
            yield f"Worse with {arm.name} than with {result.arms.baseline.name}: {'; '.join(worse).replace(' *', '')}."


def _is_worse(one: Measure, change: Interval) -> bool:
    return change.high < 0.0 if one.better > 0 else change.low > 0.0


def result_json(result: FitResult) -> Mapping[str, Any]:
    """Return the result as the object that `--json` prints. Values that are not known are null."""
    outcomes = result.outcomes
    return {
        "model": result.model,
        "kind": result.kind,
        "server": result.server,
        "questions": len(outcomes.questions),
        "compared": len(outcomes.answered),
        "max_tokens": MAX_ANSWER_TOKENS,
        "concurrency": result.concurrency,
        "seconds": round(result.seconds, 1),
        "interrupted": result.signal is not None,
        "stopped": outcomes.stopped or None,
        "baseline": result.arms.baseline.name,
        "arms": [_arm_json(arm, samples(outcomes, arm)) for arm in result.arms.all],
        "differences": {arm.name: _differences_json(result, arm) for arm in result.arms.candidates},
        "failures": [
            {"arm": arm.name, "question": question.id, "status": failure.status, "reason": failure.reason}
            for arm, question, failure in outcomes.failures()
        ],
        "verdicts": [_verdict_json(verdict) for verdict in result.verdicts],
    }


def _arm_json(arm: Arm, answers: Sequence[Sample]) -> Mapping[str, Any]:
    served = arm.served if arm.variant != RAW else None
    bundle = None
    if served:
        bundle = {"name": served.bundle.manifest.name, "id": served.bundle.id, "reason": arm.reason or None}
    measures = {one.key: _measured_json(measure(one, answers)) for one in MEASURES}
    return {"name": arm.name, "variant": arm.variant, "bundle": bundle, "measures": measures}


def _differences_json(result: FitResult, arm: Arm) -> Mapping[str, Any]:
    before, after = samples(result.outcomes, result.arms.baseline), samples(result.outcomes, arm)
    return {one.key: _measured_json(difference(one, before, after)) for one in MEASURES}


def _measured_json(measured: Measured) -> Mapping[str, Any]:
    return {**_interval_json(measured.interval), "count": measured.count}


def _interval_json(interval: Interval) -> dict[str, float | None]:
    return {name: value if isfinite(value) else None for name, value in asdict(interval).items()}


def _verdict_json(verdict: FitVerdict) -> Mapping[str, Any]:
    shares = [
        {
            "key": one.key,
            "count": one.count,
            "baseline": one.before,
            "bundle": one.after,
            "difference": _interval_json(one.difference),
            "difference_corrected": _interval_json(one.certain),
        }
        for one in verdict.comparisons
    ]
    return {
        "arm": verdict.arm,
        "baseline": verdict.baseline,
        "verdict": verdict.decision.value,
        "sentence": verdict.sentence,
        "shares": shares,
    }
