"""Draws the pictures of README.md: injected tokens that are computed again against quality, by policy.

    python -m tests.bench.prefix_cache.plot        writes them into pictures/ from points.json in this folder

points.json holds measured figures and their sources. This module measures nothing.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from tests.bench.pictures.chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Scale, dot, grid, picture

HERE: Final = Path(__file__).parent
PICTURES: Final = HERE.parents[2] / "pictures"
TICKS_X: Final = (4, 8, 16, 32, 64, 128, 256, 512)


def main() -> None:
    for chart in json.loads((HERE / "points.json").read_text())["charts"]:
        (PICTURES / chart["picture"]).write_text(draw(chart["value"], chart["points"]))


def draw(value: str, points: Sequence[Mapping[str, Any]]) -> str:
    """Return the chart of the points. `value` names the vertical axis."""
    low = min(point["low"] for point in points)
    high = max(point["high"] for point in points)
    floor, ceiling = math.floor(low * 10) / 10, math.ceil(high * 10) / 10

    def x(tokens: float) -> float:
        share = (math.log(tokens) - math.log(TICKS_X[0])) / (math.log(TICKS_X[-1]) - math.log(TICKS_X[0]))
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - floor) / (ceiling - floor) * (HEIGHT - TOP - BOTTOM)

    ticks = [floor + n / 10 for n in range(round((ceiling - floor) * 10) + 1)]
    parts = [*grid(x, y, TICKS_X, ticks), *_titles(value), *(part for point in points for part in _point(point, x, y))]
    return picture(f"Uncached injected tokens against {escape(value)}, by policy", parts)


def _titles(value: str) -> Iterator[str]:
    yield f'<text x="{LEFT}" y="22">{escape(value)}</text>'
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield (
        f'<text x="{middle}" y="{HEIGHT - 14}" text-anchor="middle">injected tokens that vLLM computes anew for each '
        "request (blocks of 128)</text>"
    )


def _point(point: Mapping[str, Any], x: Scale, y: Scale) -> Iterator[str]:
    across, up, low, high = x(point["uncached"]), y(point["value"]), y(point["low"]), y(point["high"])
    default = bool(point.get("default"))
    yield from dot(across, up, low, high, ours=default, radius=6 if default else 5)
    anchor, shift = ("end", -10) if point.get("left") else ("start", 10)
    name = "name" if default else "small"
    yield (
        f'<text class="{name}" x="{across + shift:.1f}" y="{up + 4 + point.get("down", 0):.1f}" '
        f'text-anchor="{anchor}">{escape(point["name"])}</text>'
    )


if __name__ == "__main__":
    main()
