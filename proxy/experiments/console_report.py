"""A report for a terminal. Knows values and rich, and no arithmetic but percent."""

from collections.abc import Mapping
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table

from proxy.experiments.analysis.report import ArmMean, Comparison, GuardrailResult, Interval, Report

_COLOURS: Final[Mapping[str, str]] = {"better": "green", "worse": "red", "stop": "red", "blocked": "red"}
_WIDE: Final = 110  # columns


def print_report(name: str, report: Report, output: Console) -> None:
    """The verdict first, then what it rests on."""
    output.print(report.verdict.sentence, style=_COLOURS.get(report.verdict.decision, "bold"), markup=False)
    output.print(_sizes(report), style="dim", markup=False)
    if report.comparisons:
        output.print(_comparisons(name, report, wide=output.width >= _WIDE))
    for guardrail in report.guardrail_results:
        output.print(_guardrail(guardrail), style="red" if guardrail.breached else "", markup=False)
    output.print(_reading(report), style="dim", markup=False)


def _sizes(report: Report) -> str:
    ratio = report.sample_ratio
    arms = ", ".join(f"{arm} {count:,} (expected {ratio.expected[arm]:,.0f})" for arm, count in ratio.counts.items())
    rate = f", {report.units_per_day:,.0f} a day" if report.units_per_day else ""
    return f"{report.units:,} units{rate}: {arms}. Sample ratio p = {ratio.p_anytime:.2g}, at any time."


def _comparisons(name: str, report: Report, *, wide: bool) -> Table:
    """wide: there is room for what decides nothing."""
    table = Table(title=f"{name} (* decides)", title_justify="left", box=box.SIMPLE)
    headings = ["metric", "arm", "mean / control", "lift", "at any time", "p"]
    if wide:
        headings += ["units"] if report.peeking_only else ["one look", "units"]
    for heading in headings:
        table.add_column(heading, no_wrap=heading not in ("at any time", "one look"))
    for one in report.comparisons:
        cells = _cells(one)
        table.add_row(*(cells[heading] for heading in headings))
    return table


def _cells(one: Comparison) -> Mapping[str, str]:
    """By heading."""
    p = one.p_anytime_adjusted
    return {
        "metric": f"{one.metric} *" if one.primary else one.metric,
        "arm": one.arm,
        "mean / control": f"{_mean(one.arm_mean)} / {_mean(one.control_mean)}",
        "lift": "" if one.lift is None else f"{one.lift:+.1%}",
        "at any time": _interval(one.lift_anytime, one.anytime) or "not yet",
        "p": "" if p is None else f"{p:.2g}",
        "one look": _interval(one.lift_fixed, one.fixed),
        "units": f"{one.arm_mean.units:,} / {one.control_mean.units:,}",
    }


def _mean(side: ArmMean) -> str:
    return "-" if side.mean is None else f"{side.mean:.3g}"


def _interval(lifts: Interval | None, differences: Interval | None) -> str:
    """As lifts, where there are some; else as differences, which have no percent sign."""
    if lifts:
        return f"{lifts.low:+.1%} to {lifts.high:+.1%}"
    return f"{differences.low:+.3g} to {differences.high:+.3g}" if differences else ""


def _guardrail(one: GuardrailResult) -> str:
    if one.worse_by is None:
        return f"Guardrail {one.metric}, {one.arm}: nothing known yet."
    least = "not certain yet" if one.worse_at_least is None else f"at least {one.worse_at_least:.3g}"
    end = " BREACHED" if one.breached else ""
    return (
        f"Guardrail {one.metric}, {one.arm}: worse by {one.worse_by:.3g} ({least}); {one.tolerance:g} tolerated.{end}"
    )


def _reading(report: Report) -> str:
    text = f"Intervals of {1 - report.level:.0%}. `at any time` is right however often one looks, and decides"
    if report.peeking_only:
        return f"{text}. Weights followed the outcomes, so there is no interval for a single look."
    return f"{text}; `one look` only if this is the one look that was planned. p: at any time, corrected (Holm)."
