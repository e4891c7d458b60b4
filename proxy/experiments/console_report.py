"""Prints a report in a terminal, with the package rich. It does not compute statistics."""

from collections.abc import Mapping
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table

from proxy.experiments.analysis.report import Comparison, GuardrailResult, Report

_COLOURS: Final[Mapping[str, str]] = {
    "better": "green",
    "alike": "green",
    "worse": "red",
    "stop": "red",
    "blocked": "red",
}
_MIN_WIDE_COLUMNS: Final = 110  # minimum width of the terminal, in characters, to print all columns


def print_report(name: str, report: Report, output: Console) -> None:
    """Print the verdict, the advice, the sizes of the arms, the comparisons and the guardrails."""
    output.print(report.verdict.sentence, style=_COLOURS.get(report.verdict.decision, "bold"), markup=False)
    advice = report.verdict.advice.sentence
    output.print(f"What to do: {advice}", markup=False, soft_wrap="`" in advice)  # a command stays whole, to be copied
    output.print(_arm_sizes(report), style="dim", markup=False)
    if report.comparisons:
        output.print(_comparison_table(name, report, wide=output.width >= _MIN_WIDE_COLUMNS))
    for guardrail in report.guardrail_results:
        output.print(_guardrail_line(guardrail), style="red" if guardrail.breached else "", markup=False)
    if report.left_out:
        output.print(_left_out_line(report), style="yellow", markup=False)
    output.print(_footnote(report), style="dim", markup=False)


def _arm_sizes(report: Report) -> str:
    ratio = report.sample_ratio
    arms = ", ".join(f"{arm} {count:,} (expected {ratio.expected[arm]:,.0f})" for arm, count in ratio.counts.items())
    rate = f", {report.units_per_day:,.0f} a day" if report.units_per_day else ""
    return f"{report.units:,} units{rate}: {arms}. Sample ratio p = {ratio.p_anytime:.2g}, at any time."


def _comparison_table(name: str, report: Report, *, wide: bool) -> Table:
    table = Table(title=f"{name} (* decides)", title_justify="left", box=box.SIMPLE)
    headings = ["metric", "arm", "arm against control", "difference", "at any time", "p"]
    if wide:
        headings += ["units"] if report.peeking_only else ["one look", "units"]
    for heading in headings:
        table.add_column(heading, overflow="fold", no_wrap=heading in ("difference", "p", "units"))
    for one in report.comparisons:
        cells = _cells_by_heading(one)
        table.add_row(*(cells[heading] for heading in headings))
    return table


def _cells_by_heading(one: Comparison) -> Mapping[str, str]:
    p, told = one.p_anytime_adjusted, one.headline
    return {
        "metric": f"{one.metric} *" if one.primary else one.metric,
        "arm": one.arm,
        "arm against control": (told.means if told else "") or _format_means(one),
        "difference": told.short if told else "",
        "at any time": (told.short_between if told else "") or one.missing or "not yet",
        "p": "" if p is None else f"{p:.2g}",
        "one look": told.short_one_look if told else "",
        "units": f"{one.arm_mean.units:,} / {one.control_mean.units:,}",
    }


def _format_means(one: Comparison) -> str:
    arm, control = ("-" if each.mean is None else f"{each.mean:.3g}" for each in (one.arm_mean, one.control_mean))
    return f"{arm} against {control}"


def _guardrail_line(one: GuardrailResult) -> str:
    if one.worse_by is None:
        return f"Guardrail {one.metric}, {one.arm}: nothing known yet."
    certain = "not certain yet" if one.worse_at_least is None else f"at least {one.worse_at_least:.3g}"
    suffix = " BREACHED" if one.breached else ""
    difference = f"worse by {one.worse_by:.3g} ({certain}); {one.tolerance:g} tolerated."
    return f"Guardrail {one.metric}, {one.arm}: {difference}{suffix}"


def _left_out_line(report: Report) -> str:
    counts = ", ".join(f"{count:,} of {name}" for name, count in report.left_out.items())
    return f"Left out: {counts}. These stored values are not numbers, or are out of range."


def _footnote(report: Report) -> str:
    text = f"Intervals of {100 * (1 - report.level):g} %. `at any time` is valid however often you look, and it decides"
    if report.peeking_only:
        return f"{text}. The weights depended on outcomes, so there is no interval for a single look."
    return f"{text}. `one look` is valid only for one planned look. `p` is valid at any time, and is adjusted (Holm)."
