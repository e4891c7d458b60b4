"""Prints a report in a terminal, with the package rich. It does not compute statistics."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table

from index.counted import counted
from proxy.experiments.analysis.report import Comparison, GuardrailResult, Report
from proxy.experiments.analysis.rounding import two_digits

_COLOURS: Final[Mapping[str, str]] = {
    "better": "green",
    "alike": "green",
    "worse": "red",
    "stop": "red",
    "blocked": "red",
}
_NO_BREAK: Final = "\N{NO-BREAK SPACE}"
_MIN_WIDE_COLUMNS: Final = 110  # minimum width of the terminal, in characters, to print all columns
_MIN_ONE_LINE_COLUMNS: Final = 130  # minimum width, in characters, to print two means in one line


def print_report(name: str, report: Report, output: Console) -> None:
    """Print the verdict, what to do, the sizes of the arms, the comparisons and the guardrails."""
    _print_text(report.verdict.sentence, output, _COLOURS.get(report.verdict.decision, "bold"))
    _print_text(f"What to do: {report.verdict.advice.sentence}", output)
    _print_text(_arm_sizes(report), output, "dim")
    for arm in dict.fromkeys(one.arm for one in report.comparisons):
        comparisons = [one for one in report.comparisons if one.arm == arm]
        output.print(_comparison_table(name, comparisons, output.width, one_look=not report.peeking_only))
        for line in _missing_lines(comparisons):
            _print_text(line, output, "dim")
    for guardrail in report.guardrail_results:
        _print_text(_guardrail_line(guardrail), output, "red" if guardrail.breached else "")
    if report.left_out:
        _print_text(_left_out_line(report), output, "yellow")
    _print_text(_footnote(report, wide=output.width >= _MIN_WIDE_COLUMNS), output, "dim")


def _print_text(text: str, output: Console, style: str = "") -> None:
    """Print a text, without a line break between a number and %, or in a command, which a user wants to copy whole."""
    whole = text.replace(" %", f"{_NO_BREAK}%")
    lines = [whole] if "`drpo-proxy " in text else textwrap.wrap(whole, output.width, break_on_hyphens=False)
    output.print("\n".join(lines).replace(_NO_BREAK, " "), style=style, markup=False, soft_wrap=True)


def _arm_sizes(report: Report) -> str:
    ratio = report.sample_ratio
    arms = ", ".join(f"{arm} {count:,} (expected {ratio.expected[arm]:,.0f})" for arm, count in ratio.counts.items())
    rate = f", {report.units_per_day:,.0f} a day" if report.units_per_day else ""
    units = counted(report.units, "unit")
    return f"{units}{rate}: {arms}. p of the sample ratio: {ratio.p_anytime:.2g}, valid at any time."


def _comparison_table(name: str, comparisons: Sequence[Comparison], width: int, *, one_look: bool) -> Table:
    """Build the table of one arm. Only long names of metrics are broken. A narrow table has the means in two lines."""
    in_one_line = width >= _MIN_ONE_LINE_COLUMNS
    first = comparisons[0]
    title = f"{name}: {first.arm} against {first.control}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0), show_edge=False)
    headings = ["metric", "arm against control", "difference", "at any time", "p"]
    if width >= _MIN_WIDE_COLUMNS:
        headings += ["one look", "units"] if one_look else ["units"]
    for heading in headings:
        table.add_column(heading if in_one_line else heading.replace(" against ", "\nagainst "), overflow="fold")
        table.columns[-1].no_wrap = heading != "metric"
    for one in comparisons:
        cells = _cells_by_heading(one)
        means = cells["arm against control"]
        lines = means if in_one_line else means.replace(" against ", " against\n")
        table.add_row(*({**cells, "arm against control": lines}[heading] for heading in headings))
    return table


def _cells_by_heading(one: Comparison) -> Mapping[str, str]:
    p, headline = one.p_anytime_adjusted, one.headline
    return {
        "metric": f"{one.metric} *" if one.primary else one.metric,
        "arm against control": (headline.means if headline else "") or _format_means(one),
        "difference": headline.short if headline else "",
        "at any time": (headline.short_between if headline else "") or "not yet",
        "p": "" if p is None else f"{p:.2g}",
        "one look": headline.short_one_look if headline else "",
        "units": f"{one.arm_mean.units:,} / {one.control_mean.units:,}",
    }


def _missing_lines(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Yield why there is no interval at any time yet, once for all metrics with the same reason."""
    for missing in dict.fromkeys(one.missing for one in comparisons if one.missing):
        metrics = ", ".join(one.metric for one in comparisons if one.missing == missing)
        yield f"No interval at any time yet: {metrics} ({missing})."


def _format_means(one: Comparison) -> str:
    arm, control = ("-" if each.mean is None else two_digits(each.mean) for each in (one.arm_mean, one.control_mean))
    return f"{arm} against {control}"


def _guardrail_line(one: GuardrailResult) -> str:
    return f"Guardrail {one.metric}, {one.arm}: {one.words}.{' BREACHED' if one.breached else ''}"


def _left_out_line(report: Report) -> str:
    counts = ", ".join(f"{count:,} of {name}" for name, count in report.left_out.items())
    return f"Left out: {counts}. These stored values are not numbers, or are out of range."


def _footnote(report: Report, *, wide: bool) -> str:
    level = f"All intervals are {100 * (1 - report.level):g} % intervals."
    text = f"{level} The metric with * decides, by its interval `at any time`, which is valid however often you look"
    p = "`p` is valid at any time, and is adjusted (Holm)."
    if report.peeking_only:
        return f"{text}. The weights depended on outcomes, so there is no interval for a single look. {p}"
    return f"{text}. `one look` is valid only for one planned look. {p}" if wide else f"{text}. {p}"
