"""Converts the units of an experiment to arrays, and checks the sizes of the arms. It does not depend on SQL."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import scipy  # imports scipy.stats, which takes a second, when it is first used
from numpy.typing import NDArray

from proxy.experiments.analysis.report import SampleRatio
from proxy.experiments.analysis.sequential import Floats, p_value, sample_ratio_log_evidence
from proxy.experiments.automatic_metrics import MAX_VALUE
from proxy.experiments.definition import MIN_PROPENSITY
from proxy.experiments.records import SumAndCount, UnitOutcomes

SAMPLE_RATIO_LEVEL: Final = 0.01  # a p-value below this level blocks the verdict
MIN_MAGNITUDE: Final = 1e-12  # a smaller mean of a unit counts as 0: its inverse square would be larger than any float
_MIN_RATE_SPAN: Final = 60.0  # minimum seconds between the first and the last unit for a rate
_DAY: Final = 86_400.0  # seconds
_NO_VALUE: Final[SumAndCount] = (math.nan, 0)


@dataclass(frozen=True, slots=True)
class Samples:
    """The units of an experiment as arrays, in the order of their first request.

    Attributes:
        arms: Names of the arms.
        arm: Index of each unit's arm in `arms`, of shape (units,).
        propensities: Probability of each arm for each unit, of shape (units, arms). Rows sum to 1.
        times: Time of each unit's first request in Unix seconds, of shape (units,).
        values: By name of the metric: mean over each unit's requests in the experiment, of shape (units,). NaN for a
            unit without a value.
        history: By name of the metric: mean over each unit's requests before its first request in the experiment, of
            shape (units,). NaN for a unit without a value.
        shares: Names of the metrics whose values are all 0 or 1, as far as the sums of the units tell.
    """

    arms: tuple[str, ...]
    arm: NDArray[np.intp]
    propensities: Floats
    times: Floats
    values: dict[str, Floats]
    history: dict[str, Floats]
    shares: frozenset[str]

    def __len__(self) -> int:
        return len(self.arm)

    @property
    def weights(self) -> Floats:
        """The weight of each unit: 1 / propensity of the unit's arm, of shape (units,)."""
        return np.asarray(1 / self.propensities[np.arange(len(self)), self.arm])

    def first(self, count: int) -> "Samples":
        """Return the first `count` units."""
        return Samples(
            self.arms,
            self.arm[:count],
            self.propensities[:count],
            self.times[:count],
            {name: values[:count] for name, values in self.values.items()},
            {name: values[:count] for name, values in self.history.items()},
            self.shares,
        )


def collect_samples(units: Iterable[UnitOutcomes], arms: Sequence[str], metrics: Sequence[str]) -> Samples:
    """Collect the units that are in one of these arms, and leave out all others. `units` may be in any order.

    Units whose time or propensity cannot be right are left out too. A mean that cannot be right counts as unknown.
    """
    possible = (unit for unit in units if unit.arm in arms and _is_possible(unit))
    rows = sorted(possible, key=lambda unit: (unit.first_seen, unit.unit))
    arm = np.array([arms.index(unit.arm) for unit in rows], np.intp)
    propensity = np.array([unit.propensity for unit in rows], np.float64)
    return Samples(
        tuple(arms),
        arm,
        _propensities(arm, propensity, len(arms)),
        np.array([unit.first_seen for unit in rows], np.float64),
        {name: _unit_means(unit.metrics.get(name, _NO_VALUE) for unit in rows) for name in metrics},
        {name: _unit_means(unit.history.get(name, _NO_VALUE) for unit in rows) for name in metrics},
        frozenset(name for name in metrics if _is_share([unit.metrics.get(name, _NO_VALUE) for unit in rows])),
    )


def units_per_day(samples: Samples) -> float | None:
    """Return the average number of new units per day. None for fewer than two units, or if all came within a minute."""
    if len(samples) < 2 or samples.times[-1] - samples.times[0] < _MIN_RATE_SPAN:
        return None
    return float((len(samples) - 1) / (samples.times[-1] - samples.times[0]) * _DAY)


def _is_possible(unit: UnitOutcomes) -> bool:
    return math.isfinite(unit.first_seen) and MIN_PROPENSITY <= unit.propensity <= 1


def _unit_means(sums: Iterable[SumAndCount]) -> Floats:
    means = np.array([total / count if count else math.nan for total, count in sums], np.float64)
    means[np.abs(means) < MIN_MAGNITUDE] = 0.0
    means[np.abs(means) > MAX_VALUE] = math.nan
    return means


def _is_share(sums: Sequence[SumAndCount]) -> bool:
    """Return whether there is a value, and each sum can be the sum of values that are 0 or 1."""
    known = [(total, count) for total, count in sums if count]
    return bool(known) and all(0 <= total <= count and total == int(total) for total, count in known)


def _propensities(arm: NDArray[np.intp], own: Floats, arms: int) -> Floats:
    """Estimate the propensities of all arms for each unit, since only the propensity of a unit's own arm is recorded.

    The remaining probability is divided among the other arms in proportion to their last recorded propensities. After a
    change of weights, an arm's last recorded propensity is out of date until the arm gets its next unit. Until then,
    its estimated propensity lies between the old value and the new one.

    Args:
        arm: Index of each unit's arm, of shape (units,).
        own: Propensity of each unit's own arm, of shape (units,).
        arms: Number of arms.
    """
    table = np.full((len(own), arms), np.nan)
    table[np.arange(len(own)), arm] = own
    for column in table.T:
        _fill_unknown(column)
    rows = np.arange(len(own))
    table[rows, arm] = 0.0
    others = table.sum(axis=1, keepdims=True)
    equal = np.ones_like(table)
    equal[rows, arm] = 0.0
    table, others = np.where(others > 0, table, equal), np.where(others > 0, others, equal.sum(axis=1, keepdims=True))
    table *= (1 - own)[:, None] / others
    table[rows, arm] = own
    return table


def _fill_unknown(column: Floats) -> None:
    """Replace each NaN by the last known value before it, else by the first known value, else by 0."""
    known = np.flatnonzero(~np.isnan(column))
    if not len(known):
        column[:] = 0.0
        return
    index = np.maximum(np.searchsorted(known, np.arange(len(column)), side="right") - 1, 0)
    column[:] = column[known[index]]


def sample_ratio(samples: Samples, *, adaptive: bool) -> SampleRatio:
    """Test whether the arms have the sizes that the propensities predict.

    Args:
        samples: The units.
        adaptive: Whether the weights of the arms depend on outcomes. If they do, the chi-square test is left out.
    """
    counts = np.bincount(samples.arm, minlength=len(samples.arms))
    expected = samples.propensities.sum(axis=0)
    p_anytime = p_value(sample_ratio_log_evidence(samples.arm, samples.propensities))
    possible = expected > 0
    p_fixed = None
    if not adaptive and possible.sum() > 1:
        p_fixed = float(scipy.stats.chisquare(counts[possible], expected[possible]).pvalue)
    return SampleRatio(
        dict(zip(samples.arms, counts.tolist(), strict=True)),
        dict(zip(samples.arms, expected.tolist(), strict=True)),
        p_anytime,
        p_fixed,
        p_anytime < SAMPLE_RATIO_LEVEL,
    )
