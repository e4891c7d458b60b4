"""Draws the embedders' frontier: what a query's vector costs, against how many of the teacher's examples it finds.

What is drawn was measured by tests/bench/embedders.py, in one run. Knows no embedder.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from tests.bench.prefix_cache.plot import BOTTOM, HEIGHT, LEFT, RIGHT, STYLE, TOP, WIDTH

TICKS_X: Final = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
TICKS_Y: Final = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_GOAL_MS, _GOAL_OVERLAP = 0.4, 0.6

Scale = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class Point:
    """milliseconds: per query, p50; overlap: share of the nearest three, half: half of its 95 % interval."""

    name: str
    milliseconds: float
    overlap: float
    half: float
    ours: bool


def draw(points: Sequence[Point]) -> str:
    """An SVG, readable on light and on dark."""

    def x(milliseconds: float) -> float:
        low, high = math.log(TICKS_X[0]), math.log(TICKS_X[-1])
        return LEFT + (math.log(milliseconds) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(overlap: float) -> float:
        return HEIGHT - BOTTOM - overlap * (HEIGHT - TOP - BOTTOM)

    shown = [point for point in points if point.milliseconds >= TICKS_X[0]]
    parts = [*_grid(x, y), *(part for point in shown for part in _drawn(point, x, y))]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="Overlap with MiniLM against milliseconds per query, by embedder"><style>{STYLE}</style>'
        f"{''.join(parts)}</svg>\n"
    )


def _grid(x: Scale, y: Scale) -> Iterator[str]:
    for tick in TICKS_X:
        yield f'<line class="grid" x1="{x(tick):.1f}" y1="{TOP}" x2="{x(tick):.1f}" y2="{HEIGHT - BOTTOM}"/>'
        yield _text(x(tick), HEIGHT - BOTTOM + 18, f"{tick:g}", "middle")
    for tick in TICKS_Y:
        yield f'<line class="grid" x1="{LEFT}" y1="{y(tick):.1f}" x2="{WIDTH - RIGHT}" y2="{y(tick):.1f}"/>'
        yield _text(LEFT - 8, y(tick) + 4, f"{tick:.1f}", "end")
    yield _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, "milliseconds per query (p50, log scale)", "middle")
    yield _text(LEFT - 50, TOP - 18, "overlap@3 with float32 MiniLM", "start")
    left, low = x(TICKS_X[0]), y(_GOAL_OVERLAP)
    yield (
        f'<rect class="ours" opacity="0.08" x="{left:.1f}" y="{TOP}" width="{x(_GOAL_MS) - left:.1f}" '
        f'height="{low - TOP:.1f}"/>'
    )
    yield _text(left + 8, TOP + 18, "the goal: 0.6 at 0.4 ms", "start")


def _drawn(point: Point, x: Scale, y: Scale) -> Iterator[str]:
    at, high, low = x(point.milliseconds), y(point.overlap + point.half), y(point.overlap - point.half)
    yield f'<line class="bar" x1="{at:.1f}" y1="{high:.1f}" x2="{at:.1f}" y2="{low:.1f}"/>'
    yield f'<circle class="{"ours" if point.ours else "dot"}" cx="{at:.1f}" cy="{y(point.overlap):.1f}" r="5"/>'
    yield _text(at, y(point.overlap) + (22 if point.ours else -14), point.name, "middle", "name")


def _text(x: float, y: float, said: str, anchor: str, style: str = "small") -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(said)}</text>'
