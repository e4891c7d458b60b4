"""Reads the outcomes in a store for the statistics: one `UnitOutcomes` for each unit.

This module does not depend on the statistics.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from heapq import merge
from itertools import groupby
from typing import Any, Final

from proxy.experiments.definition import Metric
from proxy.experiments.records import REQUEST_FIELDS, Allocation, SumAndCount, UnitOutcomes
from proxy.experiments.store.dsn import Session, StoreDsn
from proxy.experiments.store.feedback_summary import FeedbackSummary, read_feedback
from proxy.experiments.store.schema import (
    BOUNDED_METRICS,
    COUNT_IMPOSSIBLE_EXPOSURES,
    COUNT_IMPOSSIBLE_RATINGS,
    MEASURED_METRICS,
    SELECT_MEASUREMENT_SUMS,
    SELECT_RATING_SUMS,
    SELECT_UNITS_BY_ARM,
)
from proxy.experiments.store.store import Store, read_allocations

_RATING_COLUMNS: Final = 3  # columns of SELECT_RATING_SUMS after the first three, which both queries share


class StoredOutcomes:
    """Implements `records.Outcomes` for a store. Each method call opens a connection and closes it."""

    def __init__(self, dsn: StoreDsn) -> None:
        self._dsn = dsn
        self._has_tables = False

    @contextmanager
    def _reading(self) -> Iterator[Session]:
        if not self._has_tables:
            Store(self._dsn).close()  # creates the tables if no process has written yet
            self._has_tables = True
        with closing(self._dsn.connect_to_read()) as session, session.reading():
            yield session

    def units(self, experiment: str) -> Iterator[UnitOutcomes]:
        """Yield the outcomes of the units of an experiment, in the order of the units' first requests.

        Two queries return rows in this order: one for measurements, one for ratings. Their rows are merged by unit.
        """
        with self._reading() as session:
            measurements = session.rows(SELECT_MEASUREMENT_SUMS, (experiment, experiment))
            ratings = session.rows(SELECT_RATING_SUMS, (experiment, experiment))
            for _, rows in groupby(merge(measurements, ratings, key=_unit_key), key=_unit_key):
                yield _unit_outcomes(list(rows))

    def units_by_arm(self, experiment: str) -> Mapping[str, int]:
        """Return the number of units in each arm of an experiment."""
        with self._reading() as session:
            return dict(map(tuple, session.rows(SELECT_UNITS_BY_ARM, (experiment,))))

    def left_out(self, experiment: str) -> Mapping[str, int]:
        """Return the number of stored values of an experiment that are left out, by metric (see `records.Outcomes`)."""
        with self._reading() as session:
            (exposures,) = session.rows(COUNT_IMPOSSIBLE_EXPOSURES, (experiment,))
            ratings = dict(map(tuple, session.rows(COUNT_IMPOSSIBLE_RATINGS, (experiment,) * 3)))
        counts = dict(zip((REQUEST_FIELDS, *BOUNDED_METRICS), exposures, strict=True)) | ratings
        return {name: int(count) for name, count in counts.items() if count}

    def feedback(self, experiment: str, metric: Metric) -> FeedbackSummary:
        """Return what users say about the latest requests of an experiment. `metric` rates the answers."""
        with self._reading() as session:
            return read_feedback(session, experiment, metric)

    def allocations(self) -> Mapping[str, Allocation]:
        """Return the decisions about experiments, by the experiment's name."""
        with self._reading() as session:
            return read_allocations(session)


def _unit_key(row: Sequence[Any]) -> tuple[float, bytes]:
    return row[0], _unit(row)


def _unit(row: Sequence[Any]) -> bytes:
    """Return the unit of a row. Another program may have written a text in place of the digest."""
    unit = row[1]
    return bytes(unit) if isinstance(unit, bytes | memoryview) else str(unit).encode()


def _unit_outcomes(rows: Sequence[Sequence[Any]]) -> UnitOutcomes:
    """Combine the rows of one unit. A row has the sums of all measured metrics, or the sum of one rated metric."""
    sums: tuple[dict[str, SumAndCount], dict[str, SumAndCount]] = {}, {}
    arm, propensity = "", 0.0
    for _, _, is_history, *rest in rows:
        if len(rest) == _RATING_COLUMNS:
            sums[is_history][rest[0]] = (float(rest[1]), int(rest[2]))
            continue
        arm, propensity, *measured = rest
        columns = zip(MEASURED_METRICS, measured[::2], measured[1::2], strict=True)
        sums[is_history].update({name: (float(total), int(count)) for name, total, count in columns if count})
    return UnitOutcomes(_unit(rows[0]).hex(), arm, propensity, rows[0][0], *sums)
