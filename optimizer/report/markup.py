"""Pieces of HTML for the report. All text that comes from models and data is escaped.

A text that people or models wrote can be in a script that runs from right to left, such as Arabic. So it has a
direction of its own: `isolated` inside a sentence, and the attribute `dir="auto"` in a block of its own.
"""

import html
from collections.abc import Iterable, Sequence
from typing import Any

from index.measures.confidence import Interval


def page(title: str, css: str, body: str) -> str:
    """Return a whole page."""
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
    head = f"<head>{meta}<title>{text(title)}</title><style>{css}</style></head>"
    return f'<!doctype html><html lang="en">{head}<body><main>{body}</main></body></html>\n'


def head_row(*cells: str) -> str:
    """Return the first row of a table, which says what the columns are."""
    return "<tr>" + "".join(f'<th scope="col">{cell}</th>' if cell else "<td></td>" for cell in cells) + "</tr>"


def row(name: str, *cells: str) -> str:
    """Return a row of a table, except the first row. Its first cell says what the row is about."""
    return f'<tr><th scope="row">{name}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def table(label: str, rows: Iterable[str], kind: str = "") -> str:
    """Return a table that can be scrolled sideways on a narrow screen, also with the keyboard.

    Args:
        label: What a screen reader calls the table.
        rows: The rows. `head_row` makes the first one, and `row` the others.
        kind: The class of the table in templates/report.css.
    """
    content = f'<table class="{kind}">{"".join(rows)}</table>'
    return f'<div class="wide" role="group" tabindex="0" aria-label="{text(label)}">{content}</div>'


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


def isolated(value: Any) -> str:
    """Return a value as escaped text with a direction of its own, for a place inside a sentence."""
    return f"<bdi>{text(value)}</bdi>"


def shortened(value: str, length: int) -> str:
    """Return the beginning of a text of at most `length` characters, as escaped text with a direction of its own."""
    return isolated(value if len(value) <= length else f"{value[:length].rstrip()}…")


def block(value: Any, kind: str = "text") -> str:
    """Return a value as an escaped block of text. The class `kind` is one of templates/report.css."""
    return f'<div class="{kind}" dir="auto">{text(value)}</div>'
