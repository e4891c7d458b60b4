"""Writes the tables of docs/benchmarks/load.md, and its picture, from the measured figures. It measures nothing."""

import statistics
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.bench.open_loop.chart import draw
from tests.bench.open_loop.figures import MIX, OURS, ROUTER, TWO, Cpu, Figures, Knees, Search, read

ROOT: Final = Path(__file__).parents[3]
PAGE: Final = ROOT / "docs" / "benchmarks" / "load.md"
PICTURE: Final = ROOT / "pictures" / "knee.svg"
BEGIN, END = "<!-- open loop: begin -->\n", "<!-- open loop: end -->\n"
MISSING: Final = "to be measured on a quiet machine"
# The goals: the maximum of the added time in ms, the minimum of our knee divided by the router's knee, and the maximum
# of the CPU time of two workers divided by the CPU time of one worker.
MAX_ADDED, MIN_OF_ROUTER, MAX_OF_ONE_WORKER = 15.0, 0.8, 1.1


def update(figures: Figures) -> None:
    """Write the picture, if there are knees, and the tables of the page."""
    if figures.knees:
        PICTURE.write_text(draw(figures.knees), encoding="utf-8")
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), figures), encoding="utf-8")


def written(text: str, figures: Figures) -> str:
    """Return the text of the page with new tables."""
    before, rest = text.split(BEGIN)
    parts = [goals(figures), knees(figures.knees), cpu(figures.cpu)]
    return before + BEGIN + "\n" + "\n".join(parts) + "\n" + END + rest.split(END)[1]


def goals(figures: Figures) -> str:
    """Return the table of the goals, with the measured figures."""
    searches = figures.knees.searches if figures.knees else {}
    ours, router = searches.get(OURS), searches.get(ROUTER)
    rows = [
        ("p99 of the added time at half of the knee", f"at most {MAX_ADDED:g} ms", _half_p99(ours)),
        ("failed and degraded requests below the knee", "none", _faults_below(ours)),
        ("the knee", f"at least {MIN_OF_ROUTER} of vllm-router's", _of_router(ours, router)),
        ("CPU per request with two workers", f"at most {MAX_OF_ONE_WORKER} of one worker's", _of_one(figures)),
    ]
    return _table(("what", "goal", "measured"), rows)


def knees(found: Knees | None) -> str:
    """Return the knee of each gateway, and the figures at half of it."""
    if found is None:
        return f"**Knees and times: {MISSING}.**\n"
    lines = f"![Added time to the first token against the arrival rate](../../pictures/{PICTURE.name})\n\n"
    rows = [(name, *_knee_row(search)) for name, search in found.searches.items()]
    head = ("gateway", "knee, requests/s", "why not more")
    half = ("added time at half of the knee: p50", "p99", "straight to the backend: p99", "gap between tokens: p99")
    return lines + _table((*head, *half, "CPU per request there"), rows) + f"\n{_source(found)}\n"


def cpu(found: Cpu | None) -> str:
    """Return the table of the CPU time per request, by kind of request."""
    if found is None:
        return f"**CPU time: {MISSING}.**\n"
    rows = [
        (name, *(_spread([one for one in by_shape[shape] if one is not None]) for shape in found.rates))
        for name, by_shape in found.milliseconds.items()
    ]
    rates = [f"{shape} ({rate:g} requests/s)" for shape, rate in found.rates.items()]
    return _table(("CPU time of the gateway for one request", *rates), rows) + f"\n{_source(found)}\n"


def ratios(found: Cpu, one: str, other: str, shape: str = MIX.name) -> list[float]:
    """Return the CPU time of one gateway divided by that of another one, turn by turn."""
    pairs = zip(found.milliseconds[one][shape], found.milliseconds[other][shape], strict=True)
    return [ours / theirs for ours, theirs in pairs if ours is not None and theirs is not None]


def _half_p99(search: Search | None) -> str:
    if search is None or search.half is None:
        return MISSING
    return f"{search.half.p99:.1f} ms: {_verdict(search.half.p99 <= MAX_ADDED)}"


def _faults_below(search: Search | None) -> str:
    """Return the cell about faults at half of the knee. By definition, there are none at the knee itself."""
    if search is None or search.half is None:
        return MISSING
    failed, degraded = search.half.failed, search.half.degraded
    return f"{failed} failed, {degraded} degraded at half of the knee: {_verdict(failed + degraded == 0)}"


def _of_router(ours: Search | None, router: Search | None) -> str:
    if not ours or not router or not router.knee.rate:
        return MISSING
    ratio = ours.knee.rate / router.knee.rate
    if not router.knee.is_limit:
        return f"not decided: the router's knee is higher than {router.knee.rate:.3g}/s, the most that was tried"
    more = "" if ours.knee.is_limit else "more than "
    return f"{more}{ratio:.2f}: {_verdict(ratio >= MIN_OF_ROUTER)}"


def _of_one(figures: Figures) -> str:
    """Compare the CPU time of two workers and one, at half of the knee and at the knee, or in the CPU table.

    The goal is met if it is met at both rates. The half counts only if both were measured at the same rate. The knee is
    the highest rate that both serve well.
    """
    by_rate = _cpu_of_both(figures.knees)
    if by_rate:
        both_rates = [*_half_of_both(figures.knees), max(by_rate.items())]
        cells = [f"{two / one:.2f} at {rate:.3g} requests/s" for rate, (one, two) in both_rates]
        return f"{', '.join(cells)}: {_verdict(all(two <= MAX_OF_ONE_WORKER * one for _, (one, two) in both_rates))}"
    both = figures.cpu and {OURS, TWO} <= figures.cpu.milliseconds.keys()
    found = ratios(figures.cpu, TWO, OURS) if figures.cpu and both else []
    if not found:
        return MISSING
    middle = statistics.median(found)
    turns = f"median of {len(found)} turns, {min(found):.2f} to {max(found):.2f}"
    return f"{middle:.2f} ({turns}): {_verdict(middle <= MAX_OF_ONE_WORKER)}"


def _cpu_of_both(found: Knees | None) -> Mapping[float, tuple[float, float]]:
    """Return the CPU time per request with one worker and with two, by rates that are below the knees of both."""
    if not found or not {OURS, TWO} <= found.searches.keys():
        return {}
    one, two = (
        {step.rate: step.cpu for step in found.searches[name].knee.steps if step.rate <= found.searches[name].knee.rate}
        for name in (OURS, TWO)
    )
    return {rate: (one[rate], two[rate]) for rate in one.keys() & two.keys()}


def _half_of_both(found: Knees | None) -> Sequence[tuple[float, tuple[float, float]]]:
    """Return the rate at half of the knees and the CPU times of one worker and of two; nothing if the rates differ."""
    if not found or not {OURS, TWO} <= found.searches.keys():
        return ()
    one, two = found.searches[OURS].half, found.searches[TWO].half
    return () if one is None or two is None or one.rate != two.rate else ((one.rate, (one.cpu, two.cpu)),)


def _verdict(is_met: bool) -> str:
    return "met" if is_met else "**missed**"


def _knee_row(search: Search) -> Sequence[str]:
    knee, half = search.knee, search.half
    rate = f"{'' if knee.is_limit else 'more than '}{knee.rate:.3g}"
    if half is None:
        return (rate, knee.reason, *[""] * 5)
    times = (half.p50, half.p99, half.direct_p99, half.gap_p99, half.cpu)
    return (rate, knee.reason, *(f"{time:.1f} ms" for time in times))


def _spread(values: Sequence[float]) -> str:
    if not values:
        return MISSING
    digits = 2 if statistics.median(values) < 10 else 1
    low, middle, high = (f"{one:.{digits}f}" for one in (min(values), statistics.median(values), max(values)))
    return f"{middle} ms" if len(values) == 1 else f"{middle} ms ({low} to {high})"


def _source(found: Knees | Cpu) -> str:
    text = f"Measured on {found.date} on {found.machine}: `{found.command}`."
    return textwrap.fill(text, 120, break_on_hyphens=False, break_long_words=False)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head)]
    lines += [["---"] * len(lines[0]), *(list(row) for row in rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


if __name__ == "__main__":
    update(read())
