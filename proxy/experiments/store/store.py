"""Where exposures and outcomes are kept: what is written, in whole batches, and what statistics read. Knows no request.

SQLite for the processes of one machine, PostgreSQL for several machines. Units and conversations are kept as keyed
digests, whose key is made with the store and lies in it alone: the same everywhere, and of no use elsewhere.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from heapq import merge
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, Protocol, Self
from urllib.parse import urlsplit

import orjson

from proxy.core.errors import StartupError, StoreError
from proxy.experiments.records import (
    Allocation,
    Content,
    Exposure,
    Feedback,
    JudgedUnit,
    Judgement,
    Tally,
    UnitOutcomes,
)
from proxy.experiments.store import sqlite as store_sqlite
from proxy.experiments.store.schema import (
    DELETE_OLD,
    DELETE_STEERING,
    DELETE_UNIT,
    EXPOSURE_COLUMNS,
    FORMAT,
    INSERT_ABOUT,
    INSERT_CONTENT,
    INSERT_EXPOSURE,
    INSERT_FEEDBACK,
    INSERT_JUDGEMENT,
    INSERT_STEERING,
    METRIC_COLUMNS,
    SCHEMA,
    SELECT_ABOUT,
    SELECT_EXPOSED,
    SELECT_JUDGED,
    SELECT_SAID,
    SELECT_STEERING,
    SELECT_UNITS,
)

_UNIT_BYTES: Final = 16
_ASKED_BYTES: Final = 8  # to be compared within one unit alone
_NARROW: Final = 3  # columns of what was said, beyond those that all rows have


class Session(Protocol):
    """One connection to a database; see store_sqlite and store_postgresql. Everything raises StoreError."""

    def writing(self) -> AbstractContextManager[Self]:
        """A transaction that is kept for good once it ends."""
        ...

    def reading(self) -> AbstractContextManager[Self]:
        """One consistent state."""
        ...

    def execute(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Run one statement; the number of rows that it changed."""
        ...

    def execute_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Insert each row, by a statement that does so for one; there is one at least."""
        ...

    def rows(self, statement: str, values: Sequence[Any] = ()) -> Iterator[Sequence[Any]]:
        """What it selects."""
        ...

    def lock_schema(self) -> None:
        """Keep others from making tables until the transaction ends."""
        ...

    def close(self) -> None:
        """End the connection."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where a store is. name: for people, without a password; types: what the database calls its types."""

    name: str
    connect: Callable[[], Session]
    types: Mapping[str, str]


def place_of(store: str) -> Place:
    """The place that --store names: sqlite:PATH or a postgresql:// URL. Raises StartupError; it shows no password."""
    kind, _, path = store.partition(":")
    if kind == "sqlite" and path:
        file = Path(path).expanduser()
        return Place(f"sqlite:{file}", partial(store_sqlite.SqliteSession, file), store_sqlite.TYPES)
    if kind in {"postgresql", "postgres"} and path.startswith("//"):
        from proxy.experiments.store import (
            postgresql as store_postgresql,  # here and not above: its driver takes 10 MB of memory
        )

        where = urlsplit(store)
        name = f"postgresql://{where.netloc.rpartition('@')[2]}{where.path}"
        return Place(name, partial(store_postgresql.PostgresqlSession, store), store_postgresql.TYPES)
    raise StartupError("--store: expected sqlite:PATH or postgresql://[USER@]HOST[:PORT]/DATABASE.")


@dataclass(frozen=True, slots=True)
class Batch:
    """What is written in one transaction."""

    exposures: Sequence[Exposure] = ()
    contents: Sequence[Content] = ()
    judgements: Sequence[Judgement] = ()
    feedback: Sequence[Feedback] = ()


class Store:
    """One connection that writes, for one thread. Use as `with`; everything raises StoreError."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._session = place.connect()
        try:
            self._key = _prepare(self._session, place)
        except BaseException:
            self._session.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._session.close()

    def write(self, batch: Batch) -> None:
        """Keep all of a batch, or nothing. What is there already stays, so that it may be tried again."""
        exposures = [self._row(exposure) for exposure in batch.exposures]
        times = {exposure.id: exposure.time for exposure in batch.exposures}
        contents = [(one.exposure, one.asked, one.answered, times[one.exposure]) for one in batch.contents]
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
        row[_UNIT] = self._keyed(exposure.unit, _UNIT_BYTES)
        row[_ASKED] = None if exposure.asked is None else self._keyed(exposure.asked, _ASKED_BYTES)
        return row

    def set_allocation(self, allocation: Allocation) -> None:
        """Decide about an experiment, for all replicas."""
        weights = None if allocation.weights is None else orjson.dumps(allocation.weights).decode()
        with self._session.writing() as session:
            session.execute(INSERT_STEERING, (allocation.experiment, allocation.stopped, weights, allocation.time))

    def release(self, experiment: str) -> bool:
        """Let an experiment run as its file says; whether anything was decided about it."""
        with self._session.writing() as session:
            return session.execute(DELETE_STEERING, (experiment,)) > 0

    def allocations(self) -> Mapping[str, Allocation]:
        """What was decided, by experiment."""
        with self._session.reading() as session:
            return _allocations(session)

    def delete_unit(self, unit: bytes) -> int:
        """Delete all that is kept of a unit, by its digest; the number of its requests."""
        kept = self._keyed(unit, _UNIT_BYTES)
        with self._session.writing() as session:
            return [session.execute(statement, (kept,) * statement.count("?")) for statement in DELETE_UNIT][-1]

    def delete_before(self, time: float) -> int:
        """Delete some thousands of what is older, oldest first; how many rows: 0 when nothing is left to delete."""
        with self._session.writing() as session:
            return sum(session.execute(statement, (time,)) for statement in DELETE_OLD)

    def _keyed(self, digest: bytes, size: int) -> bytes:
        return blake2b(digest, key=self._key, digest_size=size).digest()


_COLUMNS: Final = attrgetter(*EXPOSURE_COLUMNS)
_UNIT: Final = EXPOSURE_COLUMNS.index("unit")
_ASKED: Final = EXPOSURE_COLUMNS.index("asked")


def _feedback_order(row: Sequence[Any]) -> tuple[str, str, float]:
    """Replicas that touch the same rows do so in the same order, or each would wait for the other."""
    return row[0], row[1], row[4]


def _prepare(session: Session, place: Place) -> bytes:
    """Make what is missing; the key of the digests. Raises StoreError for a store of another format."""
    with session.writing():
        session.lock_schema()
        for statement in SCHEMA:
            session.execute(statement.format(**place.types))
        session.execute(INSERT_ABOUT, ("format", FORMAT.encode()))
        session.execute(INSERT_ABOUT, ("key", secrets.token_bytes(32)))
        found = {name: bytes(next(iter(session.rows(SELECT_ABOUT, (name,))))[0]) for name in ("format", "key")}
    if found["format"] != FORMAT.encode():
        raise StoreError(f"--store: {place.name} has another format than this version reads: give it another place.")
    return found["key"]


class StoredOutcomes:
    """What a store knows, for statistics: see outcomes.Outcomes. Each call is a connection of its own."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._is_made = False

    @contextmanager
    def _reading(self) -> Iterator[Session]:
        if not self._is_made:
            Store(self._place).close()  # nobody may have written yet
            self._is_made = True
        with closing(self._place.connect()) as session, session.reading():
            yield session

    def units(self, experiment: str) -> Iterator[UnitOutcomes]:
        """See Outcomes. Two queries in the same order, merged."""
        with self._reading() as session:
            wide = session.rows(SELECT_UNITS, (experiment, experiment))
            said = session.rows(SELECT_SAID, (experiment, experiment))
            for _, rows in groupby(merge(wide, said, key=_of_unit), key=_of_unit):
                yield _unit(list(rows))

    def exposed(self, experiment: str) -> Mapping[str, int]:
        """See Outcomes."""
        with self._reading() as session:
            return dict(map(tuple, session.rows(SELECT_EXPOSED, (experiment,))))

    def judged(self, experiment: str) -> Iterator[JudgedUnit]:
        """See Outcomes."""
        with self._reading() as session:
            for _, unit, arm, other, total, count in session.rows(SELECT_JUDGED, (experiment, experiment)):
                yield JudgedUnit(bytes(unit).hex(), arm, other, (float(total), int(count)))

    def allocations(self) -> Mapping[str, Allocation]:
        """See Outcomes."""
        with self._reading() as session:
            return _allocations(session)


def _allocations(session: Session) -> Mapping[str, Allocation]:
    return {
        name: Allocation(name, stopped, None if weights is None else orjson.loads(weights), float(time))
        for name, stopped, weights, time in session.rows(SELECT_STEERING)
    }


def _of_unit(row: Sequence[Any]) -> tuple[float, bytes]:
    return row[0], bytes(row[1])


def _unit(rows: Sequence[Sequence[Any]]) -> UnitOutcomes:
    """A unit from its rows: wide ones with the metrics of its requests, narrow ones with what was said of them."""
    tallies: tuple[dict[str, Tally], dict[str, Tally]] = {}, {}
    arm, propensity = "", 0.0
    for _, _, is_history, *rest in rows:
        if len(rest) == _NARROW:
            tallies[is_history][rest[0]] = (float(rest[1]), int(rest[2]))
            continue
        arm, propensity, *sums = rest
        pairs = zip(METRIC_COLUMNS, sums[::2], sums[1::2], strict=True)
        tallies[is_history].update({name: (float(total), int(count)) for name, total, count in pairs if count})
    return UnitOutcomes(bytes(rows[0][1]).hex(), arm, propensity, rows[0][0], *tallies)
