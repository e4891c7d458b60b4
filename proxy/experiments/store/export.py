"""All that a store has of one experiment, as plain values: for whoever wants to compute from the raw rows.

Content is there only where the operator had it logged (--log-content).
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, Final

from proxy.experiments.store.schema import EXPOSURE_COLUMNS, SELECT_EXPORT, SELECT_FEEDBACK_OF, SELECT_JUDGEMENTS_OF
from proxy.experiments.store.store import Place, Session

_CONTENT: Final = ("asked_text", "answered_text")
_FEEDBACK: Final = ("subject", "metric", "value", "comment", "time")
_JUDGEMENT: Final = ("exposure", "other", "score", "judge", "time")
_FLAGS: Final = frozenset({"override", "ended_by_itself", "truncated", "error", "client_gone"})


def export(place: Place, experiment: str) -> Iterator[dict[str, Any]]:
    """One object for each exposure, then for each word of feedback, then for each judgement; `type` says which.

    Digests are in hex, times in Unix seconds. All of one consistent state. Raises StoreError.
    """
    with closing(place.connect()) as session, session.reading():
        yield from _objects(session, "exposure", SELECT_EXPORT, experiment, (*EXPOSURE_COLUMNS, *_CONTENT))
        yield from _objects(session, "feedback", SELECT_FEEDBACK_OF, experiment, _FEEDBACK)
        yield from _objects(session, "judgement", SELECT_JUDGEMENTS_OF, experiment, _JUDGEMENT)


def _objects(
    session: Session, kind: str, statement: str, experiment: str, names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    for row in session.rows(statement, (experiment,) * statement.count("?")):
        named = zip(names, row, strict=True)
        yield {"type": kind, **{name: _plain(name, value) for name, value in named if _is_shown(name, value)}}


def _is_shown(name: str, value: Any) -> bool:
    return value is not None or name not in _CONTENT


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    return bool(value) if name in _FLAGS and value is not None else value
