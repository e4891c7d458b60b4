"""Pieces of HTML for the report. All text that comes from models and data is escaped."""

import html
from collections.abc import Sequence
from typing import Any

from index.measures.confidence import Interval


def row(kind: str, *cells: str) -> str:
    """Return a row of a table, with cells of the kind `td` or `th`."""
    return "<tr>" + "".join(f"<{kind}>{cell}</{kind}>" for cell in cells) + "</tr>"


def interval_cell(values: Sequence[float | None]) -> str:
    """Return an estimate with the two ends of its interval."""
    if values[0] is None:
        return ""
    mean, low, high = (value or 0.0 for value in values)
    return f'{mean:.3f} <span class="range">[{low:.3f}, {high:.3f}]</span>'


def interval_values(interval: Interval) -> list[float | None]:
    """Return the estimate and the ends of an interval."""
    return [interval.estimate, interval.low, interval.high]


def text(value: Any) -> str:
    """Return a value as escaped text."""
    return html.escape(str(value))
