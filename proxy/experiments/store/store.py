"""The store of exposures and outcomes: writes them in batches, and deletes them.

This module does not depend on requests or statistics. SQLite serves the processes of one machine, PostgreSQL serves
several machines. Units and conversations are stored as keyed digests. The key is created with the store and kept in it,
so a digest is the same for all processes that use the store, and useless outside it.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from operator import attrgetter
from typing import Any, Final, Self

import orjson

from proxy.core.errors import StoreError
from proxy.experiments.records import Allocation, Content, Exposure, Feedback, Judgement
from proxy.experiments.store.dsn import Session, StoreDsn
from proxy.experiments.store.schema import (
    DELETE_ALLOCATION,
    DELETE_OLD,
    DELETE_UNIT,
    EXPOSURE_COLUMNS,
    EXPOSURES,
    FORMAT,
    INSERT_ABOUT,
    INSERT_ALLOCATION,
    INSERT_CONTENT,
    INSERT_EXPOSURE,
    INSERT_FEEDBACK,
    INSERT_JUDGEMENT,
    SCHEMA,
    SELECT_ABOUT,
    SELECT_ALLOCATIONS,
    add_missing_columns,
)

_UNIT_BYTES: Final = 16
_CONVERSATION_BYTES: Final = 8  # conversations are only compared within one unit


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one transaction."""

    exposures: Sequence[Exposure] = ()
    contents: Sequence[Content] = ()
    judgements: Sequence[Judgement] = ()
    feedback: Sequence[Feedback] = ()


class Store:
    """A connection that writes, for one thread. Use it as a context manager. Every method raises StoreError."""

    def __init__(self, dsn: StoreDsn) -> None:
        self._session = dsn.connect()
        try:
            self._key = _prepare(self._session, dsn)
        except BaseException:
            self._session.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    def write(self, batch: Batch) -> None:
        """Write a whole batch or nothing. Rows that exist stay as they are, so that a batch may be written again."""
        exposures = [self._row(exposure) for exposure in batch.exposures]
        times = {exposure.id: exposure.time for exposure in batch.exposures}
        contents = [(one.exposure, one.request_text, one.reply_text, times[one.exposure]) for one in batch.contents]
        judgements = [(one.exposure, one.other, one.score, one.judge, one.time) for one in batch.judgements]
        feedback = [(one.subject, one.metric, one.value, one.comment, one.time) for one in batch.feedback]
        with self._session.writing() as session:
            for statement, rows in (
                (INSERT_EXPOSURE, exposures),
                (INSERT_CONTENT, contents),
                (INSERT_JUDGEMENT, judgements),
                (INSERT_FEEDBACK, sorted(feedback, key=_feedback_order)),
            ):
                if rows:
                    session.execute_many(statement, rows)

    def _row(self, exposure: Exposure) -> Sequence[Any]:
        row = [int(value) if value.__class__ is bool else value for value in _COLUMNS(exposure)]
        row[_UNIT] = self._keyed_digest(exposure.unit, _UNIT_BYTES)
        row[_ASKED] = None if exposure.asked is None else self._keyed_digest(exposure.asked, _CONVERSATION_BYTES)
        return row

    def set_allocation(self, allocation: Allocation) -> None:
        """Save a decision about an experiment, for all replicas."""
        weights = None if allocation.weights is None else orjson.dumps(allocation.weights).decode()
        with self._session.writing() as session:
            session.execute(INSERT_ALLOCATION, (allocation.experiment, allocation.stopped, weights, allocation.time))

    def release(self, experiment: str) -> bool:
        """Delete the decision about an experiment. Return whether there was one."""
        with self._session.writing() as session:
            return session.execute(DELETE_ALLOCATION, (experiment,)) > 0

    def allocations(self) -> Mapping[str, Allocation]:
        """Return the decisions, by experiment."""
        with self._session.reading() as session:
            return read_allocations(session)

    def delete_unit(self, unit: bytes) -> int:
        """Delete everything that is recorded of a unit, named by its digest. Return the number of its requests."""
        stored_unit = self._keyed_digest(unit, _UNIT_BYTES)
        with self._session.writing() as session:
            return [session.execute(statement, (stored_unit,) * statement.count("?")) for statement in DELETE_UNIT][-1]

    def delete_before(self, time: float) -> int:
        """Delete some thousands of the rows that are older than `time`, oldest first.

        Returns:
            The number of deleted rows. 0 means that no older row is left.
        """
        with self._session.writing() as session:
            return sum(session.execute(statement, (time,)) for statement in DELETE_OLD)

    def _keyed_digest(self, digest: bytes, size: int) -> bytes:
        return blake2b(digest, key=self._key, digest_size=size).digest()


_COLUMNS: Final = attrgetter(*EXPOSURE_COLUMNS)
_UNIT: Final = EXPOSURE_COLUMNS.index("unit")
_ASKED: Final = EXPOSURE_COLUMNS.index("asked")


def _feedback_order(row: Sequence[Any]) -> tuple[str, str, float]:
    """All replicas update rows in this order, since a different order could cause a deadlock."""
    return row[0], row[1], row[4]


def _prepare(session: Session, dsn: StoreDsn) -> bytes:
    """Create what is missing in the database.

    Returns:
        The key of the digests.

    Raises:
        StoreError: The store has another format.
    """
    with session.writing():
        session.lock_schema()
        for statement in SCHEMA:
            session.execute(statement.format(**dsn.types))
        for statement in add_missing_columns(session.columns(EXPOSURES)):
            session.execute(statement.format(**dsn.types))
        session.execute(INSERT_ABOUT, ("format", FORMAT.encode()))
        session.execute(INSERT_ABOUT, ("key", secrets.token_bytes(32)))
        found = {name: bytes(next(iter(session.rows(SELECT_ABOUT, (name,))))[0]) for name in ("format", "key")}
    if found["format"] != FORMAT.encode():
        raise StoreError(f"--store: {dsn.name} has another format than this version reads: give it another place.")
    return found["key"]


def read_allocations(session: Session) -> Mapping[str, Allocation]:
    """Read the decisions about experiments, by name."""
    return {
        name: Allocation(name, stopped, None if weights is None else orjson.loads(weights), float(time))
        for name, stopped, weights, time in session.rows(SELECT_ALLOCATIONS)
    }
