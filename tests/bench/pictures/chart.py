"""The common parts of the charts: size, style, grid, and a point with its interval. It contains no figures."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

WIDTH, HEIGHT = 760, 430
LEFT, RIGHT, TOP, BOTTOM = 70, 24, 40, 60
_STYLE: Final = (
    "text{font:13px system-ui,sans-serif;fill:#3b4252}.small{font-size:12px;fill:#6b7280}.grid{stroke:#d8dee9}"
    ".bar{stroke:#9aa5b8}.dot{fill:#7b8794}.ours{fill:#2563eb}.name{font-weight:600}"
    "@media(prefers-color-scheme:dark){text{fill:#e5e9f0}.small{fill:#aab4c4}.grid{stroke:#3b4252}.ours{fill:#60a5fa}}"
)

Scale = Callable[[float], float]


def picture(label: str, parts: Sequence[str]) -> str:
    """Return an SVG for light and dark backgrounds. `label` describes it to screen readers."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{label}"><style>{_STYLE}</style>'
        f"{''.join(parts)}</svg>\n"
    )


def grid(
    x: Scale, y: Scale, ticks_x: Sequence[float], ticks_y: Sequence[float], form_y: str = "{:.1f}"
) -> Iterator[str]:
    """Yield a line and a number at each tick. `form_y`: how the numbers of the y axis are written."""
    for tick in ticks_x:
        at = x(tick)
        yield f'<line class="grid" x1="{at:.1f}" y1="{TOP}" x2="{at:.1f}" y2="{HEIGHT - BOTTOM}"/>'
        yield f'<text class="small" x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{tick:g}</text>'
    for tick in ticks_y:
        at = y(tick)
        yield f'<line class="grid" x1="{LEFT}" y1="{at:.1f}" x2="{WIDTH - RIGHT}" y2="{at:.1f}"/>'
        yield f'<text class="small" x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{form_y.format(tick)}</text>'


def dot(at: float, value: float, low: float, high: float, *, ours: bool, radius: int) -> Iterator[str]:
    """Yield a point and its interval, all in pixels."""
    yield f'<line class="bar" x1="{at:.1f}" y1="{low:.1f}" x2="{at:.1f}" y2="{high:.1f}"/>'
    yield f'<circle class="{"ours" if ours else "dot"}" cx="{at:.1f}" cy="{value:.1f}" r="{radius}"/>'
