"""Draws the picture of docs/benchmarks/load.md: added time to the first token against the arrival rate, by gateway."""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Final

from tests.bench.open_loop.figures import OURS, RELAY, ROUTER, TWO, Knees, Search
from tests.bench.open_loop.step import Step
from tests.bench.pictures.chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Scale, grid, picture

_COLOURS: Final[Mapping[str, str]] = {OURS: "#2563eb", TWO: "#0d9488", RELAY: "#9ca3af", ROUTER: "#d97706"}
_OTHER: Final = "#a855f7"
_LOW, _HIGH = 0.1, 1000.0  # ms; what is outside is drawn at the edge


def draw(knees: Knees) -> str:
    """Return the chart: for each gateway, a line for p99, a dashed line for p50, and a vertical line at its knee."""
    steps = {name: _steps(search) for name, search in knees.searches.items()}
    rates = [step.rate for found in steps.values() for step in found]
    x, ticks = _rate_scale(min(rates), max(rates))
    parts = [*grid(x, _y, ticks, (0.1, 1, 10, 100, 1000), "{:,g}"), *_titles(), *_bound(knees.bound)]
    for place, (name, search) in enumerate(knees.searches.items()):
        colour = _COLOURS.get(name, _OTHER)
        parts += [*_curves(steps[name], colour, x), *_knee(search.knee.rate, colour, x)]
        parts += _legend(name, search.knee.rate, colour, place)
    return picture("Added time to the first token (p50 and p99) against the arrival rate, by gateway", parts)


def _steps(search: Search) -> Sequence[Step]:
    """Return the steps of a gateway, by rate. Of two steps at one rate, only the better one counts, as in the
    search."""
    best: dict[float, Step] = {}
    for step in [*search.knee.steps, *([search.half] if search.half else [])]:
        best[step.rate] = min(step, best.get(step.rate, step), key=lambda one: one.p99)
    return [best[rate] for rate in sorted(best)]


def _rate_scale(low: float, high: float) -> tuple[Scale, Sequence[float]]:
    """Return a logarithmic scale from a little below `low` to a little above `high`, and its ticks."""
    start, stop = math.log(low / 1.1), math.log(high * 1.1)
    ticks = [tick for power in range(4) for digit in (1, 2, 5) if low <= (tick := digit * 10**power) <= high * 1.05]

    def x(rate: float) -> float:
        return LEFT + (math.log(rate) - start) / (stop - start) * (WIDTH - LEFT - RIGHT)

    return x, ticks


def _y(milliseconds: float) -> float:
    inside = min(max(milliseconds, _LOW), _HIGH)
    share = math.log(inside / _LOW) / math.log(_HIGH / _LOW)
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _titles() -> Iterator[str]:
    yield f'<text x="{LEFT}" y="22">added time to the first token in ms: p99, and p50 (dashed)</text>'
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield f'<text x="{middle}" y="{HEIGHT - 14}" text-anchor="middle">arrivals per second</text>'


def _bound(bound: float) -> Iterator[str]:
    right = WIDTH - RIGHT
    yield f'<line x1="{LEFT}" x2="{right}" y1="{_y(bound):.1f}" y2="{_y(bound):.1f}" stroke="#dc2626"/>'
    yield f'<text class="small" x="{LEFT + 6}" y="{_y(bound) - 5:.1f}">bound: {bound:g} ms</text>'


def _curves(steps: Sequence[Step], colour: str, x: Scale) -> Iterator[str]:
    for values, dash in (
        ([(step.rate, step.p99) for step in steps], ""),
        ([(step.rate, step.p50) for step in steps], ' stroke-dasharray="4 4"'),
    ):
        points = " ".join(f"{x(rate):.1f},{_y(value):.1f}" for rate, value in values)
        yield f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>'
    for step in steps:
        yield f'<circle cx="{x(step.rate):.1f}" cy="{_y(step.p99):.1f}" r="3" fill="{colour}"/>'


def _knee(rate: float, colour: str, x: Scale) -> Iterator[str]:
    if rate:
        at = f"{x(rate):.1f}"
        yield f'<line x1="{at}" x2="{at}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="{colour}" stroke-dasharray="1 3"/>'


def _legend(name: str, rate: float, colour: str, place: int) -> Iterator[str]:
    y = TOP + 20 + 18 * place
    yield f'<rect x="{LEFT + 12}" y="{y - 10}" width="12" height="12" fill="{colour}"/>'
    yield f'<text x="{LEFT + 30}" y="{y}">{escape(name)}: knee at {rate:.3g}/s</text>'
