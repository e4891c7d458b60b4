"""The measures as a table for people, and as plain values for files. Knows no answer and no rule."""

from collections.abc import Iterator, Sequence
from math import isnan

from rich.table import Table

from optimizer.core.budget import Limits
from optimizer.core.confidence import Interval
from optimizer.evaluation.evaluate import Evaluation
from optimizer.evaluation.measures import Measure
from optimizer.stages.estimate import Estimate, Range
from optimizer.stages.sealed_evaluation import SealedResult, VariantSummary


def as_table(evaluation: Evaluation, title: str) -> Table:
    """Measures in lines, variants in columns; 95 % intervals in brackets."""
    table = Table(title=title, title_justify="left")
    table.add_column("measure")
    for variant in evaluation.variants:
        table.add_column(variant, justify="right")
    for line in zip(*evaluation.variants.values(), strict=True):
        table.add_row(line[0].name, *(as_text(measure) for measure in line))
    return table


def as_markdown(evaluation: Evaluation) -> str:
    """The same table in Markdown."""
    names = list(evaluation.variants)
    lines = [["measure", *names], ["---"] * (len(names) + 1)]
    lines += [[line[0].name, *map(as_text, line)] for line in zip(*evaluation.variants.values(), strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def as_values(evaluation: Evaluation) -> dict[str, object]:
    """Variant -> measure -> estimate, low, high, trials (and hits for shares that were counted)."""
    return {
        variant: {measure.name: _values(measure) for measure in lines} for variant, lines in evaluation.variants.items()
    }


def as_text(measure: Measure) -> str:
    """Such as `0.97 [0.90, 0.99] 58/60`."""
    digits = 2 if measure.is_share else 0
    interval = measure.interval
    text = f"{interval.estimate:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"
    return text if measure.hits is None else f"{text} {measure.hits}/{measure.trials}"


def _values(measure: Measure) -> dict[str, object]:
    interval = measure.interval
    values: dict[str, object] = {
        "estimate": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "trials": measure.trials,
    }
    return values if measure.hits is None else {**values, "hits": measure.hits}


def sealed_table(verdict: SealedResult) -> Table:
    """The sealed evaluation: figures in lines, variants in columns, with 95 % intervals in brackets."""
    table = Table(title=f"sealed evaluation, {verdict.rows} queries that nothing before has seen", title_justify="left")
    table.add_column("figure")
    for name in verdict.figures:
        table.add_column(name, justify="right")
    figures = list(verdict.figures.values())
    for name, found in _figure_lines(figures):
        table.add_row(name, *found)
    differences = [verdict.against.get(name) for name in verdict.figures]
    table.add_section()
    table.add_row("bundle is better by", *("" if one is None else _interval(one.difference, 3) for one in differences))
    if (preferred := verdict.against["baseline"].preferred) is not None:
        table.add_row("judge prefers bundle", "", _interval(preferred, 2))
    table.add_row("bundle wins", *("" if one is None else f"{one.wins:.0%}" for one in differences))
    return table


def estimate_table(estimate: Estimate, limits: Limits) -> Table:
    """What a run will cost: medians, 90 % intervals, and the budget beside them."""
    table = Table(title="what this run will cost", title_justify="left")
    for name in ("", "median", "90 % interval", "budget"):
        table.add_column(name, justify="right" if name else "left")
    for role, calls in estimate.by_role.items():
        table.add_row(f"calls of {role}", f"{calls.median:,.0f}", f"{calls.low:,.0f} to {calls.high:,.0f}", "")
    minutes = tuple(value / 60 for value in (estimate.seconds.median, estimate.seconds.low, estimate.seconds.high))
    for name, (median, low, high), limit in (
        ("calls", _values_of(estimate.calls), limits.calls),
        ("tokens", _values_of(estimate.tokens), limits.tokens),
        ("minutes", minutes, limits.minutes),
    ):
        digits = 1 if name == "minutes" and high < 100 else 0
        spread = f"{low:,.{digits}f} to {high:,.{digits}f}"
        table.add_row(name, f"{median:,.{digits}f}", spread, "" if limit is None else f"{limit:,g}")
    return table


def _values_of(found: Range) -> tuple[float, float, float]:
    return found.median, found.low, found.high


def _figure_lines(figures: Sequence[VariantSummary]) -> Iterator[tuple[str, list[str]]]:
    yield "score", [_interval(one.score, 3) for one in figures]
    for kind in figures[0].by_kind:
        yield (
            f"  of {kind} queries",
            [_interval(one.by_kind[kind], 3) if kind in one.by_kind else "" for one in figures],
        )
    for part in figures[0].parts:
        yield f"  reward {part}", [_interval(one.parts[part], 3) if part in one.parts else "" for one in figures]
    yield "ends by itself", [_interval(one.ends, 2) for one in figures]
    if not isnan(figures[0].refuses_unsafe.estimate):
        yield "refuses unsafe", [_interval(one.refuses_unsafe, 2) for one in figures]
    yield "refuses safe", [_interval(one.refuses_safe, 2) for one in figures]
    yield "queries", [str(one.rows) for one in figures]
    yield "words", [f"{one.words:.0f}" for one in figures]
    yield "prompt tokens", [f"{one.prompt_tokens:.0f}" for one in figures]


def _interval(interval: Interval, digits: int) -> str:
    return f"{interval.estimate:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"
