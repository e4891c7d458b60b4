"""Formats results as tables for a terminal, as a Markdown table, or as plain values."""

from collections.abc import Iterator, Sequence
from math import isnan

from rich.table import Table

from index.counted import counted
from index.measures.confidence import Interval
from optimizer.core.budget import Limits
from optimizer.estimation.estimate import Estimate, Range
from optimizer.evaluation.evaluate import Evaluation
from optimizer.evaluation.measures import Measure
from optimizer.stages.sealed_result import SealedResult, VariantSummary


def evaluation_table(evaluation: Evaluation, title: str) -> Table:
    """Return a table with a row per measure and a column per variant. The values in brackets are 95 % intervals."""
    table = Table(title=title, title_justify="left")
    table.add_column("measure")
    for variant in evaluation.variants:
        table.add_column(variant, justify="right")
    for line in zip(*evaluation.variants.values(), strict=True):
        table.add_row(line[0].name, *(measure_text(measure) for measure in line))
    return table


def evaluation_markdown(evaluation: Evaluation) -> str:
    """Return the table of `evaluation_table`, without its title, in Markdown."""
    names = list(evaluation.variants)
    lines = [["measure", *names], ["---"] * (len(names) + 1)]
    lines += [[line[0].name, *map(measure_text, line)] for line in zip(*evaluation.variants.values(), strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def evaluation_values(evaluation: Evaluation) -> dict[str, object]:
    """Return the evaluation as a nested dict: the name of a variant, the name of a measure, then the measure's values.

    The values of a measure have the keys `estimate`, `low`, `high` and `trials`. A measure that counts answers also has
    the key `hits`.
    """
    return {
        variant: {measure.name: _measure_values(measure) for measure in measures}
        for variant, measures in evaluation.variants.items()
    }


def measure_text(measure: Measure) -> str:
    """Return a measure as text: estimate, interval and, if the measure counts answers, hits/trials.

    An example is `0.97 [0.90, 0.99] 58/60`.
    """
    text = _interval_text(measure.interval, 2 if measure.is_share else 0)
    return text if measure.hits is None else f"{text} {measure.hits}/{measure.trials}"


def sealed_table(result: SealedResult) -> Table:
    """Return a table of the sealed evaluation with a row per figure and a column per variant.

    The values in brackets are 95 % intervals. The last rows compare the bundle with the variant of the column. Only the
    column of the baseline can have a value in the row `judge prefers bundle`.
    """
    table = Table(
        title=f"sealed evaluation, {counted(result.rows, 'query')} that no earlier step has used", title_justify="left"
    )
    table.add_column("figure")
    for name in result.summaries:
        table.add_column(name, justify="right")
    for label, cells in _summary_rows(list(result.summaries.values())):
        table.add_row(label, *cells)
    comparisons = [result.against.get(name) for name in result.summaries]
    table.add_section()
    differences = ("" if one is None else _interval_text(one.difference, 3) for one in comparisons)
    table.add_row("bundle is better by", *differences)
    if (preferred := result.against["baseline"].preferred) is not None:
        table.add_row("judge prefers bundle", "", _interval_text(preferred, 2))
    table.add_row("bundle wins", *("" if one is None else f"{one.wins:.0%}" for one in comparisons))
    return table


def estimate_table(estimate: Estimate, limits: Limits) -> Table:
    """Return a table of the expected cost of a run, with 90 % intervals. The last column shows the budget's limits."""
    table = Table(title="what this run will cost", title_justify="left")
    for name in ("", "median", "90 % interval", "budget"):
        table.add_column(name, justify="right" if name else "left")
    for role, calls in estimate.by_role.items():
        table.add_row(f"calls of {role}", *_range_cells(calls, 0), "")
    seconds = estimate.seconds
    minutes = Range(seconds.median / 60, seconds.low / 60, seconds.high / 60)
    table.add_row("calls", *_range_cells(estimate.calls, 0), _limit_text(limits.calls))
    table.add_row("tokens", *_range_cells(estimate.tokens, 0), _limit_text(limits.tokens))
    if estimate.money.high:
        table.add_row("money", *_range_cells(estimate.money, 2), _limit_text(limits.money))
    table.add_row("minutes", *_range_cells(minutes, 1 if minutes.high < 100 else 0), _limit_text(limits.minutes))
    return table


def budget_note(estimate: Estimate, limits: Limits) -> str:
    """Return what the budget does to the run; empty if the upper end of each interval is within the budget."""
    minutes = limits.minutes
    pairs = {
        "calls": (limits.calls, estimate.calls),
        "tokens": (limits.tokens, estimate.tokens),
        "money": (limits.money, estimate.money),
        "minutes": (None if minutes is None else minutes * 60, estimate.seconds),
    }
    exceeded = {
        name: limit < need.low for name, (limit, need) in pairs.items() if limit is not None and limit < need.high
    }
    if not exceeded:
        return ""
    verb = "will probably" if any(exceeded.values()) else "may"
    return (
        f"These are the costs of a search that no limit ends. The budget ({', '.join(exceeded)}) {verb} end it early. "
        "The run then evaluates the best candidate so far."
    )


def _measure_values(measure: Measure) -> dict[str, object]:
    interval = measure.interval
    values: dict[str, object] = {
        "estimate": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "trials": measure.trials,
    }
    return values if measure.hits is None else {**values, "hits": measure.hits}


def _summary_rows(summaries: Sequence[VariantSummary]) -> Iterator[tuple[str, list[str]]]:
    """Yield the label and the cells of each row of the table.

    There is a row for each kind of query and for each reward in the first summary.
    """
    first = summaries[0]
    yield "score", [_interval_text(one.score, 3) for one in summaries]
    for kind in first.by_kind:
        cells = [_interval_text(one.by_kind[kind], 3) if kind in one.by_kind else "" for one in summaries]
        yield f"  of {kind} queries", cells
    for part in first.parts:
        yield f"  reward {part}", [_interval_text(one.parts[part], 3) if part in one.parts else "" for one in summaries]
    yield "ends by itself", [_interval_text(one.ends, 2) for one in summaries]
    if not isnan(first.refuses_unsafe.estimate):
        yield "refuses unsafe", [_interval_text(one.refuses_unsafe, 2) for one in summaries]
    yield "refuses safe", [_interval_text(one.refuses_safe, 2) for one in summaries]
    yield "queries", [str(one.rows) for one in summaries]
    yield "words", [f"{one.words:.0f}" for one in summaries]
    yield "prompt tokens", [f"{one.prompt_tokens:.0f}" for one in summaries]


def _range_cells(values: Range, digits: int) -> tuple[str, str]:
    return f"{values.median:,.{digits}f}", f"{values.low:,.{digits}f} to {values.high:,.{digits}f}"


def _limit_text(limit: float | None) -> str:
    return "" if limit is None else f"{limit:,g}"


def _interval_text(interval: Interval, digits: int) -> str:
    return f"{interval.estimate:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"
