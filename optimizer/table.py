"""The measures as a table for people, and as plain values for files. Knows no answer and no rule."""

from rich.table import Table

from optimizer.evaluate import Evaluation
from optimizer.measures import Measure


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
