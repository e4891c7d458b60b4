"""Writes and deletes the records of experiments in a store, and reads the decisions about experiments.

This module does not depend on requests or statistics. Processes on one machine can share an SQLite store. Processes on
several machines can share a PostgreSQL store. Units and conversations are stored as keyed digests. Each store has its
own random key, which is saved in the store. Therefore all processes that use a store compute the same digests, but a
digest in one store cannot be compared with a digest in another store.
"""

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from operator import attrgetter
from typing import Any, Final, Self

import orjson

from proxy.core.errors import StoreError
from proxy.experiments.automatic_metrics import MAX_VALUE
from proxy.experiments.records import Allocation, Content, Exposure, Feedback, Judgement
from proxy.experiments.store.dsn import Session, StoreDsn
from proxy.experiments.store.schema import (
    DELETE_ALLOCATION,
    DELETE_OLD,
    DELETE_SURPLUS,
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
    JUDGEMENTS,
    SCHEMA,
    SELECT_ABOUT,
    SELECT_ALLOCATIONS,
    SELECT_SURPLUS,
    add_missing_columns,
    select_recorded,
)

_UNIT_BYTES: Final = 16
_MAX_IDS: Final = 400  # ids in one query, which has each id twice; every build of SQLite accepts 999 values
_CONVERSATION_BYTES: Final = 8  # short, since a conversation is only compared with conversations of the same unit


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows that one transaction writes. For each content, the batch must also contain its exposure."""

    exposures: Sequence[Exposure] = ()
    contents: Sequence[Content] = ()
    judgements: Sequence[Judgement] = ()
    feedback: Sequence[Feedback] = ()


class Store:
    """A connection that reads and writes the store, for use in one thread. Use it as a context manager.

    The constructor creates missing tables. If the store cannot be used, the constructor raises StartupError or
    StoreError, and the methods raise StoreError.
    """

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
        """Write a whole batch in one transaction.

        The same batch may be written twice: exposures, contents and judgements that are already stored stay unchanged.
        Feedback replaces stored feedback with the same subject and metric, unless the stored feedback is more recent.
        """
        exposures = [self._row(exposure) for exposure in batch.exposures]
        times = {exposure.id: exposure.time for exposure in batch.exposures}
        contents = [(one.exposure, one.request_text, one.reply_text, times[one.exposure]) for one in batch.contents]
        judgements = [
            (one.exposure, one.other, one.score, one.judge, one.time, one.other_reply) for one in batch.judgements
        ]
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

    def recorded(self, subjects: Collection[str]) -> frozenset[str]:
        """Return those ids that are the request id or the completion id of a stored exposure."""
        ids, found = sorted(subjects), set[str]()
        with self._session.reading() as session:
            for begin in range(0, len(ids), _MAX_IDS):
                asked = ids[begin : begin + _MAX_IDS]
                found |= {str(one) for (one,) in session.rows(select_recorded(len(asked)), (*asked, *asked))}
        return frozenset(found)

    def _row(self, exposure: Exposure) -> Sequence[Any]:
        row = [int(value) if value.__class__ is bool else value for value in _COLUMNS(exposure)]
        row[_UNIT] = self._keyed_digest(exposure.unit, _UNIT_BYTES)
        row[_ASKED] = None if exposure.asked is None else self._keyed_digest(exposure.asked, _CONVERSATION_BYTES)
        return row

    def set_allocation(self, allocation: Allocation) -> None:
        """Save a decision in place of the previous decision about the same experiment. All replicas will read it."""
        weights = None if allocation.weights is None else orjson.dumps(allocation.weights).decode()
        with self._session.writing() as session:
            session.execute(INSERT_ALLOCATION, (allocation.experiment, allocation.stopped, weights, allocation.time))

    def release(self, experiment: str) -> bool:
        """Delete the decision about an experiment. Return whether a decision was stored."""
        with self._session.writing() as session:
            return session.execute(DELETE_ALLOCATION, (experiment,)) > 0

    def allocations(self) -> Mapping[str, Allocation]:
        """Return the decisions about experiments, by the name of the experiment."""
        with self._session.reading() as session:
            return read_allocations(session)

    def delete_unit(self, unit: bytes) -> int:
        """Delete all records of a unit. Return the number of its deleted exposures.

        Args:
            unit: Digest of the unit from the module `units`. This method applies the key of the store.
        """
        stored_unit = self._keyed_digest(unit, _UNIT_BYTES)
        with self._session.writing() as session:
            return [session.execute(statement, (stored_unit,) * statement.count("?")) for statement in DELETE_UNIT][-1]

    def delete_before(self, time: float) -> int:
        """Delete rows that are older than `time`, oldest first. One call deletes at most 5,000 rows of each table.

        Args:
            time: Unix seconds.

        Returns:
            The number of deleted rows. 0 means that no older row is left.
        """
        with self._session.writing() as session:
            return sum(session.execute(statement, (time,)) for statement in DELETE_OLD)

    def delete_surplus(self, kept: int) -> int:
        """Delete all but the latest `kept` requests in no experiment, with their texts and their feedback.

        One call deletes at most 5,000 requests, oldest first.

        Returns:
            The number of deleted requests. 0 means that there are no more than `kept`.
        """
        with self._session.writing() as session:
            newest = next(iter(session.rows(SELECT_SURPLUS, (kept,))), None)
            if newest is None:
                return 0
            return [session.execute(one, tuple(newest) * one.count("?")) for one in DELETE_SURPLUS][-1]

    def _keyed_digest(self, digest: bytes, size: int) -> bytes:
        return blake2b(digest, key=self._key, digest_size=size).digest()


_COLUMNS: Final = attrgetter(*EXPOSURE_COLUMNS)
_UNIT: Final = EXPOSURE_COLUMNS.index("unit")
_ASKED: Final = EXPOSURE_COLUMNS.index("asked")


def _feedback_order(row: Sequence[Any]) -> tuple[str, str, float]:
    """Return the sort key of a row of feedback.

    All replicas write feedback in the same order. Different orders could cause a deadlock.
    """
    return row[0], row[1], row[4]


def _prepare(session: Session, dsn: StoreDsn) -> bytes:
    """Create missing tables and columns. Save the format and a random key if the store is new.

    Returns:
        The key with which digests are computed.

    Raises:
        StoreError: The format of the store is not the one that this version reads, or the database failed.
    """
    with session.writing():
        session.lock_schema()
        for statement in SCHEMA:
            session.execute(statement.format(**dsn.types))
        for statement in add_missing_columns(session.columns(EXPOSURES), session.columns(JUDGEMENTS)):
            session.execute(statement.format(**dsn.types))
        session.execute(INSERT_ABOUT, ("format", FORMAT.encode()))
        session.execute(INSERT_ABOUT, ("key", secrets.token_bytes(32)))
        found = {name: bytes(next(iter(session.rows(SELECT_ABOUT, (name,))))[0]) for name in ("format", "key")}
    if found["format"] != FORMAT.encode():
        raise StoreError(f"--store: {dsn.name} has a format that this version does not read. Name another place.")
    return found["key"]


def read_allocations(session: Session) -> Mapping[str, Allocation]:
    """Read the decisions about experiments, by the experiment's name. Weights that are not valid are left out."""
    return {
        name: Allocation(name, stopped, _read_weights(weights), time if isinstance(time, float) else 0.0)
        for name, stopped, weights, time in session.rows(SELECT_ALLOCATIONS)
    }


def _read_weights(text: str | None) -> Mapping[str, float] | None:
    try:
        weights = orjson.loads(text or "null")
    except orjson.JSONDecodeError:
        return None
    values = weights.values() if isinstance(weights, dict) else ()
    is_valid = all(isinstance(value, int | float) and 0 <= value <= MAX_VALUE for value in values)
    return weights if values and is_valid else None
