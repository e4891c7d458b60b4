"""Draws the frontier of README.md: what of the injected prompt is computed anew, against what the policy is worth.

    python -m tests.bench.prefix_cache.plot        writes pictures/prefix.svg from points.json beside this file

points.json holds figures that were measured, and says how; this measures nothing.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent
PICTURE: Final = HERE.parents[2] / "pictures" / "prefix.svg"
WIDTH, HEIGHT = 760, 430
LEFT, RIGHT, TOP, BOTTOM = 70, 24, 40, 60
TICKS_X: Final = (2, 4, 8, 16, 32, 64, 128, 256)
STYLE: Final = (
    "text{font:13px system-ui,sans-serif;fill:#3b4252}.small{font-size:12px;fill:#6b7280}.grid{stroke:#d8dee9}"
    ".bar{stroke:#9aa5b8}.dot{fill:#7b8794}.ours{fill:#2563eb}.name{font-weight:600}"
    "@media(prefers-color-scheme:dark){text{fill:#e5e9f0}.small{fill:#aab4c4}.grid{stroke:#3b4252}.ours{fill:#60a5fa}}"
)


def main() -> None:
    PICTURE.write_text(draw(json.loads((HERE / "points.json").read_text())["points"]))


def draw(points: Sequence[Mapping[str, Any]]) -> str:
    low = min(point["low"] for point in points)
    high = max(point["high"] for point in points)
    floor, ceiling = math.floor(low * 10) / 10, math.ceil(high * 10) / 10

    def x(tokens: float) -> float:
        share = (math.log(tokens) - math.log(TICKS_X[0])) / (math.log(TICKS_X[-1]) - math.log(TICKS_X[0]))
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - floor) / (ceiling - floor) * (HEIGHT - TOP - BOTTOM)

    ticks = [floor + n / 10 for n in range(round((ceiling - floor) * 10) + 1)]
    parts = [*_grid(x, y, ticks), *(part for point in points for part in _point(point, x, y))]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="Uncached injected tokens against balanced accuracy, by policy"><style>{STYLE}</style>'
        f"{''.join(parts)}</svg>\n"
    )


def _grid(x: Any, y: Any, ticks: Sequence[float]) -> Iterator[str]:
    for tick in TICKS_X:
        at = x(tick)
        yield f'<line class="grid" x1="{at:.1f}" y1="{TOP}" x2="{at:.1f}" y2="{HEIGHT - BOTTOM}"/>'
        yield f'<text class="small" x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{tick}</text>'
    for tick in ticks:
        at = y(tick)
        yield f'<line class="grid" x1="{LEFT}" y1="{at:.1f}" x2="{WIDTH - RIGHT}" y2="{at:.1f}"/>'
        yield f'<text class="small" x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{tick:.1f}</text>'
    yield f'<text x="{LEFT}" y="22">balanced accuracy on what is, or only sounds, unsafe (95 % interval)</text>'
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield (
        f'<text x="{middle}" y="{HEIGHT - 14}" text-anchor="middle">injected tokens that vLLM computes anew for each '
        "request (blocks of 128)</text>"
    )


def _point(point: Mapping[str, Any], x: Any, y: Any) -> Iterator[str]:
    across, up, low, high = x(point["uncached"]), y(point["value"]), y(point["low"]), y(point["high"])
    kind = "ours" if point.get("default") else "dot"
    yield f'<line class="bar" x1="{across:.1f}" y1="{low:.1f}" x2="{across:.1f}" y2="{high:.1f}"/>'
    yield f'<circle class="{kind}" cx="{across:.1f}" cy="{up:.1f}" r="{6 if point.get("default") else 5}"/>'
    anchor, shift = ("end", -10) if point.get("left") else ("start", 10)
    name = "name" if point.get("default") else "small"
    yield (
        f'<text class="{name}" x="{across + shift:.1f}" y="{up + 4 + point.get("down", 0):.1f}" '
        f'text-anchor="{anchor}">{escape(point["name"])}</text>'
    )


if __name__ == "__main__":
    main()
