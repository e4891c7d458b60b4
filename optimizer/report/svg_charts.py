"""Draws two kinds of charts as SVG, a curve and bars, both with intervals. templates/report.css sets their colours."""

import html
from collections.abc import Sequence
from typing import Final

from index.measures.confidence import Interval

_WIDTH: Final = 420  # about the width of a phone in pixels, so that the labels can be read there
_CURVE_HEIGHT: Final = 220
_LEFT, _TOP, _BOTTOM = 48, 12, 28
_BAR_LEFT, _BAR_ROW = 96, 20


def draw_curve(points: Sequence[tuple[int, Interval]]) -> str:
    """Draw a curve through estimates from left to right, with a band that shows their intervals.

    Args:
        points: For each point, its number on the x axis (the level of the search), and its estimate with the interval.
    """
    low = min(interval.low for _, interval in points)
    high = max(interval.high for _, interval in points)
    span = (high - low) or 1.0

    def x(index: int) -> float:
        return _LEFT + (_WIDTH - _LEFT - 16) * (index + 0.5) / len(points)

    def y(value: float) -> float:
        return _TOP + (_CURVE_HEIGHT - _BOTTOM - _TOP) * (1 - (value - low) / span)

    ticks = "".join(_tick(value, y(value)) for value in (low, low + span / 2, low + span))
    upper = [f"{x(index):.1f},{y(interval.high):.1f}" for index, (_, interval) in enumerate(points)]
    lower = [f"{x(index):.1f},{y(interval.low):.1f}" for index, (_, interval) in enumerate(points)]
    middle = [f"{x(index):.1f},{y(interval.estimate):.1f}" for index, (_, interval) in enumerate(points)]
    band = f'<polygon class="band" points="{" ".join([*upper, *reversed(lower)])}"/>'
    line = f'<polyline class="curve" points="{" ".join(middle)}"/>'
    dots = "".join(
        _dot(number, x(index), (y(interval.estimate), y(interval.low), y(interval.high)))
        for index, (number, interval) in enumerate(points)
    )
    label = "lead of each level's best candidate over the best candidate before the level"
    return _svg(_CURVE_HEIGHT, label, ticks + band + line + dots)


def draw_bars(name: str, bars: Sequence[tuple[str, Interval]]) -> str:
    """Draw a bar from 0 to each estimate, with its interval. The first bar has another colour than the other bars.

    Args:
        name: What the bars show, for a screen reader.
        bars: For each bar, its label, and the estimate with its interval.
    """
    largest = max(1.0, *(interval.high for _, interval in bars))
    scale = (_WIDTH - _BAR_LEFT - 40) / largest
    drawn = "".join(_bar(index, title, interval, scale) for index, (title, interval) in enumerate(bars))
    values = ", ".join(f"{title} {interval.estimate:.2f}" for title, interval in bars)
    return _svg(8 + len(bars) * _BAR_ROW, f"{name}: {values}", drawn)


def _tick(value: float, y: float) -> str:
    line = f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - 8}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return f'{line}<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.2f}</text>'


def _dot(number: int, x: float, ys: tuple[float, float, float]) -> str:
    middle, low, high = ys
    return (
        f'<circle class="dot" cx="{x:.1f}" cy="{middle:.1f}" r="4"/>'
        f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
        f'<text x="{x:.1f}" y="{_CURVE_HEIGHT - 8}" text-anchor="middle">{number}</text>'
    )


def _bar(index: int, title: str, interval: Interval, scale: float) -> str:
    top = index * _BAR_ROW
    length = max(0.0, interval.estimate) * scale
    low, high = (_BAR_LEFT + max(0.0, value) * scale for value in (interval.low, interval.high))
    kind = "bar" if index else "bar bundle"
    return (
        f'<text x="{_BAR_LEFT - 8}" y="{top + 12}" text-anchor="end">{html.escape(title)}</text>'
        f'<rect class="{kind}" x="{_BAR_LEFT}" y="{top}" width="{length:.1f}" height="14"/>'
        f'<line class="whisker" x1="{low:.1f}" x2="{high:.1f}" y1="{top + 7}" y2="{top + 7}"/>'
        f'<text x="{high + 6:.1f}" y="{top + 12}">{interval.estimate:.2f}</text>'
    )


def _svg(height: int, label: str, content: str) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{html.escape(label)}">{content}</svg>'
