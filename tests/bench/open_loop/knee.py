"""Finds the knee: the highest arrival rate that a gateway serves well. This module has no I/O and no clock."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.bench.open_loop.step import Step

_MIN_COMPLETED: Final = 0.98  # of the streams that are due
# A step whose only fault is a p99 above the bound, but at most this many times the bound, is measured once more.
_NEAR: Final = 2.0
# If the client starts its requests later than this share of the bound, a step says nothing about the gateway.
_MAX_LATE: Final = 0.2
# If client and backend use more than this share of a core, a step says nothing about the gateway.
_MAX_BUSY: Final = 0.9


@dataclass(frozen=True, slots=True)
class Criteria:
    """The criteria for a rate below the knee, and the limits of the search.

    Attributes:
        bound: The largest 99th percentile of the added time to the first token, in milliseconds.
        smallest: The lowest rate that is tried.
        largest: The highest rate that is tried.
        closeness: The search ends when the lowest rate above the knee is at most this many times the highest rate below
            it.
    """

    bound: float = 50.0
    smallest: float = 1.0
    largest: float = 800.0
    closeness: float = 1.1


@dataclass(frozen=True, slots=True)
class Knee:
    """What a search found.

    Attributes:
        rate: The highest rate below the knee; 0 if there is none.
        reason: Why the next rate is above the knee.
        is_limit: Whether the gateway is the limit. If not, client and backend are, and the knee is higher than `rate`.
        steps: Everything that was measured, by rate.
    """

    rate: float
    reason: str
    is_limit: bool
    steps: tuple[Step, ...]


def fault(step: Step, criteria: Criteria) -> str | None:
    """Return why the rate of a step is above the knee; None if it is below the knee."""
    if step.failed:
        return f"{step.failed} requests failed"
    if step.degraded:
        return f"{step.degraded} requests were degraded"
    if step.p99 > criteria.bound:
        return f"p99 of the added time: {step.p99:.0f} ms"
    if step.completed < _MIN_COMPLETED:
        return f"only {step.completed:.0%} of the streams ended in time"
    return None


def is_client_the_limit(step: Step, criteria: Criteria) -> bool:
    """Return whether client or backend were too slow, so that the step says nothing about the gateway."""
    return step.late_p99 > _MAX_LATE * criteria.bound or step.busy > _MAX_BUSY


def find(measure: Callable[[float], Step], first: float, criteria: Criteria) -> Knee:
    """Double the rate until it is above the knee. Then halve the interval, on a logarithmic scale.

    Args:
        measure: Measures a rate.
        first: The first rate.
        criteria: When a rate is below the knee.
    """
    steps: list[Step] = []
    below, above, reason = 0.0, math.inf, "no higher rate was tried"
    rate = first
    while criteria.smallest <= rate <= criteria.largest and above > below * criteria.closeness:
        step = _settled(measure, rate, criteria, steps)
        if is_client_the_limit(step, criteria):
            return Knee(below, "client and backend are the limit", is_limit=False, steps=_by_rate(steps))
        found = fault(step, criteria)
        if found is None:
            below = rate
        else:
            above, reason = rate, f"at {rate:.3g}/s: {found}"
        rate = _next(below, above)
    return Knee(below, reason, is_limit=above < math.inf, steps=_by_rate(steps))


def _settled(measure: Callable[[float], Step], rate: float, criteria: Criteria, steps: list[Step]) -> Step:
    """Measure a rate. If it misses only the bound, and not by much, measure it again, and return the better step."""
    step = measure(rate)
    steps.append(step)
    misses_narrowly = criteria.bound < step.p99 <= _NEAR * criteria.bound and not step.failed and not step.degraded
    if not misses_narrowly:
        return step
    steps.append(measure(rate))
    return min(steps[-2:], key=lambda one: one.p99)


def _next(below: float, above: float) -> float:
    if math.isinf(above):
        return 2 * below
    return math.sqrt(below * above) if below else above / 2


def _by_rate(steps: list[Step]) -> tuple[Step, ...]:
    return tuple(sorted(steps, key=lambda step: step.rate))
