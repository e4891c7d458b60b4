"""Exports all rows of one experiment from a store as plain values, for analysis with other software.

This module imports no module that computes statistics (proxy/experiments/analysis). The texts of requests and replies
are included only if they were stored (--store-content).
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, Final

from proxy.experiments.automatic_metrics import AUTOMATIC_METRICS
from proxy.experiments.store.dsn import Session, StoreDsn
from proxy.experiments.store.schema import (
    EXPOSURE_COLUMNS,
    EXPOSURES,
    JUDGEMENTS,
    SELECT_EXPORTED_FEEDBACK,
    select_exported_exposures,
    select_exported_judgements,
)

_CONTENT: Final = ("asked_text", "answered_text")
_OTHER_REPLY: Final = "other_text"
_LOGGED: Final = frozenset({*_CONTENT, _OTHER_REPLY})
_FEEDBACK: Final = ("subject", "metric", "value", "comment", "time")
_JUDGEMENT: Final = ("exposure", "other", "score", "judge", "time", _OTHER_REPLY)
_FLAGS: Final = frozenset({"override", *(metric.name for metric in AUTOMATIC_METRICS.values() if metric.is_flag)})


def export(dsn: StoreDsn, experiment: str) -> Iterator[dict[str, Any]]:
    """Yield dictionaries for the exposures of an experiment, then for their feedback, then for their judgements.

    All rows come from one consistent state of the store. The value of `type` is `exposure`, `feedback` or `judgement`.
    Ids of exposures, and hashes such as that of the unit, are hexadecimal strings. Times are in Unix seconds.

    Raises:
        StoreError: The store cannot be read.
    """
    with closing(dsn.connect_to_read()) as session, session.reading():
        exposures = select_exported_exposures(session.columns(EXPOSURES))
        yield from _objects(session, "exposure", exposures, experiment, (*EXPOSURE_COLUMNS, *_CONTENT))
        yield from _objects(session, "feedback", SELECT_EXPORTED_FEEDBACK, experiment, _FEEDBACK)
        judgements = select_exported_judgements(session.columns(JUDGEMENTS))
        yield from _objects(session, "judgement", judgements, experiment, _JUDGEMENT)


def _objects(
    session: Session, kind: str, statement: str, experiment: str, names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    for row in session.rows(statement, (experiment,) * statement.count("?")):
        named = zip(names, row, strict=True)
        yield {"type": kind, **{name: _plain(name, value) for name, value in named if _is_exported(name, value)}}


def _is_exported(name: str, value: Any) -> bool:
    return value is not None or name not in _LOGGED


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    return bool(value) if name in _FLAGS and value is not None else value
