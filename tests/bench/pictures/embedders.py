"""Draws the embedders by time per query and by share of the teacher's examples that they find.

tests/bench/embedders.py measures the figures, in one run. This module does not depend on the embedders.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from tests.bench.pictures.chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Scale, dot, grid, picture

TICKS_X: Final = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
TICKS_Y: Final = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_GOAL_MS, _GOAL_OVERLAP = 0.4, 0.6


@dataclass(frozen=True, slots=True)
class Point:
    """One embedder.

    Attributes:
        name: The label.
        milliseconds: Median time per query.
        overlap: Share of the teacher's three nearest examples that it finds.
        half: Half of the 95 % interval of `overlap`.
        ours: Whether this project ships it.
    """

    name: str
    milliseconds: float
    overlap: float
    half: float
    ours: bool


def draw(points: Sequence[Point]) -> str:
    """An SVG for light and dark backgrounds."""

    def x(milliseconds: float) -> float:
        low, high = math.log(TICKS_X[0]), math.log(TICKS_X[-1])
        return LEFT + (math.log(milliseconds) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(overlap: float) -> float:
        return HEIGHT - BOTTOM - overlap * (HEIGHT - TOP - BOTTOM)

    shown = (point for point in points if point.milliseconds >= TICKS_X[0])
    dots = (part for point in shown for part in _drawn(point, x, y))
    parts = [*grid(x, y, TICKS_X, TICKS_Y), *_titles_and_goal(x, y), *dots]
    return picture("Overlap with MiniLM against milliseconds per query, by embedder", parts)


def _titles_and_goal(x: Scale, y: Scale) -> Iterator[str]:
    yield _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, "milliseconds per query (p50, log scale)", "middle")
    yield _text(LEFT - 50, TOP - 18, "overlap@3 with float32 MiniLM", "start")
    left, low = x(TICKS_X[0]), y(_GOAL_OVERLAP)
    yield (
        f'<rect class="ours" opacity="0.08" x="{left:.1f}" y="{TOP}" width="{x(_GOAL_MS) - left:.1f}" '
        f'height="{low - TOP:.1f}"/>'
    )
    yield _text(left + 8, TOP + 18, "the goal: 0.6 at 0.4 ms", "start")


def _drawn(point: Point, x: Scale, y: Scale) -> Iterator[str]:
    at, value = x(point.milliseconds), y(point.overlap)
    low, high = y(point.overlap - point.half), y(point.overlap + point.half)
    yield from dot(at, value, low, high, ours=point.ours, radius=5)
    yield _text(at, value + (22 if point.ours else -14), point.name, "middle", "name")


def _text(x: float, y: float, text: str, anchor: str, style: str = "small") -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
