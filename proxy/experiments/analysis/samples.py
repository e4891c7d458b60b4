"""The units of an experiment as arrays, oldest first, and whether they are in the arms that they should be in. Pure."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from proxy.experiments.analysis.report import SampleRatio
from proxy.experiments.analysis.sequential import Floats, p_value, sample_ratio_log_evidence
from proxy.experiments.records import Tally, UnitOutcomes

SAMPLE_RATIO_LEVEL: Final = 0.01
_NONE: Final[Tally] = (math.nan, 0)


@dataclass(frozen=True, slots=True)
class Assigned:
    """Units, oldest first. arms: names; arm: (units,) index into them; propensities: (units, arms), rows sum to 1: what
    each unit could have been assigned; times: Unix seconds; values, history: by metric, (units,), a unit's own mean,
    NaN where it has none."""

    arms: tuple[str, ...]
    arm: NDArray[np.intp]
    propensities: Floats
    times: Floats
    values: dict[str, Floats]
    history: dict[str, Floats]

    def __len__(self) -> int:
        return len(self.arm)

    @property
    def weights(self) -> Floats:
        """(units,): one over the propensity of the unit's own arm."""
        return np.asarray(1 / self.propensities[np.arange(len(self)), self.arm])

    def first(self, count: int) -> "Assigned":
        """The oldest units."""
        return Assigned(
            self.arms,
            self.arm[:count],
            self.propensities[:count],
            self.times[:count],
            {name: values[:count] for name, values in self.values.items()},
            {name: values[:count] for name, values in self.history.items()},
        )


def assigned(units: Iterable[UnitOutcomes], arms: Sequence[str], metrics: Iterable[str]) -> Assigned:
    """The units that are in one of these arms. Their order does not matter."""
    rows = sorted((unit for unit in units if unit.arm in arms), key=lambda unit: (unit.first_seen, unit.unit))
    arm = np.array([arms.index(unit.arm) for unit in rows], np.intp)
    own = np.array([unit.propensity for unit in rows], np.float64)
    return Assigned(
        tuple(arms),
        arm,
        _propensities(arm, own, len(arms)),
        np.array([unit.first_seen for unit in rows], np.float64),
        {name: _means(unit.metrics.get(name, _NONE) for unit in rows) for name in metrics},
        {name: _means(unit.history.get(name, _NONE) for unit in rows) for name in metrics},
    )


def _means(tallies: Iterable[Tally]) -> Floats:
    return np.array([total / count if count else math.nan for total, count in tallies], np.float64)


def _propensities(arm: NDArray[np.intp], own: Floats, arms: int) -> Floats:
    """What each unit could have been assigned, from what each was, and how probable that was.

    Of the other arms, the last known propensities share what is left. So the few units that come between a change of
    weights and the first unit of an arm after it get something between the old weights and the new.
    """
    table = np.full((len(own), arms), np.nan)
    table[np.arange(len(own)), arm] = own
    for column in table.T:
        _fill(column)
    rows = np.arange(len(own))
    table[rows, arm] = 0.0
    others = table.sum(axis=1, keepdims=True)
    even = np.ones_like(table)
    even[rows, arm] = 0.0
    table, others = np.where(others > 0, table, even), np.where(others > 0, others, even.sum(axis=1, keepdims=True))
    table *= (1 - own)[:, None] / others
    table[rows, arm] = own
    return table


def _fill(column: Floats) -> None:
    """Where a propensity is not known it is the last known one, or else the first; 0 where none is."""
    known = np.flatnonzero(~np.isnan(column))
    if not len(known):
        column[:] = 0.0
        return
    place = np.maximum(np.searchsorted(known, np.arange(len(column)), side="right") - 1, 0)
    column[:] = column[known[place]]


def sample_ratio(units: Assigned, *, adaptive: bool) -> SampleRatio:
    """Whether the arms have the sizes that the propensities lead one to expect."""
    counts = np.bincount(units.arm, minlength=len(units.arms))
    expected = units.propensities.sum(axis=0)
    p_anytime = p_value(sample_ratio_log_evidence(units.arm, units.propensities))
    possible = expected > 0
    p_fixed = None
    if not adaptive and possible.sum() > 1:
        p_fixed = float(stats.chisquare(counts[possible], expected[possible]).pvalue)
    return SampleRatio(
        dict(zip(units.arms, counts.tolist(), strict=True)),
        dict(zip(units.arms, expected.tolist(), strict=True)),
        p_anytime,
        p_fixed,
        p_anytime < SAMPLE_RATIO_LEVEL,
    )
